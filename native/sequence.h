// The arguments of a pass over a sequence, and how threads share the work; headgate.h documents the arguments.
//
// A step multiplies the rows' states by the recurrent weights and, as soon as a panel's sums are complete, computes the
// gates of its hidden units. Threads share a step in one of two ways: each takes some rows (no thread waits for another
// within the sequence), or, if there are few rows, each takes some hidden units (they meet once or twice per step).
//
// Letters: T, B, I, H as in headgate.h; w lanes of a vector; U = ceil(H / w) vectors of hidden units; s the index of a
// step in reading order, t its index in the sequence.
#pragma once

#include "headgate.h"
#include "product.h"
#include "threads.h"

namespace headgate {
namespace HEADGATE_LEVEL {
namespace {

constexpr int gate_lanes = HEADGATE_GATE_LANES;

// The number of tokens whose contributions to the weights' gradients are summed together: the few numbers per hidden
// unit that each token stores for the sum should still be in the L2 cache when they are read.
constexpr int64_t chunk_tokens(int64_t H) { return H < 16 ? 4096 : H < 128 ? 65536 / H : 512; }

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// Part `index` of `parts` of [0, n), cut at multiples of `unit`.
Range part(int64_t n, int index, int parts, int64_t unit = 1) {
  const int64_t blocks = (n + unit - 1) / unit;
  return {least(n, blocks * index / parts * unit), least(n, blocks * (index + 1) / parts * unit)};
}

// The arguments with their types, and quantities derived from them.
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

  // The address of r for vector u of units, in memory laid out like `gates`; z, n, m follow at distances of gate_lanes.
  template <class P> P* gate(P* gates, int64_t t, int64_t b, int64_t u) const {
    constexpr int64_t lanes = gate_lanes;
    return gates + ((t * ((H + lanes - 1) / lanes) + u * w / lanes) * B + b) * 4 * lanes + u * w % lanes;
  }

  // True if the state starts over before step t: forward, if the step begins a sequence; in reverse, if it ends one.
  bool starts_over(int64_t t, int64_t b) const {
    if (!g.resets) return false;
    if (!reverse) return g.resets[t * B + b];
    return t + 1 < length(b) && g.resets[(t + 1) * B + b];
  }
  // The state (H) before step t of row b, which must be active.
  const Real* before(int64_t t, int64_t b) const {
    if (starts_over(t, b)) return reset_state ? reset_state : zeros;
    if (reverse) return t + 1 < length(b) ? states + ((t + 1) * B + b) * H : h0 + b * H;
    return t ? states + ((t - 1) * B + b) * H : h0 + b * H;
  }
  const Real* input(int64_t t, int64_t b) const { return x + t * g.x_t + b * g.x_b; }

  // Writes the rows of a range that are active at step t, and returns their number.
  int64_t active_rows(int64_t t, Range rows, int64_t* found) const {
    int64_t n = 0;
    for (int64_t b = rows.begin; b < rows.end; ++b)
      if (active(t, b)) found[n++] = b;
    return n;
  }
};

// The rows and hidden units (in vectors) of one thread; one of the two is the whole range.
struct Territory {
  Range rows, units;
};
inline Territory territory(int64_t B, int64_t U, int index, int threads, bool split_rows) {
  return {split_rows ? part(B, index, threads) : Range{0, B}, split_rows ? Range{0, U} : part(U, index, threads)};
}

// With at least rows_to_split rows per thread, rows are split: every thread reads all weights, but none waits for
// another. Hidden units are split instead if a thread's L2 cache can hold a share of the weights but not all of them.
constexpr int64_t rows_to_split = 8, weights_to_split = 2 << 20;
template <class P> bool splits_rows(int64_t B, int64_t H, int threads) {
  return B >= rows_to_split * threads && (threads == 1 || 3 * H * H * bytes_of_number<P> <= weights_to_split);
}

}  // namespace
}  // namespace HEADGATE_LEVEL
}  // namespace headgate
