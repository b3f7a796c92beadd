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
 * are bitwise the same for any number of threads, and (unless a caller has waived it: `invariant`) for a row alone or in a
 * batch, at one level of instructions.
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

#define HEADGATE_VERSION 4 /* of this contract */
#define HEADGATE_GATE_LANES 16 /* hidden units whose gates lie together */

enum { HEADGATE_OK = 0, HEADGATE_NO_MEMORY = 1, HEADGATE_NO_LEVEL = 2, HEADGATE_NO_THREADS = 3, HEADGATE_BAD_ID = 4 };
enum { HEADGATE_FLOAT32 = 0, HEADGATE_BFLOAT16 = 1, HEADGATE_INT8 = 2 };
enum { HEADGATE_RESET_AFTER = 0, HEADGATE_RESET_BEFORE = 1 };

/* One layer, one direction. What forward reads and writes, and backward reads again. */
typedef struct {
  int64_t T, B, I, H;
  int32_t reset;   /* HEADGATE_RESET_AFTER or HEADGATE_RESET_BEFORE */
  int32_t reverse; /* 1: the sequence is read from its end */
  int32_t threads; /* at least 1 */
  int32_t one_hot; /* 1: the input is ids; 0: it is x */
  int32_t invariant; /* 1: a row's results have the same bits alone and in any batch; 0: whatever is faster. The same for
                        forward and backward */

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
  const void* packed;     /* null (of use inside the library only) */

  void* states; /* (T, B, H); zeros from a row's length on. Backward reads it as forward left it */
  void* last;   /* (B, H): the state after the last step read. Not read by backward */
  void* gates;  /* (T, ceil(H / 16), B, 4, 16): of 16 hidden units each, one row after another, r, z, n, and W_hn h + b_hn
                   (zero with HEADGATE_RESET_BEFORE); zeros from a row's length on; beyond H, whatever it may be. May be
                   null, but backward needs it */
} headgate_gru;

/* Gradients; those of outputs are read, those of inputs written (not added to). Any may be null: zeros, or not wanted. */
typedef struct {
  const void* d_states; /* (T, B, H) */
  const void* d_last;   /* (B, H) */
  const void* d_gates;  /* as gates, of r, z, n: the fourth is not read */
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

/* A linear head with softmax and cross-entropy: the loss of every token, and the gradients of scale * (their sum). */
typedef struct {
  int64_t N, H, V;        /* N tokens */
  double scale;
  int32_t threads;        /* at least 1 */
  int32_t invariant;      /* as above, a token being a row */
  const void* states;     /* (N, H) */
  const void* weight;     /* (V, H) */
  const void* bias;       /* (V); may be null: zeros */
  const int64_t* targets; /* (N), each from 0 to V-1 */
  void* losses;           /* (N), in nats */
  void* d_states;         /* (N, H); this and those below may be null: not wanted */
  void* d_weight;         /* (V, H) */
  void* d_bias;           /* (V) */
} headgate_head;

HEADGATE_API int32_t headgate_cross_entropy_float(const headgate_head*);
HEADGATE_API int32_t headgate_cross_entropy_double(const headgate_head*);

/* A trained language model for inference: [embedding ->] GRU layers -> linear head, float. */
typedef struct {
  int64_t V, E, H, layers;  /* E: size of the embedding, 0 for none: ids are one-hot */
  int64_t O;                /* rows of the head: V, or fewer where others compute what it lacks (adaptive softmax) */
  int32_t reset;
  int32_t format;           /* HEADGATE_FLOAT32, or in what the copy is kept; computed with is float */
  const float* embedding;   /* (V, E); null where E is 0 */
  const float* const* weight_ih; /* one pointer a layer: (3H, E or V), then (3H, H) */
  const float* const* weight_hh; /* (3H, H) */
  const float* const* bias_ih;   /* (3H); may be null: zeros */
  const float* const* bias_hh;   /* (3H); may be null: zeros */
  const float* head_weight; /* (O, H) */
  const float* head_bias;   /* (O) */
} headgate_weights;

/* How an id is drawn from logits, in this order; what each does: sampling.py. */
typedef struct {
  double repetition_penalty, temperature, top_p, min_p;
  int64_t top_k;
} headgate_sampling;

typedef struct headgate_model headgate_model;

/* Copies the weights; null: not enough memory. A model may be used by several threads at once. */
HEADGATE_API headgate_model* headgate_model_new(const headgate_weights*);
HEADGATE_API void headgate_model_free(headgate_model*); /* null is fine */

/* Both that read ids return HEADGATE_BAD_ID, with nothing written, unless each is from 0 to V-1.
 *
 * Reads one id a row, ids (B); state (layers, B, H) is read and overwritten; logits (B, O) of the next ids. */
HEADGATE_API int32_t headgate_model_step(const headgate_model*, int64_t B, int32_t threads, const int64_t* ids,
                                         float* state, float* logits);
/* Reads ids (T, B); state (layers, B, H) is read and overwritten; outputs (T, B, H): the states of the
 * last layer. */
HEADGATE_API int32_t headgate_model_read(const headgate_model*, int64_t T, int64_t B, int32_t threads,
                                         const int64_t* ids, float* state, float* outputs);
/* outputs (N, H) -> logits (N, O) */
HEADGATE_API int32_t headgate_model_logits(const headgate_model*, int64_t N, int32_t threads, const float* outputs,
                                           float* logits);
/* For O = V only. Draws n ids one after another, each from the logits (V) that the one before left. logits and state
 * (layers, 1, H) are read and overwritten. uniform (n): numbers from [0, 1), one a draw; may be null where temperature is
 * 0. forbidden (V): not 0 for ids that are never drawn. seen (V): not 0 for ids that the text holds; updated. ids (n):
 * written. */
HEADGATE_API int32_t headgate_model_generate(const headgate_model*, const headgate_sampling*, int64_t n, int32_t threads,
                                             const double* uniform, const uint8_t* forbidden, uint8_t* seen,
                                             float* logits, float* state, int64_t* ids);

/* Levels of instructions: 0 the baseline of the architecture, 1 AVX2 with FMA, 2 AVX-512, 3 that and matrix tiles (AMX), for
 * the weights' gradients in float and for what need not be invariant. */
HEADGATE_API int32_t headgate_version(void);
HEADGATE_API int32_t headgate_level(void);              /* the one in use: the highest that this machine has */
HEADGATE_API int32_t headgate_use_level(int32_t level); /* for tests; HEADGATE_NO_LEVEL where it is not to be had */

/* For tests and benchmarks: elementwise functions, and the peak of `threads` threads in floating-point operations per
 * second, measured (a fused multiply-add counts as two). */
HEADGATE_API void headgate_sigmoid_float(int64_t n, const float* x, float* y);
HEADGATE_API void headgate_sigmoid_double(int64_t n, const double* x, double* y);
HEADGATE_API void headgate_tanh_float(int64_t n, const float* x, float* y);
HEADGATE_API void headgate_tanh_double(int64_t n, const double* x, double* y);
HEADGATE_API int32_t headgate_peak_float(int32_t threads, int64_t steps); /* 2 * 12 * lanes * steps a thread */

#ifdef __cplusplus
}
#endif
#endif
