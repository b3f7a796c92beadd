// The C interface: picks the instruction level and turns exceptions into status codes.
#include "headgate.h"

#include <atomic>
#include <new>
#include <system_error>

#include "level.h"

#if defined(HEADGATE_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

struct headgate_model {
  std::unique_ptr<headgate::Model> of_level;
};

namespace {

using headgate::Level;

#if defined(HEADGATE_AMX)
// True if there are matrix tiles with bfloat16. Linux grants a process their use only after a request, made here.
bool has_amx() {
  unsigned a, b, c, d;
  constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24, avx512_bf16 = 1u << 5;
  constexpr int request_permission = 0x1023, tile_data = 18;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & amx_bf16) || !(d & amx_tile)) return false;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & avx512_bf16)) return false;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

constexpr int32_t highest_level = 3;

const Level* of(int32_t level) {
#if defined(HEADGATE_AMX)
  static const bool amx = has_amx();
  if (level == 3 && amx && of(2)) return &headgate::amx_level;
#endif
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
  int32_t level = highest_level;
  while (!of(level)) --level;
  return level;
}

std::atomic<int32_t>& in_use() {
  static std::atomic<int32_t> level{highest()};
  return level;
}

const Level& level() { return *of(in_use().load(std::memory_order_relaxed)); }

bool all_known(const headgate_model& model, int64_t n, const int64_t* ids) {
  const int64_t V = model.of_level->vocabulary();
  for (int64_t i = 0; i < n; ++i)
    if (ids[i] < 0 || ids[i] >= V) return false;
  return true;
}

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
int32_t headgate_cross_entropy_float(const headgate_head* g) {
  return status_of([=] { level().cross_entropy_float(*g); });
}
int32_t headgate_cross_entropy_double(const headgate_head* g) {
  return status_of([=] { level().cross_entropy_double(*g); });
}
headgate_model* headgate_model_new(const headgate_weights* weights) {
  try {
    return new headgate_model{level().new_model(*weights)};
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void headgate_model_free(headgate_model* model) { delete model; }
int32_t headgate_model_step(const headgate_model* model, int64_t B, int32_t threads, const int64_t* ids, float* state,
                            float* logits) {
  if (!all_known(*model, B, ids)) return HEADGATE_BAD_ID;
  return status_of([=] { model->of_level->step(B, threads, ids, state, logits); });
}
int32_t headgate_model_read(const headgate_model* model, int64_t T, int64_t B, int32_t threads, const int64_t* ids,
                            float* state, float* outputs) {
  if (!all_known(*model, T * B, ids)) return HEADGATE_BAD_ID;
  return status_of([=] { model->of_level->read(T, B, threads, ids, state, outputs); });
}
int32_t headgate_model_logits(const headgate_model* model, int64_t N, int32_t threads, const float* outputs,
                              float* logits) {
  return status_of([=] { model->of_level->logits(N, threads, outputs, logits); });
}
int32_t headgate_model_generate(const headgate_model* model, const headgate_sampling* sampling, int64_t n,
                                int32_t threads, const double* uniform, const uint8_t* forbidden, uint8_t* seen,
                                float* logits, float* state, int64_t* ids) {
  return status_of([=] {
    model->of_level->generate(*sampling, n, threads, uniform, forbidden, seen, logits, state, ids);
  });
}

int32_t headgate_version(void) { return HEADGATE_VERSION; }
int32_t headgate_level(void) { return in_use().load(); }
int32_t headgate_use_level(int32_t level) {
  if (level < 0 || level > highest_level || !of(level)) return HEADGATE_NO_LEVEL;
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
