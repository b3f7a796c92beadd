// The GRU over a sequence, forward: packs the weights, then computes step by step.
//
// Letters as in sequence.h.
#pragma once

#include <cstring>

#include "activation.h"
#include "product.h"
#include "sequence.h"
#include "tiled_product.h"

namespace headgate {
namespace HEADGATE_LEVEL {
namespace {

// --- weights in reading order ---------------------------------------------------------------------------------------

// The weights of the forward pass, in vectors of hidden units (product.h).
//
//   hidden   reset after: (U, 3) vectors of H, the gates of a unit adjacent; reset before: (3, U) vectors
//   input    (U, 3) vectors of I
//   table    (I, U, 3, w), for ids instead of input: each row the input's contribution, biases included
//   bias     (U, 3, w), the initial value of the input's contribution: bias_ih, and bias_hh unless inside r * (...)
//   bias_n   (U, w), b_hn with reset after
//   scales   (w) per vector, only for int8
template <class T, class P = T> struct Packed {
  static constexpr int w = width<T>;
  P *hidden = nullptr, *input = nullptr;
  T *table = nullptr, *bias = nullptr, *bias_n = nullptr, *hidden_scale = nullptr, *input_scale = nullptr;

  Packed() = default;
  // Laid out in `memory`, 64-byte aligned; without `input` and `table` if the caller projects the input itself.
  Packed(void* memory, const Sequence<T>& q, bool with_input) { place(static_cast<char*>(memory), q, with_input); }
  static int64_t bytes(const Sequence<T>& q, bool with_input) { return Packed().place(nullptr, q, with_input); }

  // Packs the part of one of several threads.
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

// --- the sequence ---------------------------------------------------------------------------------------------------

template <class T, class P = T> class Forward {
  static constexpr int w = width<T>;

 public:
  Forward(const headgate_gru& g, Team& team, Workspace& workspace) : q_(g), team_(team) {
    const int64_t threads = team_.size(), columns = q_.U * 3 * w;
    split_rows_ = splits_rows<P>(q_.B, q_.H, int(threads));
    if (!split_rows_ && q_.U < threads * 2) threads_ = 1;
    threads_ = threads_ ? threads_ : int(threads);
    T* zeros = workspace.get<T>(q_.H + w);
    std::memset(zeros, 0, size_t(q_.H + w) * sizeof(T));
    q_.zeros = zeros;
    few_ids_ = q_.ids && !g.packed && q_.T * q_.B < q_.I / 2;
    void* memory = const_cast<void*>(g.packed);
    if (!memory) memory = workspace.bytes(size_t(Packed<T, P>::bytes(q_, !few_ids_)));
    packed_ = Packed<T, P>(memory, q_, !few_ids_);
    units_beyond_ = (q_.H + gate_lanes - 1) / gate_lanes * gate_lanes - q_.U * w;
    const int64_t rows = split_rows_ ? (q_.B + threads - 1) / threads : q_.B;
    chunk_ = q_.ids && !few_ids_ ? 0 : 1 + (row_group - 1) / (rows ? rows : 1);  // steps projected together
    if (!q_.after) reset_state_ = workspace.get<T>(q_.B * q_.U * w), z_ = workspace.get<T>(q_.B * q_.U * w);
    own_ = workspace.get<Own>(threads);
    for (int i = 0; i < threads; ++i) {
      own_[i].sums = workspace.get<T>(sums_size<T, P>(q_.H > q_.I ? q_.H : q_.I, 3 * q_.U));
      own_[i].share = workspace.get<T>(chunk_ * rows * columns);
      own_[i].pointers = workspace.get<const T*>(rows * (chunk_ > 1 ? chunk_ : 1) + 1);
      own_[i].active = workspace.get<int64_t>(rows + 1);
    }
  }

  // Reads the sequence, as one of the team's threads; the weights must be packed.
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
      [[maybe_unused]] const std::conditional_t<std::is_same_v<P, Tile>, TileUse, std::nullptr_t> use{};
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

  // Computes the input's contribution to the gates, W_i x + b, for steps [s, end): (step, row, U, 3w), own units only.
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
    multiply<1>((end - s) * rows, my.pointers, q_.I, packed_columns<T>(static_cast<const P*>(packed_.input), q_.I), own.units.begin * 3,
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
    if (q_.gates && units_beyond_ && own.units.end == q_.U) clear_beyond(t, own);
    for (int64_t i = 0; i < rows; ++i) my.pointers[i] = q_.before(t, my.active[i]);
    const int64_t U = q_.U;
    const Columns<P> hidden = packed_columns<T>(static_cast<const P*>(packed_.hidden), H);
    const Range units = own.units;
    const auto item = [&](int64_t i, int64_t u) {
      const int64_t b = my.active[i];
      return Item{b, u, my.pointers[i] + u * w, share(s, t, b, own, my) + u * 3 * w,
                  q_.states + (t * q_.B + b) * q_.H + u * w, q_.gates ? q_.gate(q_.gates, t, b, u) : nullptr};
    };
    if (q_.after) {
      multiply_groups<1>(rows, my.pointers, H, hidden, units.begin * 3, units.end * 3, my.sums,
                         [&](int64_t v, int n, int64_t first, int64_t count, const T* sums) {
                           each(count, v / 3, n / 3, [&](auto N, const int64_t* i, const int64_t* u) {
                             Item items[N.value];
                             for (int k = 0; k < N.value; ++k) items[k] = item(first + i[k], u[k]);
                             finish_after<N.value>(items, sums);
                             sums += N.value * 3 * w;
                           });
                         });
    } else {
      for (int gate = 0; gate < 2; ++gate)
        multiply_groups<1>(rows, my.pointers, H, hidden.from(gate * U), units.begin, units.end, my.sums,
                           [&](int64_t v, int n, int64_t first, int64_t count, const T* sums) {
                             each(count, v, n, [&](auto N, const int64_t* i, const int64_t* u) {
                               Item items[N.value];
                               for (int k = 0; k < N.value; ++k) items[k] = item(first + i[k], u[k]);
                               finish_r_or_z<N.value>(gate, items, sums);
                               sums += N.value * w;
                             });
                           });
      if (!split_rows_) wait();
      for (int64_t i = 0; i < rows; ++i) my.pointers[i] = reset_state_ + my.active[i] * U * w;
      multiply_groups<1>(rows, my.pointers, H, hidden.from(2 * U), units.begin, units.end, my.sums,
                         [&](int64_t v, int n, int64_t first, int64_t count, const T* sums) {
                           each(count, v, n, [&](auto N, const int64_t* i, const int64_t* u) {
                             Item items[N.value];
                             for (int k = 0; k < N.value; ++k) {
                               items[k] = item(first + i[k], u[k]);
                               items[k].h = q_.before(t, items[k].b) + u[k] * w;
                             }
                             finish_before<N.value>(items, sums);
                             sums += N.value * w;
                           });
                         });
    }
    if (!split_rows_) wait();
  }

  void clear_inactive(int64_t t, Territory own) {
    const int64_t begin = own.units.begin * w, size = least(own.units.end * w, q_.H) - begin;
    for (int64_t b = own.rows.begin; b < own.rows.end; ++b) {
      if (q_.active(t, b) || size <= 0) continue;
      std::memset(q_.states + (t * q_.B + b) * q_.H + begin, 0, size_t(size) * sizeof(T));
      for (int64_t u = own.units.begin; q_.gates && u < own.units.end; ++u)
        for (int gate = 0; gate < 4; ++gate) store(q_.gate(q_.gates, t, b, u) + gate * gate_lanes, Vec<T>{});
    }
  }

  // Clears the gates of the last block beyond the last vector: nobody reads them, but all returned memory is written.
  void clear_beyond(int64_t t, Territory own) const {
    for (int64_t b = own.rows.begin; b < own.rows.end; ++b)
      for (int gate = 0; gate < 4; ++gate) {
        T* end = q_.gate(q_.gates, t, b, q_.U - 1) + gate * gate_lanes + w;
        std::memset(end, 0, size_t(units_beyond_) * sizeof(T));
      }
  }

  // One vector of units of one row.
  struct Item {
    int64_t b, u;      // row, vector
    const T *h, *a;    // the state before; the input's contribution to r, followed by those to z and n
    T *state, *gates;  // destinations
  };
  static constexpr int together = 4;  // items whose chains of operations are interleaved

  // Calls f(N, i, u) for N rows i and vectors u of [0, rows) x [begin, begin + units) at a time, u varying fastest.
  template <class F> HEADGATE_INLINE void each(int64_t rows, int64_t begin, int64_t units, F f) {
    int64_t i = 0, j = 0, left = rows * units;
    const auto take = [&](auto N) {
      int64_t row[N.value], unit[N.value];
      for (int k = 0; k < N.value; ++k) {
        row[k] = i, unit[k] = begin + j;
        if (++j == units) j = 0, ++i;
      }
      f(N, row, unit);
      left -= N.value;
    };
    while (left >= together) take(std::integral_constant<int, together>{});
    while (left) take(std::integral_constant<int, 1>{});
  }

  HEADGATE_INLINE Vec<T> blend(Vec<T> z, Vec<T> n, Vec<T> h) { return fma(z, h - n, n); }  // (1 - z) n + z h

  // The sums of vector v of a packed matrix, scaled if it is int8.
  HEADGATE_INLINE Vec<T> value(const T* sums, const T* scale, int64_t v) {
    if constexpr (std::is_same_v<P, int8_t>) return load(sums) * load(scale + v * w);
    return load(sums);
  }

  // sums (N, 3, w): W_h h of r, z, n.
  template <int N> void finish_after(const Item* items, const T* sums) const {
    const T* scale = packed_.hidden_scale;
    Vec<T> r[N], z[N], m[N], n[N];
#pragma GCC unroll 4
    for (int k = 0; k < N; ++k) r[k] = sigmoid<T>(load(items[k].a) + value(sums + k * 3 * w, scale, items[k].u * 3));
#pragma GCC unroll 4
    for (int k = 0; k < N; ++k) {
      m[k] = value(sums + (k * 3 + 2) * w, scale, items[k].u * 3 + 2) + load(packed_.bias_n + items[k].u * w);
      n[k] = tanh<T>(fma(r[k], m[k], load(items[k].a + 2 * w)));
    }
#pragma GCC unroll 4
    for (int k = 0; k < N; ++k)
      z[k] = sigmoid<T>(load(items[k].a + w) + value(sums + (k * 3 + 1) * w, scale, items[k].u * 3 + 1));
#pragma GCC unroll 4
    for (int k = 0; k < N; ++k) {
      const int lanes = q_.lanes(items[k].u);
      const Vec<T> h = load_part(items[k].h, lanes);
      store_part(items[k].state, blend(z[k], n[k], h), lanes);
      T* save = items[k].gates;
      if (!save) continue;
      store(save, r[k]), store(save + gate_lanes, z[k]), store(save + 2 * gate_lanes, n[k]);
      store(save + 3 * gate_lanes, m[k]);
    }
  }

  // sums (N, w)
  template <int N> void finish_r_or_z(int gate, const Item* items, const T* sums) const {
    Vec<T> opened[N];
#pragma GCC unroll 4
    for (int k = 0; k < N; ++k)
      opened[k] = sigmoid<T>(load(items[k].a + gate * w) +
                             value(sums + k * w, packed_.hidden_scale, gate * q_.U + items[k].u));
#pragma GCC unroll 4
    for (int k = 0; k < N; ++k) {
      const int64_t at = (items[k].b * q_.U + items[k].u) * w;
      if (gate == 0)
        store(reset_state_ + at, opened[k] * load_part(items[k].h, q_.lanes(items[k].u)));
      else
        store(z_ + at, opened[k]);
      if (items[k].gates) store(items[k].gates + gate * gate_lanes, opened[k]);
    }
  }

  // sums (N, w)
  template <int N> void finish_before(const Item* items, const T* sums) const {
    Vec<T> n[N];
#pragma GCC unroll 4
    for (int k = 0; k < N; ++k)
      n[k] = tanh<T>(load(items[k].a + 2 * w) + value(sums + k * w, packed_.hidden_scale, 2 * q_.U + items[k].u));
#pragma GCC unroll 4
    for (int k = 0; k < N; ++k) {
      const int lanes = q_.lanes(items[k].u);
      const Vec<T> h = load_part(items[k].h, lanes), z = load(z_ + (items[k].b * q_.U + items[k].u) * w);
      store_part(items[k].state, blend(z, n[k], h), lanes);
      T* save = items[k].gates;
      if (save) store(save + 2 * gate_lanes, n[k]), store(save + 3 * gate_lanes, Vec<T>{});
    }
  }

  Sequence<T> q_;
  Team& team_;
  int threads_ = 0;
  bool split_rows_ = false, few_ids_ = false;
  int64_t chunk_ = 0, units_beyond_ = 0;
  Packed<T, P> packed_;
  T *reset_state_ = nullptr, *z_ = nullptr;  // with reset before: r * h and z of the current step, (B, U, w)
  Own* own_ = nullptr;
};

}  // namespace
}  // namespace HEADGATE_LEVEL
}  // namespace headgate
