// All vectorized code, compiled for one instruction level: -DHEADGATE_LEVEL=baseline, avx2, avx512 or amx.
//
// Functions that are not inlined must not share a name across levels, or the linker would keep only one of them: all are
// in the level's namespace or in an unnamed one.
#include "level.h"

#include "activation.h"
#include "backward.h"
#include "forward.h"
#include "head.h"
#include "model.h"

namespace headgate {
namespace HEADGATE_LEVEL {
namespace {

template <class T, Vec<T> (*f)(Vec<T>)> void elementwise(int64_t n, const T* x, T* y) {
  for (int64_t i = 0; i < n; i += width<T>) {
    const int lanes = int(least(width<T>, n - i));
    store_part(y + i, f(load_part(x + i, lanes)), lanes);
  }
}

// Calls f(P, on_tiles). P is the type in which the weights that rows are multiplied with are packed; on_tiles is true
// if the weights' gradients are computed on tiles. Below these sizes, packing for tiles costs more than tiles save.
constexpr int64_t units_for_tiles = 128, tokens_for_tiles = 32, rows_for_tiles = 24;
template <class T, class F> void on_tiles(bool invariant, int64_t rows, int64_t H, int64_t tokens, F f) {
  T* const vectors = nullptr;
  if constexpr (has_tiles && std::is_same_v<T, float>) {
    if (H >= units_for_tiles) {
      if (!invariant && rows >= rows_for_tiles) return f(static_cast<Tile*>(nullptr), std::true_type{});
      if (tokens >= tokens_for_tiles) return f(vectors, std::true_type{});
    }
  }
  f(vectors, std::false_type{});
}
template <class P> using Pointed = std::remove_pointer_t<P>;

template <class T> void forward(const headgate_gru& g) {
  Workspace workspace;
  Team team(g.threads);
  on_tiles<T>(g.invariant, g.B, g.H, 0, [&](auto* p, auto) { Forward<T, Pointed<decltype(p)>>(g, team, workspace).run(); });
}
template <class T> void backward(const headgate_gru& g, const headgate_gru_gradients& d) {
  on_tiles<T>(g.invariant, g.B, g.H, g.T * g.B,
              [&](auto* p, auto of_gradients) { Backward<T, Pointed<decltype(p)>, of_gradients>(g, d).run(); });
}
template <class T> void cross_entropy(const headgate_head& g) {
  on_tiles<T>(g.invariant, g.N, g.H, g.N,
              [&](auto* p, auto of_gradients) { Head<T, Pointed<decltype(p)>, of_gradients>(g).run(); });
}

void peak(int32_t threads, int64_t steps) {
  Team team(threads);
  team.run([steps](int index) {
    constexpr int chains = 12;
    Vec<float> sum[chains];
    const Vec<float> x = broadcast(1.0f + float(index) * 1e-7f), y = broadcast(1e-9f);
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) sum[i] = broadcast(float(i) * 1e-9f);
    for (int64_t k = 0; k < steps; ++k) {
#pragma GCC unroll 12
      for (int i = 0; i < chains; ++i) sum[i] = fma(sum[i], x, y);
    }
    Vec<float> all = sum[0];
#pragma GCC unroll 12
    for (int i = 1; i < chains; ++i) all += sum[i];
    volatile float keep = all[0];
    (void)keep;
  });
}

}  // namespace
}  // namespace HEADGATE_LEVEL

#define HEADGATE_JOIN(a, b) a##b
#define HEADGATE_NAME(level) HEADGATE_JOIN(level, _level)
const Level HEADGATE_NAME(HEADGATE_LEVEL) = {
    HEADGATE_LEVEL::forward<float>,
    HEADGATE_LEVEL::forward<double>,
    HEADGATE_LEVEL::backward<float>,
    HEADGATE_LEVEL::backward<double>,
    HEADGATE_LEVEL::cross_entropy<float>,
    HEADGATE_LEVEL::cross_entropy<double>,
    HEADGATE_LEVEL::new_model,
    HEADGATE_LEVEL::elementwise<float, HEADGATE_LEVEL::sigmoid<float>>,
    HEADGATE_LEVEL::elementwise<double, HEADGATE_LEVEL::sigmoid<double>>,
    HEADGATE_LEVEL::elementwise<float, HEADGATE_LEVEL::tanh<float>>,
    HEADGATE_LEVEL::elementwise<double, HEADGATE_LEVEL::tanh<double>>,
    HEADGATE_LEVEL::peak,
};

}  // namespace headgate
