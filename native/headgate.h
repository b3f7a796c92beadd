/* headgate's native library: a GRU over a sequence, forward and backward, without any framework.
 *
 *     r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
 *     z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
 *     n  = tanh(W_in x + b_in + r * (W_hn h + b_hn))      HEADGATE_RESET_AFTER
 *     n  = tanh(W_in x + b_in + W_hn (r * h) + b_hn)      HEADGATE_RESET_BEFORE
 *     h' = (1 - z) * n + z * h
 *
 * Letters: T time steps, B batch, I input size, H hidden size, V vocabulary. Gates lie in the order r, z, n.
 *
 * Every pointer is the caller's, who allocates and frees; arrays are dense and row-major unless strides are given, of
 * floats or doubles as the function's name says, aligned as such. No output may overlap an input or another output.
 * "May be null" is said where it holds. Nothing is kept between calls but a pool of threads and its workspace. Results
 * are bitwise the same for any number of threads, and for a row alone or in a batch, at one level of instructions.
 *
 * Functions return HEADGATE_OK or another status; after another one the outputs are undefined. They check no shape:
 * the caller does. They may be called from several threads at once.
 */
#ifndef HEADGATE_H
#define HEADGATE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define HEADGATE_API __declspec(dllexport)
#else
#define HEADGATE_API __attribute__((visibility("default")))
#endif

#define HEADGATE_VERSION 1 /* of this contract */

enum { HEADGATE_OK = 0, HEADGATE_NO_MEMORY = 1, HEADGATE_NO_LEVEL = 2, HEADGATE_NO_THREADS = 3 };
enum { HEADGATE_RESET_AFTER = 0, HEADGATE_RESET_BEFORE = 1 };

/* One layer, one direction. What forward reads and writes, and backward reads again. */
typedef struct {
  int64_t T, B, I, H;
  int32_t reset;   /* HEADGATE_RESET_AFTER or HEADGATE_RESET_BEFORE */
  int32_t reverse; /* 1: the sequence is read from its end */
  int32_t threads; /* at least 1 */
  int32_t one_hot; /* 1: the input is ids; 0: it is x */

  const void* x;          /* (T, B, I); null where the input is ids */
  int64_t x_t, x_b;       /* elements from one time step, one row, of x to the next; those of I lie side by side */
  const int64_t* ids;     /* (T, B), each from 0 to I-1, standing for one-hot vectors; null where it is x */
  const void* h0;         /* (B, H) */
  const void* weight_ih;  /* (3H, I) */
  const void* weight_hh;  /* (3H, H) */
  const void* bias_ih;    /* (3H); may be null: zeros */
  const void* bias_hh;    /* (3H); may be null: zeros */
  const int64_t* lengths; /* (B), each from 0 to T; may be null: all T. Steps from there on leave the state as it is */
  const uint8_t* resets;  /* (T, B); may be null: none. Not 0: a new sequence starts at this step, from reset_state */
  const void* reset_state; /* (H); may be null: zeros */
  const void* packed;     /* from headgate_pack_*, for these weights and this reset; may be null: packed in every call */

  void* states; /* (T, B, H); zeros from a row's length on. Backward reads it as forward left it */
  void* last;   /* (B, H): the state after the last step read. Not read by backward */
  void* gates;  /* (T, B, 4H): r, z, n, and W_hn h + b_hn (undefined with HEADGATE_RESET_BEFORE); zeros from a row's
                   length on; may be null, but backward needs it */
} headgate_gru;

/* Gradients; those of outputs are read, those of inputs written (not added to). Any may be null: zeros, or not wanted. */
typedef struct {
  const void* d_states; /* (T, B, H) */
  const void* d_last;   /* (B, H) */
  const void* d_gates;  /* (T, B, 4H): of r, z, n; the last H are not read */
  void* d_x;            /* (T, B, I) */
  void* d_h0;           /* (B, H) */
  void* d_weight_ih;    /* (3H, I) */
  void* d_weight_hh;    /* (3H, H) */
  void* d_bias_ih;      /* (3H) */
  void* d_bias_hh;      /* (3H) */
  void* d_reset_state;  /* (B, H): each row's share */
} headgate_gru_gradients;

HEADGATE_API int32_t headgate_forward_float(const headgate_gru*);
HEADGATE_API int32_t headgate_forward_double(const headgate_gru*);
HEADGATE_API int32_t headgate_backward_float(const headgate_gru*, const headgate_gru_gradients*);
HEADGATE_API int32_t headgate_backward_double(const headgate_gru*, const headgate_gru_gradients*);

/* Weights in the order in which forward reads them, for many calls with the same weights. Needs I, H, reset, one_hot,
 * weights and biases of the structure; `packed` holds headgate_packed_size_* elements, 64-byte aligned. */
HEADGATE_API int64_t headgate_packed_size_float(const headgate_gru*);
HEADGATE_API int32_t headgate_pack_float(const headgate_gru*, float* packed);

/* Levels of instructions: 0 the baseline of the architecture, 1 AVX2 with FMA, 2 AVX-512. */
HEADGATE_API int32_t headgate_version(void);
HEADGATE_API int32_t headgate_level(void);              /* the one in use: the highest that this machine has */
HEADGATE_API int32_t headgate_use_level(int32_t level); /* for tests; HEADGATE_NO_LEVEL where it is not to be had */

/* For tests and benchmarks: elementwise functions, and how many floating-point operations a second `threads` threads
 * can make at most (one fused multiply-add counts two), by running so many of them. */
HEADGATE_API void headgate_sigmoid_float(int64_t n, const float* x, float* y);
HEADGATE_API void headgate_sigmoid_double(int64_t n, const double* x, double* y);
HEADGATE_API void headgate_tanh_float(int64_t n, const float* x, float* y);
HEADGATE_API void headgate_tanh_double(int64_t n, const double* x, double* y);
HEADGATE_API int32_t headgate_peak_float(int32_t threads, int64_t steps); /* 2 * 12 * lanes * steps a thread */

#ifdef __cplusplus
}
#endif
#endif
