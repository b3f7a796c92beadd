// The one matrix product on which everything here is built: rows times packed columns.
//
//   C[i][j] = sum over k of A[i][k] * P[k][j]
//
// Columns are processed in vectors of w lanes. A packed vector is (K, w): the lanes of one k are contiguous. A is
// passed as one pointer per row. A register tile multiplies some rows by some vectors. Each element is computed in
// chains of fused multiply-adds over `depth` terms, whose sums are added in order, so that it has the same bits in any
// tile, group of rows or thread.
//
// Letters: K the length of the sum, w = width<T> lanes of a vector, N vectors and R rows of a tile; T the type of the
// computation, P the type in which columns are packed.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "simd.h"

namespace headgate {
namespace HEADGATE_LEVEL {

constexpr int tile_rows = vector_registers == 32 ? 8 : 4;  // registers: tile_rows * 3 accumulators, 3 of P, 1 of A
constexpr int64_t depth = 128;     // terms of three vectors (12 KB with AVX2) that stay in the L1 cache
constexpr int64_t row_group = 64;  // rows whose sums are completed before they are used

// Bytes of a packed number.
template <class P> constexpr int64_t bytes_of_number = sizeof(P);

// Elements from one packed vector to the next: not a multiple of 4 KB, lest vectors compete for cache lines.
template <class T, class P = T> constexpr int64_t vector_stride(int64_t K) {
  return (K * width<T> * int64_t(sizeof(P)) + 63) / 64 * 64 / int64_t(sizeof(P)) + 64 / int64_t(sizeof(P));
}

// Vectors of a tile of three or four rows: twice as many if there are enough registers.
constexpr int few_rows_vectors = vector_registers == 32 ? 6 : 3;

// The right side of a product: the lanes of vector v for k are at p[v * stride + k * step].
template <class P> struct Columns {
  const P* p;
  int64_t stride, step;
  Columns from(int64_t v, int64_t k = 0) const { return {p + v * stride + k * step, stride, step}; }
};
template <class T, class P> Columns<P> packed_columns(const P* p, int64_t K) {
  return {p, vector_stride<T, P>(K), width<T>};
}

// c (R, N, w) += a (R, length) @ p (N, length, w), where a[i][k] is at a[i][(offset + k) * S]. Not inlined, because the
// loop needs all registers.
template <int R, int N, int S, class T, class P>
static HEADGATE_APART void tile(int64_t length, const T* const* a, int64_t offset, Columns<P> columns, T* c, bool first) {
  constexpr int w = width<T>;
  const P* p = columns.p;
  const int64_t stride = columns.stride, step = columns.step;
  const T* row[R];
  Vec<T> sum[R][N];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
    row[i] = a[i] + offset * S;
#pragma GCC unroll 12
    for (int n = 0; n < N; ++n) sum[i][n] = Vec<T>{};
  }
  int64_t k = 0;
  if constexpr (R < 3) {  // few rows, many vectors: bound by memory, so read each vector a few lines at a time
    constexpr int lines = 4;
    const auto some = [&](auto count) {
      constexpr int L = count.value;
      Vec<T> x[R][L];
#pragma GCC unroll 2
      for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < L; ++j) x[i][j] = broadcast(row[i][(k + j) * S]);
#pragma GCC unroll 12
      for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
        for (int j = 0; j < L; ++j) {
          const Vec<T> column = load_column(p + n * stride + j * step);
#pragma GCC unroll 2
          for (int i = 0; i < R; ++i) sum[i][n] = fma(x[i][j], column, sum[i][n]);
        }
      k += L, p += L * step;
    };
    while (k + lines <= length) some(std::integral_constant<int, lines>{});
    while (k < length) some(std::integral_constant<int, 1>{});
  } else {
    for (; k < length; ++k, p += step) {
      Vec<T> column[N];
#pragma GCC unroll 6
      for (int n = 0; n < N; ++n) column[n] = load_column(p + n * stride);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        const Vec<T> x = broadcast(row[i][k * S]);
#pragma GCC unroll 6
        for (int n = 0; n < N; ++n) sum[i][n] = fma(x, column[n], sum[i][n]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 12
    for (int n = 0; n < N; ++n, c += w) store(c, first ? sum[i][n] : load(c) + sum[i][n]);
}

// c (rows, N, w) = a (rows, K) @ p (N, K, w) for N vectors; with more than three, rows * N is at most 12.
template <int N, int S, class T, class P>
static inline void multiply_vectors(int64_t rows, const T* const* a, int64_t K, Columns<P> columns, T* c) {
  constexpr int w = width<T>;
  for (int64_t k = 0; k == 0 || k < K; k += depth) {
    int64_t i = 0;
    const auto block = [&](auto R) {
      tile<R.value, N, S>(least(depth, K - k), a + i, k, columns.from(0, k), c + i * N * w, k == 0);
      i += R.value;
    };
    if constexpr (N <= 3)
      while (rows - i >= tile_rows) block(std::integral_constant<int, tile_rows>{});
    if constexpr (N <= few_rows_vectors) {
      if (rows - i >= 4) block(std::integral_constant<int, 4>{});
      if (rows - i == 3) block(std::integral_constant<int, 3>{});
    }
    if constexpr (N <= 6)
      if (rows - i == 2) block(std::integral_constant<int, 2>{});
    if (rows - i == 1) block(std::integral_constant<int, 1>{});
  }
}

// --- packing ----------------------------------------------------------------------------------------------------------

#if defined(__clang__)
#define HEADGATE_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define HEADGATE_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Bits<T>{__VA_ARGS__})
#endif

// Swaps halves of blocks of 2 D lanes between vectors D apart; after D = 1, 2, 4, ... the square is transposed.
template <int D, class T, int... J>
HEADGATE_INLINE void swap_blocks(Vec<T>& low, Vec<T>& high, std::integer_sequence<int, J...>) {
  constexpr int w = width<T>;
  const Vec<T> first = HEADGATE_SHUFFLE(low, high, (J & D ? w + J - D : J)...);
  high = HEADGATE_SHUFFLE(low, high, (J & D ? w + J : J + D)...);
  low = first;
}
template <int D, class T> HEADGATE_INLINE void transpose_square(Vec<T> (&v)[width<T>]) {
  if constexpr (D < width<T>) {
#pragma GCC unroll 16
    for (int i = 0; i < width<T>; ++i)
      if (!(i & D)) swap_blocks<D, T>(v[i], v[i + D], std::make_integer_sequence<int, width<T>>{});
    transpose_square<2 * D, T>(v);
  }
}

// Packs one pointer per lane, to K contiguous numbers each, into (K, w), `stride` elements from one k to the next. A
// null pointer stands for zeros.
template <class T> static inline void pack_lanes(const T* const* from, int64_t K, T* to, int64_t stride) {
  constexpr int w = width<T>;
  int64_t k = 0;
  for (; k + w <= K; k += w) {
    Vec<T> v[w];
#pragma GCC unroll 16
    for (int i = 0; i < w; ++i) v[i] = from[i] ? load(from[i] + k) : Vec<T>{};
    transpose_square<1, T>(v);
#pragma GCC unroll 16
    for (int i = 0; i < w; ++i) store(to + (k + i) * stride, v[i]);
  }
  for (; k < K; ++k)
    for (int i = 0; i < w; ++i) to[k * stride + i] = from[i] ? from[i][k] : T(0);
}

// The inverse: unpacks (K, w) into `lanes` rows of K.
template <class T> static inline void unpack_lanes(const T* from, int64_t K, T* to, int64_t stride, int lanes) {
  constexpr int w = width<T>;
  int64_t k = 0;
  for (; lanes == w && k + w <= K; k += w) {
    Vec<T> v[w];
#pragma GCC unroll 16
    for (int i = 0; i < w; ++i) v[i] = load(from + (k + i) * w);
    transpose_square<1, T>(v);
#pragma GCC unroll 16
    for (int i = 0; i < w; ++i) store(to + i * stride + k, v[i]);
  }
  for (; k < K; ++k)
    for (int i = 0; i < lanes; ++i) to[i * stride + k] = from[k * w + i];
}

// Like pack_lanes with a stride of w, converted to P: bfloat16 is rounded to nearest; int8 counts multiples of scale
// (w), chosen per lane so that its largest magnitude becomes 127.
template <class T, class P>
static inline void pack_lanes_as(const T* const* from, int64_t K, P* to, T* scale) {
  constexpr int w = width<T>;
  if constexpr (std::is_same_v<P, T>) return pack_lanes(from, K, to, w);
  for (int i = 0; i < w; ++i) {
    T largest = 0;
    for (int64_t k = 0; from[i] && k < K; ++k) largest = std::fabs(from[i][k]) > largest ? std::fabs(from[i][k]) : largest;
    if constexpr (std::is_same_v<P, int8_t>) scale[i] = largest > 0 ? largest / 127 : 1;
    for (int64_t k = 0; k < K; ++k) {
      const T x = from[i] ? from[i][k] : T(0);
      if constexpr (std::is_same_v<P, int8_t>) {
        to[k * w + i] = int8_t(std::lrint(x / scale[i]));
      } else if constexpr (std::is_same_v<P, Bfloat>) {
        uint32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        to[k * w + i] = {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
      }
    }
  }
}

// Packs vectors [begin, end) of the N columns of K rows, one pointer per row; lanes beyond N are zeros.
template <class T>
static inline void pack_columns(const T* const* rows, int64_t K, int64_t N, int64_t begin, int64_t end, T* to,
                                int64_t stride) {
  constexpr int w = width<T>;
  for (int64_t k = 0; k < K; ++k)
    for (int64_t v = begin; v < end; ++v) {
      const int64_t lanes = least(w, N - v * w);
      store(to + v * stride + k * w, lanes == w ? load(rows[k] + v * w) : load_part(rows[k] + v * w, int(lanes)));
    }
}

// --- the product ------------------------------------------------------------------------------------------------------

// How many of the `left` vectors to process together: enough chains if there are few rows, and 2 + 2 rather than 3 + 1.
HEADGATE_INLINE int vectors_at_once(int64_t rows, int64_t left) {
  if (rows <= 2) return int(least(left, rows == 1 ? 12 : 6));
  if (rows <= 4 && few_rows_vectors > 3) return int(least(left, few_rows_vectors));
  return int(left == 4 ? 2 : least(left, 3));
}

// Calls out(v, n, first, count, sums) for each group of rows [first, first + count) of a (rows, K) and each group of n
// vectors from v, within [begin, end), with sums (count, n, w). `sums` is memory for sums_size<T>(K) elements: the
// sums, then the rows of a group, which are packed in lanes of w if they are multiplied by many vectors: they are then
// read in order, and rows a power of two apart do not compete for the same cache lines.
template <class T> constexpr int64_t packed_row(int64_t K) { return (K + 15) / 16 * 16 + 16; }
template <class T, class P = T> constexpr int64_t sums_size(int64_t K, int64_t /*vectors*/ = 0) {
  return row_group * (3 * width<T> + packed_row<T>(K));
}
constexpr int64_t rows_to_pack = 8, vectors_to_pack = 32;

template <int S, class T, class P, class Out>
HEADGATE_INLINE void multiply_groups(int64_t rows, const T* const* a, int64_t K, Columns<P> columns, int64_t begin,
                                     int64_t end, T* sums, Out out) {
  constexpr int w = width<T>;
  for (int64_t first = 0; first < rows; first += row_group) {
    const int64_t group = least(row_group, rows - first);
    const T* row[row_group];
    const bool in_lanes = S == 1 && group >= rows_to_pack && end - begin >= vectors_to_pack;
    for (int64_t i = 0; i < group; ++i) {
      T* to = sums + row_group * 3 * w + i / w * w * packed_row<T>(K);
      if (in_lanes && i % w == 0) {
        const T* lanes[w];
        for (int64_t j = 0; j < w; ++j) lanes[j] = i + j < group ? a[first + i + j] : nullptr;
        pack_lanes(lanes, K, to, w);
      }
      row[i] = in_lanes ? to + i % w : a[first + i];
    }
    for (int64_t v = begin; v < end;) {
      const int n = vectors_at_once(group, end - v);
      const Columns<P> from = columns.from(v);
      if (in_lanes) {
        switch (n) {
          case 1: multiply_vectors<1, w>(group, row, K, from, sums); break;
          case 2: multiply_vectors<2, w>(group, row, K, from, sums); break;
          default: multiply_vectors<3, w>(group, row, K, from, sums);
        }
        out(v, n, first, group, sums);
        v += n;
        continue;
      }
      switch (n) {
        case 1: multiply_vectors<1, S>(group, row, K, from, sums); break;
        case 2: multiply_vectors<2, S>(group, row, K, from, sums); break;
        case 3: multiply_vectors<3, S>(group, row, K, from, sums); break;
        case 4: multiply_vectors<4, S>(group, row, K, from, sums); break;
        case 5: multiply_vectors<5, S>(group, row, K, from, sums); break;
        case 6: multiply_vectors<6, S>(group, row, K, from, sums); break;
        case 7: multiply_vectors<7, S>(group, row, K, from, sums); break;
        case 8: multiply_vectors<8, S>(group, row, K, from, sums); break;
        case 9: multiply_vectors<9, S>(group, row, K, from, sums); break;
        case 10: multiply_vectors<10, S>(group, row, K, from, sums); break;
        case 11: multiply_vectors<11, S>(group, row, K, from, sums); break;
        default: multiply_vectors<12, S>(group, row, K, from, sums);
      }
      out(v, n, first, group, sums);
      v += n;
    }
  }
}

// The same with out(v, n, i, sums) for each row i: sums (n, w).
template <int S, class T, class P, class Out>
HEADGATE_INLINE void multiply(int64_t rows, const T* const* a, int64_t K, Columns<P> columns, int64_t begin, int64_t end,
                              T* sums, Out out) {
  multiply_groups<S>(rows, a, K, columns, begin, end, sums,
                     [&](int64_t v, int n, int64_t first, int64_t count, const T* sums) {
                       for (int64_t i = 0; i < count; ++i) out(v, n, first + i, sums + i * n * width<T>);
                     });
}

// --- sums over rows ---------------------------------------------------------------------------------------------------

// Compensated summation (Kahan): the rounding error of an addition is subtracted from the next number, so that a sum of
// any length is rounded about once.
template <class V> HEADGATE_INLINE void add_exactly(V value, V& sum, V& excess) {
  const V rest = value - excess, more = sum + rest;
  excess = (more - sum) - rest;
  sum = more;
}
template <class T> HEADGATE_INLINE void add_exactly(Vec<T> value, T* sum, T* excess) {
  Vec<T> s = load(sum), e = load(excess);
  add_exactly(value, s, e);
  store(sum, s);
  store(excess, e);
}

// Adds the sum of a packed vector (rows, w) over its rows to `sum`: short parallel chains, then chains of their sums.
template <class T> static inline void add_rows(int64_t rows, const T* vector, T* sum, T* excess) {
  constexpr int w = width<T>, chains = 8;
  constexpr int64_t block = 16 * chains;
  for (int64_t i = 0; i < rows; i += block) {
    const int64_t end = least(i + block, rows);
    Vec<T> s[chains] = {};
    int64_t k = i;
    for (; k + chains <= end; k += chains)
#pragma GCC unroll 8
      for (int c = 0; c < chains; ++c) s[c] += load(vector + (k + c) * w);
    for (; k < end; ++k) s[0] += load(vector + k * w);
    add_exactly(((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7])), sum, excess);
  }
}

// d (columns, N) = left^T right if `first`, else d += left^T right, for the rows of d that belong to the vectors
// [begin, end) of `left`. Both sides are packed over `rows` rows, left with `left_stride` from vector to vector.
// `pointers` is memory for one pointer per such row of d, `sums` for sums_size<T>(0) elements.
template <class T>
static inline void multiply_left(int64_t rows, const T* left, int64_t left_stride, int64_t begin, int64_t end,
                                 int64_t columns, Columns<T> right, int64_t N, T* d, bool first, const T** pointers, T* sums) {
  constexpr int w = width<T>;
  const int64_t from = begin * w, size = least(end * w, columns) - from;
  for (int64_t j = 0; j < size; ++j) pointers[j] = left + (begin + j / w) * left_stride + j % w;
  multiply<w>(size, pointers, rows, right, 0, (N + w - 1) / w, sums, [&](int64_t v, int n, int64_t j, const T* sum) {
    for (int64_t u = v; u < v + n; ++u, sum += w) {
      T* to = d + (from + j) * N + u * w;
      const int lanes = int(least(w, N - u * w));
      store_part(to, first ? load(sum) : load_part(to, lanes) + load(sum), lanes);
    }
  });
}

}  // namespace HEADGATE_LEVEL
}  // namespace headgate
