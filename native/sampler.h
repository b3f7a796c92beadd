// Draws ids from logits. Letters: V vocabulary.
#pragma once

#include <algorithm>
#include <cmath>

#include "forward.h"

namespace headgate {
namespace HEADGATE_LEVEL {
namespace {

// Draws ids as runtime/sampling.py does, in doubles.
class Sampler {
 public:
  Sampler(const headgate_sampling& how, int64_t V, const uint8_t* forbidden, uint8_t* seen, Workspace& workspace)
      : how_(how), V_(V), forbidden_(forbidden), seen_(seen), p_(workspace.get<double>(V + width<double>)),
        order_(workspace.get<int64_t>(V)) {}

  int64_t draw(const float* logits, double uniform) {
    for (int64_t v = 0; v < V_; ++v) {
      double x = forbidden_[v] ? -INFINITY : double(logits[v]);
      if (seen_[v]) x = x > 0 ? x / how_.repetition_penalty : x * how_.repetition_penalty;
      p_[v] = x;
    }
    const int64_t best = std::max_element(p_, p_ + V_) - p_;
    if (how_.temperature == 0) return best;
    const double top = p_[best];
    for (int64_t v = 0; v < V_; v += width<double>) {
      const Vec<double> y = (load(p_ + v) - top) / how_.temperature;
      store(p_ + v, exponential<double>(y));
    }
    if (how_.top_k > 0 && how_.top_k < V_) keep(ranked(how_.top_k));
    normalize();
    if (how_.top_p < 1) {
      const int64_t n = ranked(V_);
      double before = 0;
      int64_t kept = 0;
      while (kept < n && before < how_.top_p) before += p_[order_[kept++]];
      keep(kept);
    }
    const double least_p = how_.min_p * p_[best];
    for (int64_t v = 0; v < V_; ++v)
      if (p_[v] < least_p) p_[v] = 0;
    normalize();
    double cumulated = 0;
    int64_t last = best;
    for (int64_t v = 0; v < V_; ++v) {
      if (p_[v] > 0) last = v;
      cumulated += p_[v];
      if (cumulated > uniform) return v;
    }
    return last;  // rounding left the sum just below one
  }

 private:
  // Sorts the n most probable ids to the front of order_, lower ids first among equals; returns n.
  int64_t ranked(int64_t n) {
    for (int64_t v = 0; v < V_; ++v) order_[v] = v;
    const double* p = p_;
    const auto before = [p](int64_t a, int64_t b) { return p[a] > p[b] || (p[a] == p[b] && a < b); };
    std::partial_sort(order_, order_ + n, order_ + V_, before);
    return n;
  }
  // Sets the probabilities of all but the first n of order_ to zero.
  void keep(int64_t n) {
    for (int64_t i = n; i < V_; ++i) p_[order_[i]] = 0;
  }
  void normalize() {
    double sum = 0;
    for (int64_t v = 0; v < V_; ++v) sum += p_[v];
    for (int64_t v = 0; v < V_; ++v) p_[v] /= sum;
  }

  const headgate_sampling& how_;
  const int64_t V_;
  const uint8_t* forbidden_;
  uint8_t* seen_;
  double* p_;
  int64_t* order_;
};

}  // namespace
}  // namespace HEADGATE_LEVEL
}  // namespace headgate
