// A fused linear head with softmax and cross-entropy, forward and backward; headgate.h documents the arguments.
//
//   logits = W h + b,   loss = log(sum(exp(logits))) - logits[target],   d logits = softmax(logits) - one_hot(target)
//
// Tokens are processed in chunks, so that only one chunk's logits exist at a time. For everything per token, threads
// share the tokens of a chunk; for the gradient of the weights, they share the rows of W.
//
// Letters: N tokens, H hidden size, V vocabulary; w lanes of a vector.
#pragma once

#include <cmath>
#include <cstring>

#include "activation.h"
#include "product.h"
#include "sequence.h"
#include "tiled_product.h"

namespace headgate {
namespace HEADGATE_LEVEL {
namespace {

constexpr int64_t logits_tokens = 256;  // largest chunk

// P: the type in which the weight is packed. on_tiles: its gradient is computed on matrix tiles.
template <class T, class P = T, bool on_tiles = std::is_same_v<P, Tile>> class Head {
  static constexpr int w = width<T>;

 public:
  explicit Head(const headgate_head& g)
      : g_(g), N_(g.N), H_(g.H), V_(g.V), VV_((V_ + w - 1) / w), HV_((H_ + w - 1) / w), team_(g.threads) {
    gradients_ = g.d_states || g.d_weight || g.d_bias;
    const int64_t chunks = 1 + (N_ - 1) / logits_tokens;
    chunk_ = N_ ? 1 + (N_ - 1) / chunks : 1;
    threads_ = team_.size();
    by_token_ = workspace_.get<P>(VV_ * vector_stride<T, P>(H_));
    if (g.d_states) by_word_ = workspace_.get<P>(HV_ * vector_stride<T, P>(V_));
    logits_ = workspace_.get<T>(chunk_ * VV_ * w);
    if (g.d_weight) states_ = workspace_.get<T>(HV_ * vector_stride<T>(chunk_));
    d_logits_ = workspace_.get<T>(VV_ * vector_stride<T>(chunk_));
    d_bias_ = workspace_.get<T>(2 * VV_ * w), d_bias_excess_ = d_bias_ + VV_ * w;
    if constexpr (on_tiles)
      if (g.d_weight) panels_ = workspace_.get<Tile>(HV_ * tiles_of_panel(chunk_));
    own_ = workspace_.get<Own>(threads_);
    for (int i = 0; i < threads_; ++i) {
      own_[i].sums = workspace_.get<T>(sums_size<T, P>(V_ > H_ ? V_ : H_, V_ > H_ ? VV_ : HV_));
      own_[i].rows = workspace_.get<const T*>((V_ > chunk_ ? V_ : chunk_) + 1);
      if constexpr (on_tiles) own_[i].panels = workspace_.get<Tile>((2 + VV_ / threads_) * tiles_of_panel(chunk_));
    }
  }

  void run() {
    team_.run([this](int index) {
      [[maybe_unused]] const std::conditional_t<on_tiles, TileUse, std::nullptr_t> use{};
      Own& my = own_[index];
      prepare(index, my);
      wait();
      bool first = true;
      int64_t begin = 0;
      do {
        const int64_t tokens = least(chunk_, N_ - begin);
        forward(begin, tokens, index, my);
        if (gradients_) {
          wait();
          weights(begin, tokens, index, my, first);
          wait();
        }
        first = false;
        begin += chunk_;
      } while (begin < N_);
      const Range words = part(VV_, index, threads_);
      for (int64_t v = words.begin; g_.d_bias && v < words.end; ++v)
        store_part(static_cast<T*>(g_.d_bias) + v * w, load(d_bias_ + v * w), int(least(w, V_ - v * w)));
    });
  }

 private:
  struct Own {  // a thread's memory
    T* sums;
    const T** rows;
    Tile* panels;
  };
  void wait() {
    if (threads_ > 1) team_.barrier().wait();
  }
  const T* state(int64_t i) const { return static_cast<const T*>(g_.states) + i * H_; }
  const T* weight(int64_t v) const { return static_cast<const T*>(g_.weight) + v * H_; }
  T* logits(int64_t i) const { return logits_ + i * VV_ * w; }

  void prepare(int index, Own& my) {
    const Range vectors = part(VV_, index, threads_);
    for (int64_t v = vectors.begin; v < vectors.end; ++v) {
      const T* from[w];
      for (int j = 0; j < w; ++j) from[j] = v * w + j < V_ ? weight(v * w + j) : nullptr;
      pack_lanes_as(from, H_, by_token_ + v * vector_stride<T, P>(H_), static_cast<T*>(nullptr));
    }
    if (by_word_) {
      for (int64_t v = 0; v < V_; ++v) my.rows[v] = weight(v);
      const Range columns = part(HV_, index, threads_);
      pack_columns(my.rows, V_, H_, columns.begin, columns.end, by_word_, vector_stride<T, P>(V_));
    }
    for (int64_t v = vectors.begin; v < vectors.end; ++v)
      store(d_bias_ + v * w, Vec<T>{}), store(d_bias_excess_ + v * w, Vec<T>{});
  }

  // For a thread's tokens of a chunk: logits, losses, and the gradients of logits (which replace them) and states.
  void forward(int64_t begin, int64_t tokens, int index, Own& my) {
    const Range share = part(chunk_, index, threads_);  // the same in every chunk: no other thread uses these logits
    const Range own = {least(share.begin, tokens), least(share.end, tokens)};
    const T* bias = static_cast<const T*>(g_.bias);
    for (int64_t i = own.begin; i < own.end; ++i) my.rows[i - own.begin] = state(begin + i);
    multiply<1>(own.size(), my.rows, H_, packed_columns<T>(static_cast<const P*>(by_token_), H_), 0, VV_, my.sums,
                [&](int64_t v, int n, int64_t i, const T* sums) {
                  for (int64_t u = v; u < v + n; ++u, sums += w) {
                    Vec<T> x = load(sums);
                    if (bias) x += load_part(bias + u * w, int(least(w, V_ - u * w)));
                    store(logits(own.begin + i) + u * w, x);
                  }
                });
    for (int64_t i = own.begin; i < own.end; ++i) softmax(logits(i), begin + i);
    if (!g_.d_states) return;
    for (int64_t i = own.begin; i < own.end; ++i) my.rows[i - own.begin] = logits(i);
    multiply<1>(own.size(), my.rows, V_, packed_columns<T>(static_cast<const P*>(by_word_), V_), 0, HV_, my.sums,
                [&](int64_t v, int n, int64_t i, const T* sums) {
                  T* to = static_cast<T*>(g_.d_states) + (begin + own.begin + i) * H_;
                  for (int64_t u = v; u < v + n; ++u, sums += w)
                    store_part(to + u * w, load(sums), int(least(w, H_ - u * w)));
                });
  }

  // One token's loss; replaces its logits by their gradient.
  void softmax(T* x, int64_t token) {
    const int64_t target = g_.targets[token];
    for (int64_t v = V_; v < VV_ * w; ++v) x[v] = -INFINITY;
    Vec<T> highest = load(x);
    for (int64_t v = w; v < VV_ * w; v += w) highest = larger(highest, load(x + v));
    T top = highest[0];
    for (int j = 1; j < w; ++j) top = highest[j] > top ? highest[j] : top;
    const T right = x[target] - top;
    constexpr int lanes = 16;  // independent of the width, for the same bits at every level with fma
    Vec<T> sum[lanes / w] = {};
    for (int64_t v = 0; v < VV_ * w; v += w) {
      const Vec<T> e = exponential<T>(load(x + v) - top);
      sum[v % lanes / w] += e;
      store(x + v, e);
    }
    T total = 0;
    for (int j = 0; j < lanes; ++j) total += sum[j / w][j % w];
    static_cast<T*>(g_.losses)[token] = std::log(total) - right;
    if (!gradients_) return;
    const T scale = T(g_.scale), factor = scale / total;
    for (int64_t v = 0; v < VV_ * w; v += w) store(x + v, load(x + v) * factor);
    x[target] -= scale;
  }

  // Adds a chunk's contribution to a thread's rows of the gradients of weight and bias.
  void weights(int64_t begin, int64_t tokens, int index, Own& my, bool first) {
    if (!g_.d_weight && !g_.d_bias) return;
    const Range words = part(VV_, index, threads_);
    const int64_t packed = vector_stride<T>(chunk_);
    for (int64_t i = 0; i < tokens; ++i) my.rows[i] = logits(i);
    pack_columns(my.rows, tokens, VV_ * w, words.begin, words.end, d_logits_, packed);
    for (int64_t v = words.begin; v < words.end; ++v)
      add_rows(tokens, d_logits_ + v * packed, d_bias_ + v * w, d_bias_excess_ + v * w);
    if (!g_.d_weight) return;
    for (int64_t i = 0; i < tokens; ++i) my.rows[i] = state(begin + i);
    const Range columns = part(HV_, index, threads_);
    pack_columns(my.rows, tokens, H_, columns.begin, columns.end, states_, packed);
    T* const d_weight = static_cast<T*>(g_.d_weight);
    if constexpr (on_tiles) {
      for (int64_t v = columns.begin; v < columns.end; ++v)
        pack_right(states_ + v * packed, tokens, panels_ + v * tiles_of_panel(tokens));
      wait();
      const Right with = {panels_, H_, d_weight};
      multiply_left(tokens, d_logits_, packed, words.begin, words.end, V_, &with, 1, first, my.panels);
    } else {
      wait();
      multiply_left(tokens, d_logits_, packed, words.begin, words.end, V_,
                    packed_columns<T>(static_cast<const T*>(states_), chunk_), H_, d_weight, first, my.rows, my.sums);
    }
  }

  const headgate_head& g_;
  const int64_t N_, H_, V_, VV_, HV_;  // the last two: vectors of the vocabulary, of the hidden units
  Workspace workspace_;
  Team team_;
  int threads_ = 1;
  bool gradients_ = false;
  int64_t chunk_ = 1;
  P *by_token_ = nullptr, *by_word_ = nullptr;  // W: V in vectors of H; H in vectors of V
  T *logits_ = nullptr, *d_logits_ = nullptr, *states_ = nullptr;  // (chunk, VV, w); V and H in vectors of tokens
  T *d_bias_ = nullptr, *d_bias_excess_ = nullptr;                 // (VV, w)
  Tile* panels_ = nullptr;                                          // states_ on tiles
  Own* own_ = nullptr;
};

}  // namespace
}  // namespace HEADGATE_LEVEL
}  // namespace headgate
