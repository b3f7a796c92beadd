// A trained language model for inference: packs the weights once, reads a text in one call, and draws a series of ids
// without leaving the library. headgate.h documents the arguments.
//
// Letters: T steps, B batch, E embedding, H hidden size, L layers, V vocabulary, O rows of the head; w vector lanes.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "forward.h"
#include "level.h"
#include "sampler.h"

namespace headgate {
namespace HEADGATE_LEVEL {
namespace {

// An owned array, aligned to cache lines.
template <class T> class Array {
 public:
  Array() = default;
  explicit Array(int64_t n) : data_(static_cast<T*>(std::aligned_alloc(64, (size_t(n) * sizeof(T) + 127) / 64 * 64))) {
    if (!data_) throw std::bad_alloc();
  }
  Array(Array&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }
  Array& operator=(Array&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~Array() { std::free(data_); }
  T* get() const { return data_; }

 private:
  T* data_ = nullptr;
};

// A model with weights packed as P: float, Bfloat or int8_t. Embedding, table of ids and biases stay floats.
template <class P> class PackedModel : public Model {
  static constexpr int w = width<float>;

 public:
  using Layer = Forward<float, P>;

  explicit PackedModel(const headgate_weights& from)
      : V_(from.V), E_(from.E), H_(from.H), L_(from.layers), O_(from.O), reset_(from.reset), OV_((O_ + w - 1) / w) {
    if (E_) {
      embedding_ = Array<float>(V_ * E_);
      std::memcpy(embedding_.get(), from.embedding, size_t(V_ * E_) * sizeof(float));
    }
    layers_ = std::unique_ptr<Array<char>[]>(new Array<char>[size_t(L_)]);
    for (int64_t l = 0; l < L_; ++l) {
      headgate_gru g = describe(l, 0, 0, 1);
      g.weight_ih = from.weight_ih[l], g.weight_hh = from.weight_hh[l];
      g.bias_ih = from.bias_ih[l], g.bias_hh = from.bias_hh[l];
      const Sequence<float> q(g);
      layers_[size_t(l)] = Array<char>(Packed<float, P>::bytes(q, true));
      Packed<float, P>(layers_[size_t(l)].get(), q, true).fill(q, 0, 1);
    }
    head_ = Array<P>(OV_ * vector_stride<float, P>(H_));
    head_bias_ = Array<float>(OV_ * w);
    head_scale_ = Array<float>(OV_ * w);
    for (int64_t v = 0; v < OV_; ++v) {
      const float* rows[w];
      for (int j = 0; j < w; ++j) {
        const int64_t word = v * w + j;
        rows[j] = word < O_ ? from.head_weight + word * H_ : nullptr;
        head_bias_.get()[word] = word < O_ ? from.head_bias[word] : 0;
      }
      pack_lanes_as(rows, H_, head_.get() + v * vector_stride<float, P>(H_), head_scale_.get() + v * w);
    }
  }

  int64_t vocabulary() const override { return V_; }

  void read(int64_t T, int64_t B, int threads, const int64_t* ids, float* state, float* outputs) const override {
    Workspace workspace;
    Team team(useful(threads, B));
    float* between = L_ > 1 ? workspace.get<float>(T * B * H_) : nullptr;
    float* embedded = E_ ? workspace.get<float>(T * B * E_) : nullptr;
    float* last = workspace.get<float>(B * H_);
    if (E_) embed(T * B, ids, embedded);
    for (int64_t l = 0; l < L_; ++l) {
      // Layers alternate between two buffers, so that none reads the one it writes; the last layer writes outputs.
      float* states = (L_ - 1 - l) % 2 ? between : outputs;
      headgate_gru g = describe(l, T, B, team.size());
      g.ids = ids, g.x = l ? ((L_ - l) % 2 ? between : outputs) : embedded;
      g.h0 = state + l * B * H_, g.states = states, g.last = last;
      Layer(g, team, workspace).run();
      std::memcpy(state + l * B * H_, last, size_t(B * H_) * sizeof(float));
    }
  }

  void logits(int64_t N, int threads, const float* outputs, float* logits) const override {
    Workspace workspace;
    Team team(useful(threads, N));
    const float** rows = workspace.get<const float*>(N + 1);
    for (int64_t i = 0; i < N; ++i) rows[i] = outputs + i * H_;
    float* sums = workspace.get<float>(sums_size<float>(H_) * team.size());
    team.run([&](int index) {
      apply_head(N, rows, part(OV_, index, team.size()), sums + sums_size<float>(H_) * index, logits);
    });
  }

  void step(int64_t B, int threads, const int64_t* ids, float* state, float* logits) const override {
    Workspace workspace;
    Team team(useful(threads, B));
    float* to = workspace.get<float>(L_ * B * H_);
    float* embedded = E_ ? workspace.get<float>(B * E_) : nullptr;
    if (E_) embed(B, ids, embedded);
    const Step step(*this, B, ids, embedded, state, to, team, workspace);
    team.run([&](int index) { step.make(index, logits); });
    std::memcpy(state, to, size_t(L_ * B * H_) * sizeof(float));
  }

  void generate(const headgate_sampling& how, int64_t n, int threads, const double* uniform, const uint8_t* forbidden,
                uint8_t* seen, float* logits, float* state, int64_t* ids) const override {
    Workspace workspace;
    Team team(useful(threads, 1));
    Sampler sampler(how, V_, forbidden, seen, workspace);
    float* other = workspace.get<float>(L_ * H_);
    float* embedded = E_ ? workspace.get<float>(E_) : nullptr;
    int64_t id = 0;
    const Step there(*this, 1, &id, embedded, state, other, team, workspace);
    const Step back(*this, 1, &id, embedded, other, state, team, workspace);
    team.run([&](int index) {
      for (int64_t i = 0; i < n; ++i) {
        if (index == 0) {
          id = ids[i] = sampler.draw(logits, uniform ? uniform[i] : 0);
          seen[id] = 1;
          if (E_) embed(1, &id, embedded);
        }
        meet(team);
        (i % 2 ? back : there).make(index, logits);
        meet(team);
      }
    });
    if (n % 2) std::memcpy(state, other, size_t(L_ * H_) * sizeof(float));
  }

 private:
  // For few rows, no more threads than have a few hundred kilobytes of weights each to read; one for tiny models.
  int useful(int threads, int64_t rows) const {
    const int64_t weights = 3 * H_ * H_ * L_ + H_ * O_, work = weights * (rows < 4 ? 1 : rows / 2);
    const int64_t most = 1 + work / 50000, units = (H_ + w - 1) / w / 2;
    return int(std::max<int64_t>(1, least(least(threads, most), units)));
  }

  headgate_gru describe(int64_t l, int64_t T, int64_t B, int threads) const {
    headgate_gru g = {};
    g.T = T, g.B = B, g.I = l ? H_ : E_ ? E_ : V_, g.H = H_;
    g.reset = reset_, g.threads = threads, g.one_hot = !l && !E_, g.invariant = 1;
    g.x_t = B * g.I, g.x_b = g.I;
    g.packed = layers_[size_t(l)].get();
    return g;
  }

  static void meet(Team& team) {
    if (team.size() > 1) team.barrier().wait();
  }

  void embed(int64_t n, const int64_t* ids, float* to) const {
    for (int64_t i = 0; i < n; ++i)
      std::memcpy(to + i * E_, embedding_.get() + ids[i] * E_, size_t(E_) * sizeof(float));
  }

  // One step of all layers and the head, from one state (L, B, H) to another, shared by all threads of a team.
  class Step {
   public:
    Step(const PackedModel& model, int64_t B, const int64_t* ids, const float* embedded, const float* from, float* to,
         Team& team, Workspace& workspace)
        : model_(model), B_(B), team_(team), rows_(workspace.get<const float*>(B)),
          sums_(workspace.get<float>(sums_size<float>(model.H_) * team.size())),
          arguments_(workspace.get<headgate_gru>(model.L_)),
          layers_(static_cast<Layer*>(workspace.bytes(size_t(model.L_) * sizeof(Layer)))) {
      for (int64_t l = 0; l < model.L_; ++l) {
        headgate_gru& g = arguments_[l];
        g = model.describe(l, 1, B, team.size());
        g.ids = ids, g.x = l ? to + (l - 1) * B * model.H_ : embedded;
        g.h0 = from + l * B * model.H_, g.states = to + l * B * model.H_;
        new (layers_ + l) Layer(g, team, workspace);
      }
      for (int64_t b = 0; b < B; ++b) rows_[b] = to + ((model.L_ - 1) * B + b) * model.H_;
    }

    void make(int index, float* logits) const {
      for (int64_t l = 0; l < model_.L_; ++l) {
        layers_[l].read(index);
        meet(team_);
      }
      model_.apply_head(B_, rows_, part(model_.OV_, index, team_.size()), sums_ + sums_size<float>(model_.H_) * index, logits);
    }

   private:
    const PackedModel& model_;
    const int64_t B_;
    Team& team_;
    const float** rows_;
    float* sums_;
    headgate_gru* arguments_;
    Layer* layers_;
  };

  void apply_head(int64_t N, const float* const* rows, Range words, float* sums, float* logits) const {
    multiply<1>(N, rows, H_, packed_columns<float>(static_cast<const P*>(head_.get()), H_), words.begin, words.end, sums,
                [&](int64_t v, int n, int64_t i, const float* sum) {
                  for (int64_t u = v; u < v + n; ++u, sum += w) {
                    Vec<float> x = load(sum);
                    if constexpr (std::is_same_v<P, int8_t>) x *= load(head_scale_.get() + u * w);
                    store_part(logits + i * O_ + u * w, x + load(head_bias_.get() + u * w), int(least(w, O_ - u * w)));
                  }
                });
  }

  const int64_t V_, E_, H_, L_, O_;
  const int32_t reset_;
  const int64_t OV_;  // vectors of the head's rows
  Array<float> embedding_, head_bias_, head_scale_;
  Array<P> head_;
  std::unique_ptr<Array<char>[]> layers_;
};

std::unique_ptr<Model> new_model(const headgate_weights& from) {
  switch (from.format) {
    case HEADGATE_BFLOAT16: return std::make_unique<PackedModel<Bfloat>>(from);
    case HEADGATE_INT8: return std::make_unique<PackedModel<int8_t>>(from);
    default: return std::make_unique<PackedModel<float>>(from);
  }
}

}  // namespace
}  // namespace HEADGATE_LEVEL
}  // namespace headgate
