// Vectors of the width that this file is compiled for: 64 bytes (AVX-512), 32 (AVX2), 16 (SSE2, NEON).
//
// GCC and Clang give vector types the operators of scalars; this file adds what is missing. The compiler must not
// contract expressions (-ffp-contract=off), so that they have the same bits wherever they are inlined; fma is explicit.
#pragma once

#include <cstdint>
#include <type_traits>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace headgate {
namespace HEADGATE_LEVEL {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64, vector_registers = 32;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32, vector_registers = 16;
#elif defined(__aarch64__)
constexpr int vector_bytes = 16, vector_registers = 32;
#else
constexpr int vector_bytes = 16, vector_registers = 16;
#endif

template <class T> struct Lanes;
template <> struct Lanes<float> {
  typedef float type __attribute__((vector_size(vector_bytes)));
  typedef float unaligned __attribute__((vector_size(vector_bytes), aligned(4), may_alias));
  typedef int32_t bits __attribute__((vector_size(vector_bytes)));
};
template <> struct Lanes<double> {
  typedef double type __attribute__((vector_size(vector_bytes)));
  typedef double unaligned __attribute__((vector_size(vector_bytes), aligned(8), may_alias));
  typedef int64_t bits __attribute__((vector_size(vector_bytes)));
};

template <class T> using Vec = typename Lanes<T>::type;
template <class T> using Bits = typename Lanes<T>::bits;
template <class T> using Integer = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
template <class T> constexpr int width = vector_bytes / int(sizeof(T));

constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

#define HEADGATE_INLINE static inline __attribute__((always_inline))
#define HEADGATE_APART __attribute__((noinline))

template <class T> HEADGATE_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename Lanes<T>::unaligned*>(p);
}
template <class T> HEADGATE_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename Lanes<T>::unaligned*>(p) = v;
}
template <class T> HEADGATE_INLINE Vec<T> broadcast(T x) { return x - Vec<T>{}; }  // x - 0 is x, also for -0

// The first n lanes, 0 < n <= width; the others are zero. No byte after them is accessed.
template <class T> HEADGATE_INLINE Vec<T> load_part(const T* p, int n) {
  if (n == width<T>) return load(p);
  Vec<T> v{};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
template <class T> HEADGATE_INLINE void store_part(T* p, Vec<T> v, int n) {
  if (n == width<T>) return store(p, v);
  for (int i = 0; i < n; ++i) p[i] = v[i];
}

// Packed columns may be stored in fewer bits than they are computed with; a bfloat16 is the upper half of a float.
struct Bfloat {
  uint16_t bits;
};
template <class T> HEADGATE_INLINE Vec<T> load_column(const T* p) { return load(p); }
#if defined(__AVX512F__)
HEADGATE_INLINE Vec<float> load_column(const Bfloat* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
HEADGATE_INLINE Vec<float> load_column(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
#elif defined(__AVX2__)
HEADGATE_INLINE Vec<float> load_column(const Bfloat* p) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
HEADGATE_INLINE Vec<float> load_column(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
#else
HEADGATE_INLINE Vec<float> load_column(const Bfloat* p) {
  typedef uint16_t Halves __attribute__((vector_size(vector_bytes / 2), aligned(2), may_alias));
  typedef uint32_t Words __attribute__((vector_size(vector_bytes)));
  return Vec<float>(__builtin_convertvector(*reinterpret_cast<const Halves*>(p), Words) << 16);
}
HEADGATE_INLINE Vec<float> load_column(const int8_t* p) {
  typedef int8_t Bytes __attribute__((vector_size(vector_bytes / 4), aligned(1), may_alias));
  return __builtin_convertvector(__builtin_convertvector(*reinterpret_cast<const Bytes*>(p), Bits<float>), Vec<float>);
}
#endif

#if defined(__AVX512F__)
HEADGATE_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return _mm512_fmadd_ps(a, b, c); }
HEADGATE_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return _mm512_fmadd_pd(a, b, c); }
#elif defined(__AVX2__)
HEADGATE_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return _mm256_fmadd_ps(a, b, c); }
HEADGATE_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return _mm256_fmadd_pd(a, b, c); }
#elif defined(__aarch64__)
HEADGATE_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return vfmaq_f32(c, a, b); }
HEADGATE_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return vfmaq_f64(c, a, b); }
#else
template <class V> HEADGATE_INLINE V fma(V a, V b, V c) { return a * b + c; }
#endif

// a > b ? a : b, also for NaNs.
#if defined(__AVX512F__)
HEADGATE_INLINE Vec<float> larger(Vec<float> a, Vec<float> b) { return _mm512_max_ps(a, b); }
HEADGATE_INLINE Vec<double> larger(Vec<double> a, Vec<double> b) { return _mm512_max_pd(a, b); }
#elif defined(__AVX2__)
HEADGATE_INLINE Vec<float> larger(Vec<float> a, Vec<float> b) { return _mm256_max_ps(a, b); }
HEADGATE_INLINE Vec<double> larger(Vec<double> a, Vec<double> b) { return _mm256_max_pd(a, b); }
#else
template <class V> HEADGATE_INLINE V larger(V a, V b) { return a > b ? a : b; }
#endif

// All bits but the sign.
template <class T> HEADGATE_INLINE Bits<T> magnitude_mask() {
  return Bits<T>{} + Integer<T>(sizeof(T) == 4 ? INT32_MAX : INT64_MAX);
}
template <class T> HEADGATE_INLINE Vec<T> absolute(Vec<T> x) { return Vec<T>(Bits<T>(x) & magnitude_mask<T>()); }
template <class T> HEADGATE_INLINE Vec<T> copy_sign(Vec<T> magnitude, Vec<T> sign) {
  const Bits<T> mask = magnitude_mask<T>();
  return Vec<T>((Bits<T>(magnitude) & mask) | (Bits<T>(sign) & ~mask));
}

}  // namespace HEADGATE_LEVEL
}  // namespace headgate
