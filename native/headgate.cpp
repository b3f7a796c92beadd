// The C interface: picks the level of instructions and turns exceptions into statuses.
#include "headgate.h"

#include <atomic>
#include <new>
#include <system_error>

#include "level.h"

namespace {

using headgate::Level;

const Level* of(int32_t level) {
#if defined(HEADGATE_X86)
  __builtin_cpu_init();
  if (level == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return &headgate::avx512_level;
  if (level == 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &headgate::avx2_level;
#endif
  return level == 0 ? &headgate::baseline_level : nullptr;
}

int32_t highest() {
  int32_t level = 2;
  while (!of(level)) --level;
  return level;
}

std::atomic<int32_t>& in_use() {
  static std::atomic<int32_t> level{highest()};
  return level;
}

const Level& level() { return *of(in_use().load(std::memory_order_relaxed)); }

template <class F> int32_t status_of(F f) {
  try {
    f();
    return HEADGATE_OK;
  } catch (const std::bad_alloc&) {
    return HEADGATE_NO_MEMORY;
  } catch (const std::system_error&) {
    return HEADGATE_NO_THREADS;
  }
}

}  // namespace

extern "C" {

int32_t headgate_forward_float(const headgate_gru* g) {
  return status_of([=] { level().forward_float(*g); });
}
int32_t headgate_forward_double(const headgate_gru* g) {
  return status_of([=] { level().forward_double(*g); });
}
int32_t headgate_backward_float(const headgate_gru* g, const headgate_gru_gradients* d) {
  return status_of([=] { level().backward_float(*g, *d); });
}
int32_t headgate_backward_double(const headgate_gru* g, const headgate_gru_gradients* d) {
  return status_of([=] { level().backward_double(*g, *d); });
}
int64_t headgate_packed_size_float(const headgate_gru* g) { return level().packed_size_float(*g); }
int32_t headgate_pack_float(const headgate_gru* g, float* packed) {
  return status_of([=] { level().pack_float(*g, packed); });
}

int32_t headgate_version(void) { return HEADGATE_VERSION; }
int32_t headgate_level(void) { return in_use().load(); }
int32_t headgate_use_level(int32_t level) {
  if (level < 0 || level > 2 || !of(level)) return HEADGATE_NO_LEVEL;
  in_use().store(level);
  return HEADGATE_OK;
}

void headgate_sigmoid_float(int64_t n, const float* x, float* y) { level().sigmoid_float(n, x, y); }
void headgate_sigmoid_double(int64_t n, const double* x, double* y) { level().sigmoid_double(n, x, y); }
void headgate_tanh_float(int64_t n, const float* x, float* y) { level().tanh_float(n, x, y); }
void headgate_tanh_double(int64_t n, const double* x, double* y) { level().tanh_double(n, x, y); }
int32_t headgate_peak_float(int32_t threads, int64_t steps) {
  return status_of([=] { level().peak_float(threads, steps); });
}

}  // extern "C"
