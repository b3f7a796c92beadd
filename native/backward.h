// The GRU over a sequence, backward.
//
// With e the gradient of the state after a step, g' that of a gate before its nonlinearity, and m = W_hn h + b_hn:
//
//   n' = e (1 - z) (1 - n^2)        z' = e (h - n) z (1 - z)
//   reset after:   r' = n' m r (1 - r)               dh = e z + W_r^T r' + W_z^T z' + W_n^T (n' r)
//   reset before:  q = W_n^T n',  r' = q h r (1 - r)    dh = e z + W_r^T r' + W_z^T z' + q r
//
// Steps are processed in chunks, from the last to the first. A token is an active row of a step, counted within its
// chunk. Each token stores four parts, n', r', z' and n' r (with reset before, r h), in two layouts: contiguous as a
// row (4, H), for the products with the weights, which compute dh and, for several steps together, the gradient of the
// input; and packed over the tokens of a chunk, together with the state before, for the weights' gradients, which are
// products over all tokens of a chunk.
//
// Letters as in sequence.h.
#pragma once

#include <cstring>

#include "product.h"
#include "sequence.h"
#include "tiled_product.h"

namespace headgate {
namespace HEADGATE_LEVEL {
namespace {

// P: the type in which weights are packed. on_tiles: their gradients are computed on matrix tiles.
template <class T, class P = T, bool on_tiles = std::is_same_v<P, Tile>> class Backward {
  static constexpr int w = width<T>;
  enum Part { of_n, of_r, of_z, fourth };  // of a token

 public:
  Backward(const headgate_gru& g, const headgate_gru_gradients& d) : q_(g), d_(d), team_(g.threads) {
    threads_ = team_.size();
    split_rows_ = splits_rows<P>(q_.B, q_.H, threads_);
    if (!split_rows_ && q_.U < threads_ * 2) threads_ = 1;
    T* zeros = workspace_.get<T>(q_.H + w);
    std::memset(zeros, 0, size_t(q_.H + w) * sizeof(T));
    q_.zeros = zeros;

    const int64_t T_ = q_.T, B = q_.B, H = q_.H, I = q_.I, U = q_.U;
    first_ = workspace_.get<int64_t>(T_ + 1);
    first_[0] = 0;
    for (int64_t s = 0; s < T_; ++s) {
      int64_t n = B;
      if (g.lengths) {
        n = 0;
        for (int64_t b = 0; b < B; ++b) n += q_.active(q_.place(s), b);
      }
      first_[s + 1] = first_[s] + n;
    }
    const int64_t chunks = 1 + (T_ * B - 1) / chunk_tokens(H);
    chunk_ = chunks > 0 ? 1 + (T_ - 1) / chunks : 1;
    if (chunk_ < 1) chunk_ = 1;
    const int64_t rows = split_rows_ ? (B + threads_ - 1) / threads_ : B;
    group_ = least(chunk_, 1 + (rows_together - 1) / (rows ? rows : 1));
    if (split_rows_ && !d.d_x) group_ = 1;  // nothing needs the rows of several steps: one step's stay in the cache
    const int64_t tokens = chunk_ * B, packed = vector_stride<T>(tokens);
    IV_ = (I + w - 1) / w;
    few_ids_ = q_.ids && T_ * B < I / 2;
    dense_ = !q_.ids && d.d_weight_ih;
    pack_hidden_ = !std::is_same_v<P, T> || H % w || B > rows_without_packing;

    last_ = q_.after ? 3 * H : 2 * H;
    if (pack_hidden_) {
      hidden_memory_ = workspace_.get<P>(U * vector_stride<T, P>(last_));
      hidden_ = packed_columns<T>(static_cast<const P*>(hidden_memory_), last_);
      if (!q_.after) candidate_memory_ = workspace_.get<P>(U * vector_stride<T, P>(H));
      candidate_ = packed_columns<T>(static_cast<const P*>(candidate_memory_), H);
    } else if constexpr (std::is_same_v<P, T>) {
      hidden_ = {q_.weight_hh, w, H};
      candidate_ = hidden_.from(0, 2 * H);
    }
    if (d.d_x) input_ = workspace_.get<P>(IV_ * vector_stride<T, P>(3 * H));
    rows_ = workspace_.get<T>(group_ * B * row_stride() + w);
    for (T*& part : packed_) part = workspace_.get<T>(U * packed);
    states_ = workspace_.get<T>(U * packed);
    if (dense_) inputs_ = workspace_.get<T>(IV_ * packed);
    if constexpr (on_tiles) {
      const int64_t panel = tiles_of_panel(tokens);
      if (d.d_weight_hh) states_panels_ = workspace_.get<Tile>(U * panel);
      if (d.d_weight_hh && !q_.after) fourth_panels_ = workspace_.get<Tile>(U * panel);
      if (dense_) inputs_panels_ = workspace_.get<Tile>(IV_ * panel);
    }
    dh_ = workspace_.get<T>(U * B * w);
    token_ = workspace_.get<int64_t>(tokens + 1);
    const int64_t sums = 4 * U * w, table = q_.ids && d.d_weight_ih && !few_ids_ ? 3 * U * I * w : 0;
    bias_ = workspace_.get<T>(2 * sums), bias_excess_ = bias_ + sums;
    if (table) table_ = workspace_.get<T>(2 * table), table_excess_ = table_ + table;
    own_ = workspace_.get<Own>(threads_);
    for (int i = 0; i < threads_; ++i) {
      Own& my = own_[i];
      my.sums = workspace_.get<T>(sums_size<T, P>(3 * H, U > IV_ ? U : IV_));
      my.active = workspace_.get<int64_t>(B + 1);
      my.places = workspace_.get<int64_t>(group_ * B + 1);
      my.rows = workspace_.get<const T*>(tokens + 3 * H + 1);
      if constexpr (on_tiles) my.panels = workspace_.get<Tile>((2 + U / threads_) * tiles_of_panel(tokens));
    }
  }

  void run() {
    team_.run([this](int index) {
      if (index >= threads_) return;
      [[maybe_unused]] const std::conditional_t<on_tiles, TileUse, std::nullptr_t> use{};
      Own& my = own_[index];
      const Territory own = territory(q_.B, q_.U, index, threads_, split_rows_);
      prepare(index, own, my);
      wait();
      bool first = true;
      int64_t end = q_.T;
      do {
        const int64_t begin = end > chunk_ ? end - chunk_ : 0;
        for (int64_t last = end; last > begin; last -= least(group_, last - begin)) {
          const int64_t from = last - least(group_, last - begin);
          for (int64_t s = last; s-- > from;) step(s, begin, from, own, my);
          if (d_.d_x) inputs_gradient(from, last, index, own, my);
          if (!split_rows_) wait();
        }
        if (split_rows_) wait();
        const int64_t tokens = first_[end] - first_[begin];
        if (dense_) {
          pack_inputs(tokens, index, my);
          wait();
        }
        if constexpr (on_tiles) {
          pack_panels(tokens, index);
          wait();
        }
        weights_gradients(tokens, index, my, first);
        wait();
        first = false;
        end = begin;
      } while (end > 0);
      finish(index, own);
    });
  }

 private:
  struct Own {  // a thread's memory
    T* sums;
    int64_t *active, *places;
    const T** rows;
    Tile* panels;
  };

  // For so few rows, packing W_hh would cost more than it saves: they read it in place.
  static constexpr int64_t rows_without_packing = 4;
  static constexpr int64_t rows_together = std::is_same_v<P, Tile> ? tiled_group : row_group;
  static constexpr int64_t vectors_to_share = 8;

  void wait() {
    if (threads_ > 1) team_.barrier().wait();
  }
  static T* out(void* p) { return static_cast<T*>(p); }
  static const T* in(const void* p) { return static_cast<const T*>(p); }
  // Row b of step s, in a group that begins at step `from`.
  T* row(int64_t s, int64_t from, int64_t b, Part p) const { return rows_ + ((s - from) * q_.B + b) * row_stride() + p * q_.H; }
  int64_t row_stride() const { return 4 * q_.H + 16; }  // not a power of two
  // The offset of vector u of a packed matrix.
  int64_t packed(int64_t u) const { return u * vector_stride<T>(chunk_ * q_.B); }
  Columns<T> packed_right(const T* p) const { return packed_columns<T>(p, chunk_ * q_.B); }
  // The range of `units` within a row of H.
  Range columns(Range units) const { return {units.begin * w, least(units.end * w, q_.H)}; }
  T* dh(int64_t b, int64_t u) const { return dh_ + (u * q_.B + b) * w; }

  void prepare(int index, Territory own, Own& my) {
    const int64_t H = q_.H;
    const Range units = part(q_.U, index, threads_);
    if (pack_hidden_) {
      for (int64_t k = 0; k < 3 * H; ++k) my.rows[k] = q_.weight_hh + k * H;
      pack_columns(my.rows, last_, H, units.begin, units.end, hidden_memory_, vector_stride<T, P>(last_));
      if (!q_.after)
        pack_columns(my.rows + 2 * H, H, H, units.begin, units.end, candidate_memory_, vector_stride<T, P>(H));
    }
    if (d_.d_x) {
      for (int64_t k = 0; k < 3 * H; ++k) my.rows[k] = q_.weight_ih + (k < H ? k + 2 * H : k - H) * q_.I;
      const Range vectors = part(IV_, index, threads_);
      pack_columns(my.rows, 3 * H, q_.I, vectors.begin, vectors.end, input_, vector_stride<T, P>(3 * H));
      if (q_.g.lengths) {
        const Range steps = part(q_.T, index, threads_);
        std::memset(out(d_.d_x) + steps.begin * q_.B * q_.I, 0, size_t(steps.size() * q_.B * q_.I) * sizeof(T));
      }
    }
    const Range own_columns = columns(own.units);
    for (int64_t b = own.rows.begin; b < own.rows.end; ++b) {
      for (int64_t u = own.units.begin; u < own.units.end; ++u)
        store(dh(b, u), d_.d_last ? load_part(in(d_.d_last) + b * H + u * w, q_.lanes(u)) : Vec<T>{});
      if (d_.d_reset_state && own_columns.size() > 0)
        std::memset(out(d_.d_reset_state) + b * H + own_columns.begin, 0, size_t(own_columns.size()) * sizeof(T));
    }
    const auto clear = [&](T* sums, int64_t parts, int64_t size) {  // (parts, U, size), own units
      for (int64_t p = 0; p < parts; ++p)
        std::memset(sums + (p * q_.U + units.begin) * size, 0, size_t(units.size() * size) * sizeof(T));
    };
    clear(bias_, 4, w), clear(bias_excess_, 4, w);
    if (table_) clear(table_, 3, q_.I * w), clear(table_excess_, 3, q_.I * w);
    const Range rows = columns(units);
    if (few_ids_ && d_.d_weight_ih && rows.size() > 0)
      for (int gate = 0; gate < 3; ++gate)
        std::memset(out(d_.d_weight_ih) + (gate * H + rows.begin) * q_.I, 0, size_t(rows.size() * q_.I) * sizeof(T));
  }

  // Step s of a chunk that begins at step `begin`, in a group that begins at `from`.
  void step(int64_t s, int64_t begin, int64_t from, Territory own, Own& my) {
    const int64_t t = q_.place(s), H = q_.H;
    const Range units = own.units;
    int64_t token = first_[s] - first_[begin];  // becomes that of the first own row
    if (q_.g.lengths)
      for (int64_t b = 0; b < own.rows.begin; ++b) token += q_.active(t, b);
    else
      token += own.rows.begin;
    const int64_t rows = q_.active_rows(t, own.rows, my.active);

    for (int64_t i = 0; i < rows; ++i) my.rows[i] = q_.before(t, my.active[i]);
    for (int64_t u = units.begin; u < units.end; ++u)  // rows innermost: packed memory is contiguous over rows
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t b = my.active[i];
        through_gates(t, b, u, my.rows[i] + u * w, token + i, row(s, from, b, of_n) + u * w);
      }
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t b = my.active[i];
      if (units.begin == 0) token_[token + i] = t * q_.B + b;  // by one thread per row
      my.rows[i] = row(s, from, b, q_.after ? of_r : of_n);
    }
    if (!split_rows_) wait();
    if (q_.after) {
      multiply<1>(rows, my.rows, 3 * H, hidden_, units.begin, units.end, my.sums,
                  [&](int64_t v, int n, int64_t i, const T* sums) { add(my.active[i], v, n, sums); });
    } else {
      multiply<1>(rows, my.rows, H, candidate_, units.begin, units.end, my.sums,
                  [&](int64_t v, int n, int64_t i, const T* sums) {
                    const int64_t b = my.active[i];
                    for (int64_t u = v; u < v + n; ++u, sums += w)
                      through_reset(t, b, u, token + i, row(s, from, b, of_r) + u * w, load(sums));
                  });
      if (!split_rows_) wait();
      for (int64_t i = 0; i < rows; ++i) my.rows[i] = row(s, from, my.active[i], of_r);
      multiply<1>(rows, my.rows, 2 * H, hidden_, units.begin, units.end, my.sums,
                  [&](int64_t v, int n, int64_t i, const T* sums) { add(my.active[i], v, n, sums); });
    }
    if (q_.g.resets)
      for (int64_t i = 0; i < rows; ++i)
        if (q_.starts_over(t, my.active[i])) start_over(my.active[i], units);
  }

  // Stores one vector of one part of a token in both layouts.
  HEADGATE_INLINE void leave(Vec<T> value, T* row, T* packed, int lanes) {
    store_part(row, value, lanes);
    store(packed, value);
  }

  // Computes, for one vector of units of one row, the gradients before the nonlinearities that depend only on e.
  void through_gates(int64_t t, int64_t b, int64_t u, const T* h_before, int64_t token, T* row) {
    const int lanes = q_.lanes(u);
    const int64_t H = q_.H, at = t * q_.B + b, place = packed(u) + token * w;
    const Vec<T> one = broadcast(T(1));
    const T* saved = q_.gate(static_cast<const T*>(q_.gates), t, b, u);
    Vec<T> e = load(dh(b, u));
    if (d_.d_states) e += load_part(in(d_.d_states) + at * H + u * w, lanes);
    const Vec<T> r = load(saved), z = load(saved + gate_lanes), n = load(saved + 2 * gate_lanes);
    const Vec<T> h = load_part(h_before, lanes);
    Vec<T> dz = e * (h - n), dn = e * (one - z);
    const T* d_gates = d_.d_gates ? q_.gate(in(d_.d_gates), t, b, u) : nullptr;
    if (d_gates) dz += load(d_gates + gate_lanes), dn += load(d_gates + 2 * gate_lanes);
    dz *= z * (one - z);
    dn *= fma(-n, n, one);
    leave(dn, row, packed_[of_n] + place, lanes);
    leave(dz, row + of_z * H, packed_[of_z] + place, lanes);
    store(dh(b, u), e * z);
    store(states_ + place, h);
    if (q_.after) {
      Vec<T> dr = dn * load(saved + 3 * gate_lanes);
      if (d_gates) dr += load(d_gates);
      dr *= r * (one - r);
      leave(dr, row + of_r * H, packed_[of_r] + place, lanes);
      leave(dn * r, row + fourth * H, packed_[fourth] + place, lanes);
    } else {
      store(packed_[fourth] + place, r * h);
    }
  }

  // Reset before: computes r' and adds q r to dh, where q = W_n^T n'.
  void through_reset(int64_t t, int64_t b, int64_t u, int64_t token, T* row, Vec<T> q) {
    const int lanes = q_.lanes(u);
    const int64_t place = packed(u) + token * w;
    const Vec<T> r = load(q_.gate(static_cast<const T*>(q_.gates), t, b, u));
    Vec<T> dr = q * load(states_ + place);
    if (d_.d_gates) dr += load(q_.gate(in(d_.d_gates), t, b, u));
    leave(dr * (r * (broadcast(T(1)) - r)), row, packed_[of_r] + place, lanes);
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

  // Computes the input's gradient at steps [from, last) of a group.
  void inputs_gradient(int64_t from, int64_t last, int index, Territory own, Own& my) {
    const int64_t I = q_.I, H = q_.H;
    // If hidden units are split, threads share these rows; with many vectors they share those, so that none reads all
    // weights.
    const bool share_vectors = !split_rows_ && IV_ >= vectors_to_share * threads_;
    const Range mine = split_rows_ || share_vectors ? Range{0, (last - from) * q_.B}
                                                    : part((last - from) * q_.B, index, threads_);
    const Range vectors = share_vectors ? part(IV_, index, threads_) : Range{0, IV_};
    int64_t n = 0;
    for (int64_t s = from; s < last; ++s)
      for (int64_t b = own.rows.begin; b < own.rows.end; ++b) {
        const int64_t t = q_.place(s), i = (s - from) * q_.B + b;
        if (i < mine.begin || i >= mine.end || !q_.active(t, b)) continue;
        my.rows[n] = row(s, from, b, of_n);
        my.places[n++] = t * q_.B + b;
      }
    multiply<1>(n, my.rows, 3 * H, packed_columns<T>(static_cast<const P*>(input_), 3 * H), vectors.begin, vectors.end, my.sums,
                [&](int64_t v, int n, int64_t i, const T* sums) {
                  T* to = out(d_.d_x) + my.places[i] * I;
                  for (int64_t u = v; u < v + n; ++u, sums += w)
                    store_part(to + u * w, load(sums), int(least(w, I - u * w)));
                });
  }

  void pack_inputs(int64_t tokens, int index, Own& my) {
    for (int64_t i = 0; i < tokens; ++i) my.rows[i] = q_.input(token_[i] / q_.B, token_[i] % q_.B);
    const Range vectors = part(IV_, index, threads_);
    pack_columns(my.rows, tokens, q_.I, vectors.begin, vectors.end, inputs_, packed(1));
  }

  // Packs the matrices that the parts of tokens are multiplied with as right sides on tiles.
  void pack_panels(int64_t tokens, int index) {
    const auto pack = [&](const T* from, Tile* to, int64_t vectors) {
      const Range mine = part(vectors, index, threads_);
      for (int64_t v = mine.begin; to && v < mine.end; ++v)
        pack_right(from + packed(v), tokens, to + v * tiles_of_panel(tokens));
    };
    pack(states_, states_panels_, q_.U);
    pack(packed_[fourth], fourth_panels_, q_.U);
    pack(inputs_, inputs_panels_, IV_);
  }

  // Adds a chunk's contribution to the gradients of weights and biases, own units only.
  void weights_gradients(int64_t tokens, int index, Own& my, bool first) {
    constexpr Part input_parts[] = {of_r, of_z, of_n};
    const Part hidden_parts[] = {of_r, of_z, q_.after ? fourth : of_n};
    const int64_t H = q_.H, I = q_.I;
    const Range units = part(q_.U, index, threads_);
    for (int p = 0; p < 4; ++p)
      for (int64_t u = units.begin; u < units.end; ++u) {
        const int64_t at = (p * q_.U + u) * w;
        add_rows(tokens, packed_[p] + packed(u), bias_ + at, bias_excess_ + at);
      }
    if (q_.ids && d_.d_weight_ih) {
      for (int gate = 0; gate < 3; ++gate)
        for (int64_t u = units.begin; u < units.end; ++u) scatter(tokens, gate, u, packed_[input_parts[gate]] + packed(u));
    }
    if constexpr (on_tiles) {
      const auto place = [&](void* d, int64_t gate, int64_t N) { return static_cast<float*>(d) + gate * H * N; };
      for (Part p : {of_n, of_r, of_z, fourth}) {  // each part is packed once for all its products
        Right with[2];
        int count = 0;
        for (int gate = 0; gate < 3; ++gate) {
          if (d_.d_weight_hh && hidden_parts[gate] == p)
            with[count++] = {!q_.after && gate == 2 ? fourth_panels_ : states_panels_, H, place(d_.d_weight_hh, gate, H)};
          if (dense_ && input_parts[gate] == p) with[count++] = {inputs_panels_, I, place(d_.d_weight_ih, gate, I)};
        }
        if (count) multiply_left(tokens, packed_[p], packed(1), units.begin, units.end, H, with, count, first, my.panels);
      }
    } else {
      for (int gate = 0; gate < 3; ++gate) {
        const auto product = [&](Part p, const T* right, void* d, int64_t N) {
          multiply_left(tokens, packed_[p], packed(1), units.begin, units.end, H, packed_right(right), N,
                        out(d) + gate * H * N, first, my.rows, my.sums);
        };
        if (d_.d_weight_hh) product(hidden_parts[gate], !q_.after && gate == 2 ? packed_[fourth] : states_, d_.d_weight_hh, H);
        if (dense_) product(input_parts[gate], inputs_, d_.d_weight_ih, I);
      }
    }
  }

  // For ids: adds each token's gradient to the column of its id.
  void scatter(int64_t tokens, int gate, int64_t u, const T* from) {
    const int64_t I = q_.I, at = (gate * q_.U + u) * I * w;
    T* d = out(d_.d_weight_ih) + (gate * q_.H + u * w) * I;
    for (int64_t i = 0; i < tokens; ++i, from += w) {
      const int64_t id = q_.g.ids[token_[i]];
      if (table_) {
        add_exactly<T>(load(from), table_ + at + id * w, table_excess_ + at + id * w);
      } else {
        for (int j = 0; j < q_.lanes(u); ++j) d[j * I + id] += from[j];
      }
    }
  }

  void finish(int index, Territory own) {
    const int64_t H = q_.H, I = q_.I;
    if (d_.d_h0)
      for (int64_t b = own.rows.begin; b < own.rows.end; ++b)
        for (int64_t u = own.units.begin; u < own.units.end; ++u)
          store_part(out(d_.d_h0) + b * H + u * w, load(dh(b, u)), q_.lanes(u));
    const Range units = part(q_.U, index, threads_);
    constexpr Part input_parts[] = {of_r, of_z, of_n};
    for (int gate = 0; gate < 3; ++gate)
      for (int64_t u = units.begin; u < units.end; ++u) {
        const int lanes = q_.lanes(u);
        const auto write = [&](void* d, Part p) {
          if (d) store_part(out(d) + gate * H + u * w, load(bias_ + (p * q_.U + u) * w), lanes);
        };
        write(d_.d_bias_ih, input_parts[gate]);
        write(d_.d_bias_hh, gate == 2 && q_.after ? fourth : input_parts[gate]);
        if (!table_) continue;
        const T* from = table_ + (gate * q_.U + u) * I * w;  // (I, w) -> (w, I)
        T* to = out(d_.d_weight_ih) + (gate * H + u * w) * I;
        unpack_lanes(from, I, to, I, lanes);
      }
  }

  Sequence<T> q_;
  const headgate_gru_gradients& d_;
  Workspace workspace_;
  Team team_;
  int threads_ = 0;
  bool split_rows_ = false, few_ids_ = false, dense_ = false, pack_hidden_ = true;
  int64_t chunk_ = 1, group_ = 1, IV_ = 0;  // steps of a chunk, of a group; vectors of the input
  int64_t* first_ = nullptr;                // (T + 1): tokens before step s
  int64_t last_ = 0;                        // rows of W_hh in a step's last product: all; reset before: those of r, z
  P *hidden_memory_ = nullptr, *candidate_memory_ = nullptr;  // these rows; reset before: those of n; (U) vectors
  Columns<P> hidden_{}, candidate_{};       // the same, or W_hh in place
  P* input_ = nullptr;                      // W_ih, rows in the order n, r, z, in (IV) vectors of 3H
  T *rows_ = nullptr, *dh_ = nullptr;       // (group, B, 4, H); (U, B, w)
  T* packed_[4] = {};                       // the parts of a chunk's tokens: (U) vectors of tokens
  T *states_ = nullptr, *inputs_ = nullptr; // the states before, the inputs: (U) and (IV) vectors of tokens
  Tile *states_panels_ = nullptr, *fourth_panels_ = nullptr, *inputs_panels_ = nullptr;  // the same vectors on tiles
  int64_t* token_ = nullptr;                // (tokens): t * B + b
  T *table_ = nullptr, *table_excess_ = nullptr, *bias_ = nullptr, *bias_excess_ = nullptr;  // (3, U, I, w); (4, U, w)
  Own* own_ = nullptr;
};

}  // namespace
}  // namespace HEADGATE_LEVEL
}  // namespace headgate
