// The GRU over a sequence, forward and backward; headgate.h says what the arguments are.
//
// A step is a product of the rows' states with the recurrent weights and, where a panel's sums are done, the gates of
// its hidden units. Threads share a step in one of two ways: each has some rows (no thread waits for another inside the
// sequence), or, where there are few rows, each has some hidden units (they meet once or twice a step).
//
// Letters: T, B, I, H as in headgate.h; w lanes of a vector; U = ceil(H / w) vectors of hidden units; s a step in the
// order in which it is read, t its place in the sequence.
#pragma once

#include <cstring>

#include "activation.h"
#include "headgate.h"
#include "product.h"
#include "threads.h"

namespace headgate {
namespace HEADGATE_LEVEL {
namespace {

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// Part `index` of `parts` of [0, n), cut at multiples of `unit`.
Range part(int64_t n, int index, int parts, int64_t unit = 1) {
  const int64_t blocks = (n + unit - 1) / unit;
  return {least(n, blocks * index / parts * unit), least(n, blocks * (index + 1) / parts * unit)};
}

// The arguments with their types, and what follows from them.
template <class T_> struct Sequence {
  using Real = T_;
  static constexpr int w = width<Real>;
  const headgate_gru& g;
  const int64_t T, B, I, H;
  const int64_t U = (H + w - 1) / w;
  const bool after, reverse, ids;
  const Real *x, *h0, *weight_ih, *weight_hh, *bias_ih, *bias_hh, *reset_state;
  Real *states, *gates;
  const Real* zeros = nullptr;  // (H)

  explicit Sequence(const headgate_gru& g)
      : g(g), T(g.T), B(g.B), I(g.I), H(g.H), after(g.reset == HEADGATE_RESET_AFTER), reverse(g.reverse), ids(g.one_hot),
        x(in(g.x)), h0(in(g.h0)), weight_ih(in(g.weight_ih)), weight_hh(in(g.weight_hh)), bias_ih(in(g.bias_ih)),
        bias_hh(in(g.bias_hh)), reset_state(in(g.reset_state)), states(static_cast<Real*>(g.states)),
        gates(static_cast<Real*>(g.gates)) {}

  static const Real* in(const void* p) { return static_cast<const Real*>(p); }

  int64_t place(int64_t s) const { return reverse ? T - 1 - s : s; }
  int64_t length(int64_t b) const { return g.lengths ? g.lengths[b] : T; }
  bool active(int64_t t, int64_t b) const { return t < length(b); }
  int lanes(int64_t u) const { return int(least(w, H - u * w)); }

  // Whether the state starts over before step t: forward, where the step begins a sequence; backward, where it ends one.
  bool starts_over(int64_t t, int64_t b) const {
    if (!g.resets) return false;
    if (!reverse) return g.resets[t * B + b];
    return t + 1 < length(b) && g.resets[(t + 1) * B + b];
  }
  // The state (H) that step t of row b, an active one, starts from.
  const Real* before(int64_t t, int64_t b) const {
    if (starts_over(t, b)) return reset_state ? reset_state : zeros;
    if (reverse) return t + 1 < length(b) ? states + ((t + 1) * B + b) * H : h0 + b * H;
    return t ? states + ((t - 1) * B + b) * H : h0 + b * H;
  }
  const Real* input(int64_t t, int64_t b) const { return x + t * g.x_t + b * g.x_b; }

  // The rows of a range that read step t; how many.
  int64_t active_rows(int64_t t, Range rows, int64_t* found) const {
    int64_t n = 0;
    for (int64_t b = rows.begin; b < rows.end; ++b)
      if (active(t, b)) found[n++] = b;
    return n;
  }
};

// --- weights in the order in which they are read --------------------------------------------------------------------

// Forward's weights, in vectors of hidden units (product.h). hidden: with reset after (U, 3) vectors of H, a unit's gates
// side by side; with reset before (3, U) vectors. input: (U, 3) vectors of I; for ids table instead (I, U, 3, w), a row of
// which is the input's share with the biases in it. bias (U, 3, w): what the input's share starts with: bias_ih, and
// bias_hh where it is outside r * (...). bias_n (U, w): b_hn, with reset after. Scales, of int8 only: (w) a vector.
template <class T, class P = T> struct Packed {
  static constexpr int w = width<T>;
  P *hidden = nullptr, *input = nullptr;
  T *table = nullptr, *bias = nullptr, *bias_n = nullptr, *hidden_scale = nullptr, *input_scale = nullptr;

  Packed() = default;
  // Laid out from `memory` on, 64-byte aligned. Without input for callers that have another way to its share.
  Packed(void* memory, const Sequence<T>& q, bool with_input) { place(static_cast<char*>(memory), q, with_input); }
  static int64_t bytes(const Sequence<T>& q, bool with_input) { return Packed().place(nullptr, q, with_input); }

  // One of several threads' part.
  void fill(const Sequence<T>& q, int index, int threads) const {
    const Range units = part(q.U, index, threads);
    for (int64_t u = units.begin; u < units.end; ++u)
      for (int gate = 0; gate < 3; ++gate) fill_vector(q, u, gate);
  }

 private:
  int64_t place(char* memory, const Sequence<T>& q, bool with_input) {
    const int64_t vectors = q.U * 3;
    int64_t used = 0;
    const auto take = [&](auto*& to, int64_t n) {
      if (memory) to = reinterpret_cast<std::remove_reference_t<decltype(to)>>(memory + used);
      used += (n * int64_t(sizeof *to) + 63) / 64 * 64;
    };
    take(hidden, vectors * vector_stride<T, P>(q.H));
    if (with_input && q.ids) take(table, q.I * vectors * w);
    if (with_input && !q.ids) take(input, vectors * vector_stride<T, P>(q.I));
    take(bias, vectors * w);
    take(bias_n, q.U * w);
    if constexpr (std::is_same_v<P, int8_t>) {
      take(hidden_scale, vectors * w);
      take(input_scale, vectors * w);
    }
    return used;
  }

  void fill_vector(const Sequence<T>& q, int64_t u, int gate) const {
    const T *from_h[w], *from_i[w];
    T* b = bias + (u * 3 + gate) * w;
    for (int j = 0; j < w; ++j) {
      const int64_t row = gate * q.H + u * w + j;
      const bool real = u * w + j < q.H, apart = gate == 2 && q.after;
      from_h[j] = real ? q.weight_hh + row * q.H : nullptr;
      from_i[j] = real ? q.weight_ih + row * q.I : nullptr;
      const T b_i = real && q.bias_ih ? q.bias_ih[row] : T(0), b_h = real && q.bias_hh ? q.bias_hh[row] : T(0);
      b[j] = apart ? b_i : b_i + b_h;
      if (gate == 2) bias_n[u * w + j] = apart ? b_h : T(0);
    }
    const int64_t v = q.after ? u * 3 + gate : gate * q.U + u, v_i = u * 3 + gate;
    pack_lanes_as(from_h, q.H, hidden + v * vector_stride<T, P>(q.H), hidden_scale + v * w);
    if (input) pack_lanes_as(from_i, q.I, input + v_i * vector_stride<T, P>(q.I), input_scale + v_i * w);
    if (!table) return;
    const int64_t stride = q.U * 3 * w;
    T* to = table + v_i * w;
    pack_lanes(from_i, q.I, to, stride);
    for (int64_t k = 0; k < q.I; ++k) store(to + k * stride, load(to + k * stride) + load(b));
  }
};

// --- forward --------------------------------------------------------------------------------------------------------

// What one thread works on: rows and hidden units (in vectors). One of the two is everything.
struct Territory {
  Range rows, units;
};
inline Territory territory(int64_t B, int64_t U, int index, int threads, bool split_rows) {
  return {split_rows ? part(B, index, threads) : Range{0, B}, split_rows ? Range{0, U} : part(U, index, threads)};
}

// With at least so many rows a thread, rows are split: every thread reads all weights, but none waits for another.
constexpr int64_t rows_to_split = 8;

template <class T, class P = T> class Forward {
  static constexpr int w = width<T>;

 public:
  Forward(const headgate_gru& g, Team& team, Workspace& workspace) : q_(g), team_(team) {
    const int64_t threads = team_.size(), columns = q_.U * 3 * w;
    split_rows_ = q_.B >= rows_to_split * threads;
    if (!split_rows_ && q_.U < threads * 2) threads_ = 1;
    threads_ = threads_ ? threads_ : int(threads);
    T* zeros = workspace.get<T>(q_.H + w);
    std::memset(zeros, 0, size_t(q_.H + w) * sizeof(T));
    q_.zeros = zeros;
    few_ids_ = q_.ids && !g.packed && q_.T * q_.B < q_.I / 2;
    void* memory = const_cast<void*>(g.packed);
    if (!memory) memory = workspace.bytes(size_t(Packed<T, P>::bytes(q_, !few_ids_)));
    packed_ = Packed<T, P>(memory, q_, !few_ids_);
    const int64_t rows = split_rows_ ? (q_.B + threads - 1) / threads : q_.B;
    chunk_ = q_.ids && !few_ids_ ? 0 : 1 + (row_group - 1) / (rows ? rows : 1);  // steps whose input is projected together
    if (!q_.after) reset_state_ = workspace.get<T>(q_.B * q_.U * w), z_ = workspace.get<T>(q_.B * q_.U * w);
    own_ = workspace.get<Own>(threads);
    for (int i = 0; i < threads; ++i) {
      own_[i].sums = workspace.get<T>(sums_size<T>());
      own_[i].share = workspace.get<T>(chunk_ * rows * columns);
      own_[i].pointers = workspace.get<const T*>(rows * (chunk_ > 1 ? chunk_ : 1) + 1);
      own_[i].active = workspace.get<int64_t>(rows + 1);
    }
  }

  // One of the team's threads reads the sequence; the weights have been packed.
  void read(int index) {
    const Territory own = territory(q_.B, q_.U, index, threads_, split_rows_);
    for (int64_t s = 0; s < q_.T; ++s) {
      if (chunk_ && s % chunk_ == 0) project(s, least(s + chunk_, q_.T), own, own_[index]);
      step(s, own, own_[index]);
    }
  }

  void run() {
    team_.run([this](int index) {
      if (index >= threads_) return;
      if (!q_.g.packed) {
        packed_.fill(q_, index, threads_);
        wait();
      }
      read(index);
    });
    for (int64_t b = 0; b < q_.B; ++b) {
      const int64_t n = q_.length(b);
      const T* from = n ? q_.states + ((q_.reverse ? 0 : n - 1) * q_.B + b) * q_.H : q_.h0 + b * q_.H;
      std::memcpy(static_cast<T*>(q_.g.last) + b * q_.H, from, size_t(q_.H) * sizeof(T));
    }
  }

 private:
  struct Own {  // a thread's memory
    T *sums, *share;
    const T** pointers;
    int64_t* active;
  };

  void wait() {
    if (threads_ > 1) team_.barrier().wait();
  }

  // The input's share of the gates, W_i x + b, for the steps [s, end): (step, row, U, 3w), own units only.
  void project(int64_t s, int64_t end, Territory own, Own& my) {
    const int64_t columns = q_.U * 3 * w, rows = own.rows.size();
    if (few_ids_) {
      for (int64_t i = 0; i < (end - s) * rows; ++i) {
        const int64_t t = q_.place(s + i / rows), b = own.rows.begin + i % rows;
        if (!q_.active(t, b)) continue;
        const T* column = q_.weight_ih + q_.g.ids[t * q_.B + b];
        for (int64_t u = own.units.begin; u < own.units.end; ++u)
          for (int gate = 0; gate < 3; ++gate)
            for (int j = 0; j < w; ++j) {
              const int64_t at = (u * 3 + gate) * w + j;
              my.share[i * columns + at] =
                  j < q_.lanes(u) ? column[(gate * q_.H + u * w + j) * q_.I] + packed_.bias[at] : T(0);
            }
      }
      return;
    }
    for (int64_t i = 0; i < (end - s) * rows; ++i)
      my.pointers[i] = q_.input(q_.place(s + i / rows), own.rows.begin + i % rows);
    multiply<1>((end - s) * rows, my.pointers, q_.I, packed_.input, vector_stride<T, P>(q_.I), own.units.begin * 3,
                own.units.end * 3, my.sums, [&](int64_t v, int n, int64_t i, const T* sums) {
                  T* to = my.share + i * columns + v * w;
                  const T* bias = packed_.bias + v * w;
                  for (int j = 0; j < n; ++j)
                    store(to + j * w, value(sums + j * w, packed_.input_scale, v + j) + load(bias + j * w));
                });
  }

  const T* share(int64_t s, int64_t t, int64_t b, Territory own, const Own& my) const {
    const int64_t columns = q_.U * 3 * w;
    if (!chunk_) return packed_.table + q_.g.ids[t * q_.B + b] * columns;
    return my.share + (s % chunk_ * own.rows.size() + b - own.rows.begin) * columns;
  }

  void step(int64_t s, Territory own, Own& my) {
    const int64_t t = q_.place(s), H = q_.H;
    const int64_t rows = q_.active_rows(t, own.rows, my.active);
    if (q_.g.lengths) clear_inactive(t, own);
    for (int64_t i = 0; i < rows; ++i) my.pointers[i] = q_.before(t, my.active[i]);
    const int64_t stride = vector_stride<T, P>(H), U = q_.U;
    const Range units = own.units;
    const auto a = [&](int64_t i, int64_t u, int gate) { return share(s, t, my.active[i], own, my) + (u * 3 + gate) * w; };
    if (q_.after) {
      multiply<1>(rows, my.pointers, H, packed_.hidden, stride, units.begin * 3, units.end * 3, my.sums,
                  [&](int64_t v, int n, int64_t i, const T* sums) {
                    for (int64_t u = v / 3; u < (v + n) / 3; ++u, sums += 3 * w)
                      finish_after(t, my.active[i], u, sums, a(i, u, 0), my.pointers[i] + u * w);
                  });
    } else {
      for (int gate = 0; gate < 2; ++gate)
        multiply<1>(rows, my.pointers, H, packed_.hidden + gate * U * stride, stride, units.begin, units.end, my.sums,
                    [&](int64_t v, int n, int64_t i, const T* sums) {
                      for (int64_t u = v; u < v + n; ++u, sums += w)
                        finish_r_or_z(gate, t, my.active[i], u, sums, a(i, u, gate), my.pointers[i] + u * w);
                    });
      if (!split_rows_) wait();
      for (int64_t i = 0; i < rows; ++i) my.pointers[i] = reset_state_ + my.active[i] * U * w;
      multiply<1>(rows, my.pointers, H, packed_.hidden + 2 * U * stride, stride, units.begin, units.end, my.sums,
                  [&](int64_t v, int n, int64_t i, const T* sums) {
                    for (int64_t u = v; u < v + n; ++u, sums += w)
                      finish_before(t, my.active[i], u, sums, a(i, u, 2));
                  });
    }
    if (!split_rows_) wait();
  }

  void clear_inactive(int64_t t, Territory own) {
    const int64_t begin = own.units.begin * w, size = least(own.units.end * w, q_.H) - begin;
    for (int64_t b = own.rows.begin; b < own.rows.end; ++b) {
      if (q_.active(t, b) || size <= 0) continue;
      std::memset(q_.states + (t * q_.B + b) * q_.H + begin, 0, size_t(size) * sizeof(T));
      if (q_.gates)
        for (int gate = 0; gate < 4; ++gate)
          std::memset(q_.gates + ((t * q_.B + b) * 4 + gate) * q_.H + begin, 0, size_t(size) * sizeof(T));
    }
  }

  // sums: W_h h of r, z, n; a: the input's share; h: the state before. One vector of units of one row.
  HEADGATE_INLINE Vec<T> blend(Vec<T> z, Vec<T> n, Vec<T> h) { return fma(z, h - n, n); }  // (1 - z) n + z h

  // The sums of vector v of a packed matrix.
  HEADGATE_INLINE Vec<T> value(const T* sums, const T* scale, int64_t v) {
    if constexpr (std::is_same_v<P, int8_t>) return load(sums) * load(scale + v * w);
    return load(sums);
  }

  void finish_after(int64_t t, int64_t b, int64_t u, const T* sums, const T* a, const T* h_before) const {
    const int lanes = q_.lanes(u);
    const Vec<T> h = load_part(h_before, lanes);
    const T* scale = packed_.hidden_scale;
    const Vec<T> r = sigmoid<T>(load(a) + value(sums, scale, u * 3));
    const Vec<T> z = sigmoid<T>(load(a + w) + value(sums + w, scale, u * 3 + 1));
    const Vec<T> m = value(sums + 2 * w, scale, u * 3 + 2) + load(packed_.bias_n + u * w);
    const Vec<T> n = tanh<T>(fma(r, m, load(a + 2 * w)));
    store_part(q_.states + (t * q_.B + b) * q_.H + u * w, blend(z, n, h), lanes);
    if (!q_.gates) return;
    T* save = q_.gates + (t * q_.B + b) * 4 * q_.H + u * w;
    store_part(save, r, lanes);
    store_part(save + q_.H, z, lanes);
    store_part(save + 2 * q_.H, n, lanes);
    store_part(save + 3 * q_.H, m, lanes);
  }

  void finish_r_or_z(int gate, int64_t t, int64_t b, int64_t u, const T* sums, const T* a, const T* h) const {
    const int lanes = q_.lanes(u);
    const Vec<T> opened = sigmoid<T>(load(a) + value(sums, packed_.hidden_scale, gate * q_.U + u));
    const int64_t at = (b * q_.U + u) * w;
    if (gate == 0)
      store(reset_state_ + at, opened * load_part(h, lanes));
    else
      store(z_ + at, opened);
    if (q_.gates) store_part(q_.gates + ((t * q_.B + b) * 4 + gate) * q_.H + u * w, opened, lanes);
  }

  void finish_before(int64_t t, int64_t b, int64_t u, const T* sums, const T* a) const {
    const int lanes = q_.lanes(u);
    const Vec<T> n = tanh<T>(load(a) + value(sums, packed_.hidden_scale, 2 * q_.U + u));
    const Vec<T> h = load_part(q_.before(t, b) + u * w, lanes);
    store_part(q_.states + (t * q_.B + b) * q_.H + u * w, blend(load(z_ + (b * q_.U + u) * w), n, h), lanes);
    if (!q_.gates) return;
    T* save = q_.gates + ((t * q_.B + b) * 4 + 2) * q_.H + u * w;
    store_part(save, n, lanes);
    store_part(save + q_.H, Vec<T>{}, lanes);
  }

  Sequence<T> q_;
  Team& team_;
  int threads_ = 0;
  bool split_rows_ = false, few_ids_ = false;
  int64_t chunk_ = 0;
  Packed<T, P> packed_;
  T *reset_state_ = nullptr, *z_ = nullptr;  // with reset before: r * h and z of the step under way, (B, U, w)
  Own* own_ = nullptr;
};

// --- backward -------------------------------------------------------------------------------------------------------
//
// With e the gradient of the state after a step, g' that of a gate before its sigmoid or tanh, m = W_hn h + b_hn:
//
//   n' = e (1 - z) (1 - n^2)        z' = e (h - n) z (1 - z)
//   reset after:   r' = n' m r (1 - r)               dh = e z + W_r^T r' + W_z^T z' + W_n^T (n' r)
//   reset before:  q = W_n^T n',  r' = q h r (1 - r)    dh = e z + W_r^T r' + W_z^T z' + q r
//
// Steps are taken in chunks from the last to the first. A chunk's tokens (the steps of its rows that were read) leave
// n', r', z' and a fourth, n' r or (reset before) r h, side by side: (tokens, 4, H). Then the gradients of weights, biases
// and input are products over all tokens of the chunk. Threads share these by rows of the weights and by tokens.

constexpr int64_t chunk_tokens = 1024;

template <class T> class Backward {
  static constexpr int w = width<T>;
  static constexpr int R = left_columns;
  enum Part { of_n, of_r, of_z, fourth };  // of a token

 public:
  Backward(const headgate_gru& g, const headgate_gru_gradients& d) : q_(g), d_(d), team_(g.threads) {
    threads_ = team_.size();
    split_rows_ = q_.B >= rows_to_split * threads_;
    if (!split_rows_ && q_.U < threads_ * 2) threads_ = 1;
    T* zeros = workspace_.get<T>(q_.H + w);
    std::memset(zeros, 0, size_t(q_.H + w) * sizeof(T));
    q_.zeros = zeros;

    const int64_t T_ = q_.T, H = q_.H, I = q_.I;
    first_ = workspace_.get<int64_t>(T_ + 1);
    first_[0] = 0;
    for (int64_t s = 0; s < T_; ++s) {
      int64_t n = q_.B;
      if (g.lengths) {
        n = 0;
        for (int64_t b = 0; b < q_.B; ++b) n += q_.active(q_.place(s), b);
      }
      first_[s + 1] = first_[s] + n;
    }
    const int64_t chunks = 1 + (T_ * q_.B - 1) / chunk_tokens;
    chunk_ = chunks > 0 ? 1 + (T_ - 1) / chunks : 1;
    if (chunk_ < 1) chunk_ = 1;
    const int64_t tokens = chunk_ * q_.B;
    IV_ = (I + w - 1) / w;
    few_ids_ = q_.ids && T_ * q_.B < I / 2;
    dense_ = !q_.ids && d.d_weight_ih;

    hidden_ = workspace_.get<T>(q_.U * vector_stride<T>(3 * H));
    if (d.d_x) input_ = workspace_.get<T>(IV_ * vector_stride<T>(3 * H));
    gates_ = workspace_.get<T>(tokens * 4 * H + w);
    dh_ = workspace_.get<T>(q_.B * q_.U * w);
    token_ = workspace_.get<int64_t>(tokens + 1);
    before_ = workspace_.get<const T*>(tokens + 1);
    if (d.d_weight_hh) states_ = workspace_.get<T>(q_.U * vector_stride<T>(tokens));
    if (d.d_weight_hh && !q_.after) reset_states_ = workspace_.get<T>(q_.U * vector_stride<T>(tokens));
    if (dense_) inputs_ = workspace_.get<T>(IV_ * vector_stride<T>(tokens));
    if (q_.ids && d.d_weight_ih && !few_ids_) table_ = workspace_.get<T>(I * 3 * H), excess_ = workspace_.get<T>(I * 3 * H);
    bias_ = workspace_.get<T>(4 * H);
    own_ = workspace_.get<Own>(threads_);
    for (int i = 0; i < threads_; ++i) {
      const Range units = part(H, i, threads_, R);
      Own& my = own_[i];
      my.sums = workspace_.get<T>(sums_size<T>());
      my.active = workspace_.get<int64_t>(q_.B + 1);
      my.rows = workspace_.get<const T*>(tokens + 3 * H + 1);
      my.left = workspace_.get<T>(4 * left_size(units.size(), tokens));
    }
  }

  void run() {
    team_.run([this](int index) {
      if (index >= threads_) return;
      Own& my = own_[index];
      const Territory own = territory(q_.B, q_.U, index, threads_, split_rows_);
      prepare(index, own, my);
      wait();
      bool first = true;
      int64_t end = q_.T;
      do {
        const int64_t begin = end > chunk_ ? end - chunk_ : 0;
        for (int64_t s = end; s-- > begin;) step(s, begin, own, my);
        wait();
        const int64_t tokens = first_[end] - first_[begin];
        gather(tokens, index, my);
        wait();
        products(tokens, index, my, first);
        wait();
        first = false;
        end = begin;
      } while (end > 0);
      finish(index, own);
    });
  }

 private:
  struct Own {  // a thread's memory
    T *sums, *left;
    int64_t* active;
    const T** rows;
  };

  void wait() {
    if (threads_ > 1) team_.barrier().wait();
  }
  static T* out(void* p) { return static_cast<T*>(p); }
  static const T* in(const void* p) { return static_cast<const T*>(p); }
  T* gate(int64_t token, Part p) const { return gates_ + (token * 4 + p) * q_.H; }
  // Where the units of an own territory lie in a row of H.
  Range columns(Territory own) const { return {own.units.begin * w, least(own.units.end * w, q_.H)}; }

  void prepare(int index, Territory own, Own& my) {
    const int64_t H = q_.H;
    for (int64_t k = 0; k < 3 * H; ++k) my.rows[k] = q_.weight_hh + k * H;
    Range vectors = part(q_.U, index, threads_);
    pack_columns(my.rows, 3 * H, H, vectors.begin, vectors.end, hidden_, vector_stride<T>(3 * H));
    if (d_.d_x) {
      for (int64_t k = 0; k < 3 * H; ++k) my.rows[k] = q_.weight_ih + (k < H ? k + 2 * H : k - H) * q_.I;
      vectors = part(IV_, index, threads_);
      pack_columns(my.rows, 3 * H, q_.I, vectors.begin, vectors.end, input_, vector_stride<T>(3 * H));
      if (q_.g.lengths) {
        const Range steps = part(q_.T, index, threads_);
        std::memset(out(d_.d_x) + steps.begin * q_.B * q_.I, 0, size_t(steps.size() * q_.B * q_.I) * sizeof(T));
      }
    }
    const Range own_columns = columns(own);
    for (int64_t b = own.rows.begin; b < own.rows.end; ++b) {
      for (int64_t u = own.units.begin; u < own.units.end; ++u)
        store(dh(b, u), d_.d_last ? load_part(in(d_.d_last) + b * H + u * w, q_.lanes(u)) : Vec<T>{});
      if (d_.d_reset_state && own_columns.size() > 0)
        std::memset(out(d_.d_reset_state) + b * H + own_columns.begin, 0, size_t(own_columns.size()) * sizeof(T));
    }
    const Range units = part(H, index, threads_, R);
    for (int p = 0; p < 4; ++p)
      for (int64_t j = units.begin; j < units.end; ++j) bias_[p * H + j] = 0;
    if (table_) {
      for (int64_t k = 0; k < q_.I; ++k)
        for (int p = 0; p < 3; ++p)
          for (T* table : {table_, excess_})
            std::memset(table + (k * 3 + p) * H + units.begin, 0, size_t(units.size()) * sizeof(T));
    }
    if (few_ids_ && d_.d_weight_ih)
      for (int p = 0; p < 3; ++p)
        std::memset(out(d_.d_weight_ih) + (p * H + units.begin) * q_.I, 0, size_t(units.size() * q_.I) * sizeof(T));
  }

  T* dh(int64_t b, int64_t u) const { return dh_ + (b * q_.U + u) * w; }

  void step(int64_t s, int64_t begin, Territory own, Own& my) {
    const int64_t t = q_.place(s), H = q_.H, stride = vector_stride<T>(3 * H);
    const Range units = own.units;
    int64_t token = first_[s] - first_[begin];  // of the first own row
    if (q_.g.lengths)
      for (int64_t b = 0; b < own.rows.begin; ++b) token += q_.active(t, b);
    else
      token += own.rows.begin;
    const int64_t rows = q_.active_rows(t, own.rows, my.active);

    for (int64_t i = 0; i < rows; ++i) {
      const int64_t b = my.active[i];
      const T* h = q_.before(t, b);
      if (units.begin == 0) token_[token + i] = t * q_.B + b, before_[token + i] = h;  // once a row
      for (int64_t u = units.begin; u < units.end; ++u) through_gates(t, b, u, h + u * w, token + i);
      my.rows[i] = gate(token + i, q_.after ? of_r : of_n);
    }
    if (!split_rows_) wait();
    if (q_.after) {
      multiply<1>(rows, my.rows, 3 * H, hidden_, stride, units.begin, units.end, my.sums,
                  [&](int64_t v, int n, int64_t i, const T* sums) { add(my.active[i], v, n, sums); });
    } else {
      multiply<1>(rows, my.rows, H, hidden_ + 2 * H * w, stride, units.begin, units.end, my.sums,
                  [&](int64_t v, int n, int64_t i, const T* sums) {
                    for (int64_t u = v; u < v + n; ++u, sums += w)
                      through_reset(t, my.active[i], u, before_[token + i] + u * w, token + i, load(sums));
                  });
      if (!split_rows_) wait();
      for (int64_t i = 0; i < rows; ++i) my.rows[i] = gate(token + i, of_r);
      multiply<1>(rows, my.rows, 2 * H, hidden_, stride, units.begin, units.end, my.sums,
                  [&](int64_t v, int n, int64_t i, const T* sums) { add(my.active[i], v, n, sums); });
    }
    if (q_.g.resets)
      for (int64_t i = 0; i < rows; ++i)
        if (q_.starts_over(t, my.active[i])) start_over(my.active[i], units);
  }

  // The gradients of one vector of units of one row before the nonlinearities, as far as they depend on e alone.
  void through_gates(int64_t t, int64_t b, int64_t u, const T* h_before, int64_t token) {
    const int lanes = q_.lanes(u);
    const int64_t H = q_.H, at = t * q_.B + b;
    const Vec<T> one = broadcast(T(1));
    const T* saved = q_.gates + at * 4 * H + u * w;
    Vec<T> e = load(dh(b, u));
    if (d_.d_states) e += load_part(in(d_.d_states) + at * H + u * w, lanes);
    const Vec<T> r = load_part(saved, lanes), z = load_part(saved + H, lanes), n = load_part(saved + 2 * H, lanes);
    const Vec<T> h = load_part(h_before, lanes);
    Vec<T> dz = e * (h - n), dn = e * (one - z);
    const T* d_gates = d_.d_gates ? in(d_.d_gates) + at * 4 * H + u * w : nullptr;
    if (d_gates) dz += load_part(d_gates + H, lanes), dn += load_part(d_gates + 2 * H, lanes);
    dz *= z * (one - z);
    dn *= fma(-n, n, one);
    store_part(gate(token, of_n) + u * w, dn, lanes);
    store_part(gate(token, of_z) + u * w, dz, lanes);
    store(dh(b, u), e * z);
    if (q_.after) {
      Vec<T> dr = dn * load_part(saved + 3 * H, lanes);
      if (d_gates) dr += load_part(d_gates, lanes);
      dr *= r * (one - r);
      store_part(gate(token, of_r) + u * w, dr, lanes);
      store_part(gate(token, fourth) + u * w, dn * r, lanes);
    } else {
      store_part(gate(token, fourth) + u * w, r * h, lanes);
    }
  }

  // Reset before: what W_n^T n' says about r and h.
  void through_reset(int64_t t, int64_t b, int64_t u, const T* h_before, int64_t token, Vec<T> q) {
    const int lanes = q_.lanes(u);
    const int64_t at = t * q_.B + b;
    const Vec<T> r = load_part(q_.gates + at * 4 * q_.H + u * w, lanes);
    Vec<T> dr = q * load_part(h_before, lanes);
    if (d_.d_gates) dr += load_part(in(d_.d_gates) + at * 4 * q_.H + u * w, lanes);
    store_part(gate(token, of_r) + u * w, dr * (r * (broadcast(T(1)) - r)), lanes);
    store(dh(b, u), fma(q, r, load(dh(b, u))));
  }

  void add(int64_t b, int64_t v, int n, const T* sums) {
    for (int64_t u = v; u < v + n; ++u, sums += w) store(dh(b, u), load(dh(b, u)) + load(sums));
  }

  void start_over(int64_t b, Range units) {
    for (int64_t u = units.begin; u < units.end; ++u) {
      if (d_.d_reset_state) {
        T* to = out(d_.d_reset_state) + b * q_.H + u * w;
        store_part(to, load_part(to, q_.lanes(u)) + load(dh(b, u)), q_.lanes(u));
      }
      store(dh(b, u), Vec<T>{});
    }
  }

  // After a chunk's steps: what its products need in the order in which they read it, and the input's gradient.
  void gather(int64_t tokens, int index, Own& my) {
    const int64_t H = q_.H, I = q_.I;
    Range vectors = part(q_.U, index, threads_);
    if (states_) pack_columns(before_, tokens, H, vectors.begin, vectors.end, states_, vector_stride<T>(tokens));
    if (reset_states_) {
      for (int64_t i = 0; i < tokens; ++i) my.rows[i] = gate(i, fourth);
      pack_columns(my.rows, tokens, H, vectors.begin, vectors.end, reset_states_, vector_stride<T>(tokens));
    }
    if (dense_) {
      for (int64_t i = 0; i < tokens; ++i) my.rows[i] = q_.input(token_[i] / q_.B, token_[i] % q_.B);
      vectors = part(IV_, index, threads_);
      pack_columns(my.rows, tokens, I, vectors.begin, vectors.end, inputs_, vector_stride<T>(tokens));
    }
    if (d_.d_x) {
      const Range mine = part(tokens, index, threads_);
      for (int64_t i = mine.begin; i < mine.end; ++i) my.rows[i - mine.begin] = gate(i, of_n);
      multiply<1>(mine.size(), my.rows, 3 * H, input_, vector_stride<T>(3 * H), 0, IV_, my.sums,
                  [&](int64_t v, int n, int64_t i, const T* sums) {
                    T* to = out(d_.d_x) + token_[mine.begin + i] * I;
                    for (int64_t u = v; u < v + n; ++u, sums += w)
                      store_part(to + u * w, load(sums), int(least(w, I - u * w)));
                  });
    }
    const Range units = part(H, index, threads_, R);
    for (int p = 0; p < 4; ++p)
      pack_left(tokens, gates_ + p * H + units.begin, 4 * H, units.size(), left(my, p, units, tokens), bias_ + p * H + units.begin);
    if (q_.ids && d_.d_weight_ih) scatter(tokens, units);
  }

  void scatter(int64_t tokens, Range units) {
    const int64_t H = q_.H, I = q_.I;
    for (int64_t i = 0; i < tokens; ++i) {
      const int64_t id = q_.g.ids[token_[i]];
      for (int p = 0; p < 3; ++p) {
        const T* from = gates_ + (i * 4 + p) * H;
        if (table_) {
          T *to = table_ + (id * 3 + p) * H, *excess = excess_ + (id * 3 + p) * H;
          for (int64_t j = units.begin; j < units.end; ++j) add_exactly(from[j], to[j], excess[j]);
        } else {
          T* to = out(d_.d_weight_ih) + row_of(p) * I + id;
          for (int64_t j = units.begin; j < units.end; ++j) to[j * I] += from[j];
        }
      }
    }
  }

  int64_t row_of(int p) const { return (p == of_n ? 2 : p == of_r ? 0 : 1) * q_.H; }

  void products(int64_t tokens, int index, Own& my, bool first) {
    constexpr Part input_parts[] = {of_r, of_z, of_n};
    const Part hidden_parts[] = {of_r, of_z, q_.after ? fourth : of_n};
    const Range units = part(q_.H, index, threads_, R);
    for (int gate = 0; gate < 3; ++gate) {
      const auto product = [&](Part p, const T* right, void* d, int64_t N) {
        multiply_left(tokens, left(my, p, units, tokens), units.size(), right, N,
                      out(d) + (gate * q_.H + units.begin) * N, first, my.rows, my.sums);
      };
      if (d_.d_weight_hh) product(hidden_parts[gate], !q_.after && gate == 2 ? reset_states_ : states_, d_.d_weight_hh, q_.H);
      if (dense_) product(input_parts[gate], inputs_, d_.d_weight_ih, q_.I);
    }
  }
  // A thread's units of one part of all tokens, as the left side of a product.
  static T* left(const Own& my, int p, Range units, int64_t tokens) { return my.left + p * left_size(units.size(), tokens); }

  void finish(int index, Territory own) {
    const int64_t H = q_.H, I = q_.I;
    if (d_.d_h0)
      for (int64_t b = own.rows.begin; b < own.rows.end; ++b)
        for (int64_t u = own.units.begin; u < own.units.end; ++u)
          store_part(out(d_.d_h0) + b * H + u * w, load(dh(b, u)), q_.lanes(u));
    const Range units = part(H, index, threads_, R);
    constexpr Part input_parts[] = {of_r, of_z, of_n};
    for (int gate = 0; gate < 3; ++gate)
      for (int64_t j = units.begin; j < units.end; ++j) {
        const T sum = bias_[input_parts[gate] * H + j];
        if (d_.d_bias_ih) out(d_.d_bias_ih)[gate * H + j] = sum;
        if (d_.d_bias_hh) out(d_.d_bias_hh)[gate * H + j] = gate == 2 && q_.after ? bias_[fourth * H + j] : sum;
      }
    if (!table_) return;
    for (int64_t k = 0; k < I; k += w) {  // table (I, 3, H) -> (3H, I)
      const int lanes = int(least(w, I - k));
      for (int gate = 0; gate < 3; ++gate) {
        const T* rows[w];
        for (int i = 0; i < w; ++i) rows[i] = table_ + ((k + (i < lanes ? i : 0)) * 3 + input_parts[gate]) * H + units.begin;
        T* to = out(d_.d_weight_ih) + (gate * H + units.begin) * I + k;
        if (lanes == w) {
          pack_lanes(rows, units.size(), to, I);
        } else {
          for (int64_t j = 0; j < units.size(); ++j)
            for (int i = 0; i < lanes; ++i) to[j * I + i] = rows[i][j];
        }
      }
    }
  }

  Sequence<T> q_;
  const headgate_gru_gradients& d_;
  Workspace workspace_;
  Team team_;
  int threads_ = 0;
  bool split_rows_ = false, few_ids_ = false, dense_ = false;
  int64_t chunk_ = 1, IV_ = 0;   // steps of a chunk; vectors of the input
  int64_t* first_ = nullptr;     // (T + 1): tokens before step s
  T *hidden_ = nullptr, *input_ = nullptr;  // W_hh in (U) vectors of 3H; W_ih, rows in the order n, r, z, in (IV) vectors of 3H
  T *gates_ = nullptr, *dh_ = nullptr;      // (tokens, 4, H); (B, U, w)
  int64_t* token_ = nullptr;     // (tokens): t * B + b
  const T** before_ = nullptr;   // (tokens): the state before
  T *states_ = nullptr, *reset_states_ = nullptr, *inputs_ = nullptr;  // right sides: h, r h, x, in vectors of tokens
  T *table_ = nullptr, *excess_ = nullptr, *bias_ = nullptr;  // ids: (I, 3, H), and what their sums lost; (4, H)
  Own* own_ = nullptr;
};

}  // namespace
}  // namespace HEADGATE_LEVEL
}  // namespace headgate
