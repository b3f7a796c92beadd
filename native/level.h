// What each level of instructions offers; level.cpp is compiled once for each.
#pragma once

#include "headgate.h"

namespace headgate {

struct Level {
  void (*forward_float)(const headgate_gru&);
  void (*forward_double)(const headgate_gru&);
  void (*backward_float)(const headgate_gru&, const headgate_gru_gradients&);
  void (*backward_double)(const headgate_gru&, const headgate_gru_gradients&);
  int64_t (*packed_size_float)(const headgate_gru&);
  void (*pack_float)(const headgate_gru&, float* packed);
  void (*sigmoid_float)(int64_t n, const float* x, float* y);
  void (*sigmoid_double)(int64_t n, const double* x, double* y);
  void (*tanh_float)(int64_t n, const float* x, float* y);
  void (*tanh_double)(int64_t n, const double* x, double* y);
  void (*peak_float)(int32_t threads, int64_t steps);
};

extern const Level baseline_level, avx2_level, avx512_level;

}  // namespace headgate
