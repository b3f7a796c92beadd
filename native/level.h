// The interface of an instruction level; level.cpp is compiled once for each level.
#pragma once

#include <memory>

#include "headgate.h"

namespace headgate {

// A trained language model, its weights packed for the level that created it.
class Model {
 public:
  virtual ~Model() = default;
  virtual int64_t vocabulary() const = 0;
  virtual void step(int64_t B, int threads, const int64_t* ids, float* state, float* logits) const = 0;
  virtual void read(int64_t T, int64_t B, int threads, const int64_t* ids, float* state, float* outputs) const = 0;
  virtual void logits(int64_t N, int threads, const float* outputs, float* logits) const = 0;
  virtual void generate(const headgate_sampling&, int64_t n, int threads, const double* uniform, const uint8_t* forbidden,
                        uint8_t* seen, float* logits, float* state, int64_t* ids) const = 0;
};

struct Level {
  void (*forward_float)(const headgate_gru&);
  void (*forward_double)(const headgate_gru&);
  void (*backward_float)(const headgate_gru&, const headgate_gru_gradients&);
  void (*backward_double)(const headgate_gru&, const headgate_gru_gradients&);
  void (*cross_entropy_float)(const headgate_head&);
  void (*cross_entropy_double)(const headgate_head&);
  std::unique_ptr<Model> (*new_model)(const headgate_weights&);
  void (*sigmoid_float)(int64_t n, const float* x, float* y);
  void (*sigmoid_double)(int64_t n, const double* x, double* y);
  void (*tanh_float)(int64_t n, const float* x, float* y);
  void (*tanh_double)(int64_t n, const double* x, double* y);
  void (*peak_float)(int32_t threads, int64_t steps);
};

extern const Level baseline_level, avx2_level, avx512_level, amx_level;

}  // namespace headgate
