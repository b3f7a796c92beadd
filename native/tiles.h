// Products on matrix tiles (AMX), of floats that are taken as sums of three bfloat16s.
//
// A float is h + m + l, each the bfloat16 nearest to what those before it leave: three times eight bits for its 24. Of
// the nine products of two such sums six matter,
//
//   a b = ah bh + (ah bm + am bh) + (ah bl + am bm + al bh),
//
// the rest is below 2^-25 of a b. So a sum is about as exact as with fused multiply-adds. In the time of 32 of these a
// tile's product does the work of 512, of which a sixth is left, 85. (Henry, Tang and Heinecke, "Leveraging the bfloat16
// Artificial Intelligence Datatype For Higher-Precision Computations", 2019.)
//
// With a single row tiles are slower than vectors. So what is summed over tokens, the weights' gradients, is computed on
// tiles always; what belongs to a row only where it need not have the same bits alone and in a batch.
//
// Tiles know no infinities: inf - inf makes m a NaN. Rows of a left side that have some are multiplied with vectors;
// elsewhere what an infinity has a share in is a NaN. And they know no subnormal numbers: a part below 2^-126 is zero.
//
// Letters as in product.h. A block is 32 of K: 16 pairs, of k and k + 16. A panel is 16 rows of a left side, or 16 columns
// of a right side, over all blocks.
#pragma once

#include <cstring>

#include "product.h"

namespace headgate {
namespace HEADGATE_LEVEL {

#if defined(__AMX_BF16__)
constexpr bool has_tiles = true;
#else
constexpr bool has_tiles = false;  // what follows is then declared, and used nowhere
#endif

// One part of a block: of a left side (row, pair), of a right side (pair, column). A block's parts: h, m, l.
struct Tile {
  alignas(64) uint32_t pairs[16][16];
};

constexpr int tile_side = 16, parts = 3;
constexpr int64_t block_depth = 32;
constexpr int64_t blocks(int64_t K) { return (K + block_depth - 1) / block_depth; }
constexpr int64_t tiles_of_panel(int64_t K) { return blocks(K) * parts; }

// A thread has tiles while this lives.
class TileUse;

// --- packed columns, as in product.h ----------------------------------------------------------------------------------

template <> constexpr int64_t bytes_of_number<Tile> = 2 * parts;
template <> constexpr int64_t vector_stride<float, Tile>(int64_t K) { return tiles_of_panel(K); }

// Rows that are multiplied together, and terms: so much of a left side stays in the second cache.
constexpr int64_t tiled_group = 128, tiled_depth = 1024;

// Memory of multiply_groups: the group's rows on tiles, then the sums of two times three vectors; of all, where there are
// more terms.
template <> constexpr int64_t sums_size<float, Tile>(int64_t K, int64_t vectors) {
  return tiled_group * (tiles_of_panel(least(K, tiled_depth)) * int64_t(sizeof(Tile) / sizeof(float)) / tile_side +
                        (K > tiled_depth ? vectors + 3 : 6) * tile_side);
}

void pack_lanes_as(const float* const* from, int64_t K, Tile* to, float*);
void pack_columns(const float* const* rows, int64_t K, int64_t N, int64_t begin, int64_t end, Tile* to, int64_t stride);

// --- sums over tokens -------------------------------------------------------------------------------------------------

// A packed vector (K, 16) as a panel of a right side: its lanes are columns.
void pack_right(const float* from, int64_t K, Tile* to);

// A right side, the panels of all its N columns, and the matrix d (left rows, N) of which a product with it is.
struct Right {
  const Tile* panels;
  int64_t N;
  float* d;
};

// As multiply_left in product.h, for all of `right`: the vectors [begin, end) of `left` stand for rows of each d.
// `panels` is memory for as many panels.
void multiply_left(int64_t K, const float* left, int64_t left_stride, int64_t begin, int64_t end, int64_t rows,
                   const Right* right, int count, bool first, Tile* panels);

#if defined(__AMX_BF16__)

// What the compiler does not know of these intrinsics: that they read the memory behind a pointer.
#define HEADGATE_IS_READ(p) asm volatile("" ::"r"(p) : "memory")

class TileUse {
 public:
  TileUse() { rows_ = 0; }
  ~TileUse() { _tile_release(); }
  TileUse(const TileUse&) = delete;
  TileUse& operator=(const TileUse&) = delete;

  // Tiles of 64 bytes a row: 0 to 4 have so many rows, 5 to 7 have 16.
  static void shape(int rows) {
    if (rows == rows_) return;
    struct alignas(64) {
      uint8_t palette, start_row, reserved[14];
      uint16_t row_bytes[16];
      uint8_t rows[16];
    } shape = {};
    shape.palette = 1;
    for (int i = 0; i < 8; ++i) shape.row_bytes[i] = 64, shape.rows[i] = uint8_t(i < 5 ? rows : tile_side);
    HEADGATE_IS_READ(&shape);
    _tile_loadconfig(&shape);
    rows_ = rows;
  }

 private:
  static inline thread_local int rows_ = 0;
};

// --- packing ----------------------------------------------------------------------------------------------------------

// 16 pairs (x[i], y[i]) in three parts; whether all of them are finite.
HEADGATE_INLINE bool split(Vec<float> x, Vec<float> y, Vec<float> (&part)[parts]) {
  alignas(64) static constexpr uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i interleave = _mm512_load_si512(order), upper = _mm512_set1_epi32(int32_t(0xffff0000));
#pragma GCC unroll 3
  for (int p = 0; p < parts; ++p) {
    const __m512i pairs = _mm512_permutexvar_epi16(interleave, __m512i(_mm512_cvtne2ps_pbh(y, x)));
    part[p] = _mm512_castsi512_ps(pairs);
    if (p + 1 == parts) break;
    x -= _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    y -= _mm512_castsi512_ps(_mm512_and_si512(pairs, upper));
  }
  return !_mm512_cmp_ps_mask(x, y, _CMP_UNORD_Q);  // an infinity has left a NaN
}

// The upper half of what of a pair is its second number, the lower half its first.
HEADGATE_INLINE Vec<float> number_of_pair(Vec<float> pair, bool second) {
  const __m512i bits = _mm512_castps_si512(pair);
  return _mm512_castsi512_ps(second ? _mm512_and_si512(bits, _mm512_set1_epi32(int32_t(0xffff0000)))
                                    : _mm512_slli_epi32(bits, 16));
}

HEADGATE_INLINE float* row_of(Tile& tile, int i) { return reinterpret_cast<float*>(tile.pairs[i]); }
HEADGATE_INLINE const float* row_of(const Tile& tile, int i) { return reinterpret_cast<const float*>(tile.pairs[i]); }
HEADGATE_INLINE void transpose(Tile& tile) {
  Vec<float> v[tile_side];
#pragma GCC unroll 16
  for (int i = 0; i < tile_side; ++i) v[i] = load(row_of(tile, i));
  transpose_square<1, float>(v);
#pragma GCC unroll 16
  for (int i = 0; i < tile_side; ++i) store(row_of(tile, i), v[i]);
}

// A panel, at(i, k) being the 16 numbers of row i of a tile that begin with k, or are those of k; transposed, if columns
// are to become rows.
template <bool transposed, class At> HEADGATE_INLINE void pack_panel(int64_t K, Tile* to, At at) {
  for (int64_t k = 0; k < K; k += block_depth, to += parts) {
    for (int i = 0; i < tile_side; ++i) {
      Vec<float> part[parts];
      const auto [x, y] = at(i, k);
      split(x, y, part);
      for (int p = 0; p < parts; ++p) store(row_of(to[p], i), part[p]);
    }
    for (int p = 0; transposed && p < parts; ++p) transpose(to[p]);
  }
}

struct Pairs {
  Vec<float> x, y;
};
HEADGATE_INLINE Vec<float> load_some(const float* p, int64_t n) {
  return n >= tile_side ? load(p) : Vec<float>(_mm512_maskz_loadu_ps(n > 0 ? __mmask16((1u << n) - 1) : __mmask16(0), p));
}
// The pairs of a block of K numbers that lie side by side, from k on; beyond K there are zeros.
HEADGATE_INLINE Pairs along(const float* from, int64_t k, int64_t K) {
  if (!from) return {Vec<float>{}, Vec<float>{}};
  return {load_some(from + k, K - k), load_some(from + k + tile_side, K - k - tile_side)};
}

inline void pack_lanes_as(const float* const* from, int64_t K, Tile* to, float*) {
  pack_panel<true>(K, to, [&](int i, int64_t k) { return along(from[i], k, K); });
}
inline void pack_columns(const float* const* rows, int64_t K, int64_t N, int64_t begin, int64_t end, Tile* to, int64_t stride) {
  for (int64_t v = begin; v < end; ++v) {
    const auto row = [&](int64_t k) { return k < K ? load_some(rows[k] + v * tile_side, N - v * tile_side) : Vec<float>{}; };
    pack_panel<false>(K, to + v * stride, [&](int i, int64_t k) { return Pairs{row(k + i), row(k + i + tile_side)}; });
  }
}

template <bool transposed> HEADGATE_INLINE void pack_vector(const float* from, int64_t K, Tile* to) {
  const auto token = [&](int64_t k) { return k < K ? load(from + k * tile_side) : Vec<float>{}; };
  pack_panel<transposed>(K, to, [&](int i, int64_t k) { return Pairs{token(k + i), token(k + i + tile_side)}; });
}
inline void pack_right(const float* from, int64_t K, Tile* to) { pack_vector<false>(from, K, to); }
inline void pack_left(const float* from, int64_t K, Tile* to) { pack_vector<true>(from, K, to); }

// Terms [first, first + K) of up to 16 rows as a panel of a left side; a bit for each row that is not finite.
inline uint32_t pack_rows(int rows, const float* const* a, int64_t first, int64_t K, Tile* to) {
  uint32_t infinite = 0;
  for (int i = 0; i < tile_side; ++i) {
    Tile* tile = to;
    bool finite = true;
    for (int64_t k = 0; k < K; k += block_depth, tile += parts) {
      Vec<float> part[parts] = {};
      const auto [x, y] = along(i < rows ? a[i] + first : nullptr, k, K);
      finite &= split(x, y, part);
      for (int p = 0; p < parts; ++p) store(row_of(tile[p], i), part[p]);
    }
    infinite |= uint32_t(!finite) << i;
  }
  return infinite;
}

// --- panels times panels ----------------------------------------------------------------------------------------------

// The order of the parts is the same in both functions, and with it an element's bits: h l, h m, m m, m h, l h, h h.
// after_block() is called again and again: vectors can work while tiles do.

struct Two {
  const Tile *first, *second;
};

// Squares of 16 x 16 numbers, two by two: rows of a square are `stride` apart.
struct Squares {
  float* at[2][2];
  int64_t stride;
};

// Two panels of rows times C panels of columns, added to what the squares hold, or in its place if `first`.
template <int C, class F>
static HEADGATE_APART void multiply_two(int64_t blocks, Two left, Two right, const Squares& c, bool first, F& after_block) {
  const Tile *a0 = left.first, *a1 = left.second, *b0 = right.first, *b1 = right.second;
  const int64_t stride = c.stride * int64_t(sizeof(float));
  HEADGATE_IS_READ(a0);
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, c.at[0][0], stride);
    _tile_loadd(2, c.at[1][0], stride);
    if constexpr (C > 1) _tile_loadd(1, c.at[0][1], stride);
    if constexpr (C > 1) _tile_loadd(3, c.at[1][1], stride);
  }
#define HEADGATE_LEFT(part)        \
  _tile_loadd(4, a0 + (part), 64); \
  _tile_loadd(5, a1 + (part), 64)
#define HEADGATE_RIGHT(part)       \
  _tile_loadd(6, b0 + (part), 64); \
  if constexpr (C > 1) _tile_loadd(7, b1 + (part), 64)
#define HEADGATE_MULTIPLY                       \
  _tile_dpbf16ps(0, 4, 6);                      \
  if constexpr (C > 1) _tile_dpbf16ps(1, 4, 7); \
  _tile_dpbf16ps(2, 5, 6);                      \
  if constexpr (C > 1) _tile_dpbf16ps(3, 5, 7)
  for (int64_t k = 0; k < blocks; ++k, a0 += parts, a1 += parts, b0 += parts, b1 += parts) {
    HEADGATE_LEFT(0);
    HEADGATE_RIGHT(2);
    HEADGATE_MULTIPLY;
    HEADGATE_RIGHT(1);
    HEADGATE_MULTIPLY;
    HEADGATE_LEFT(1);
    HEADGATE_MULTIPLY;
    HEADGATE_RIGHT(0);
    HEADGATE_MULTIPLY;
    HEADGATE_LEFT(2);
    HEADGATE_MULTIPLY;
    HEADGATE_LEFT(0);
    HEADGATE_MULTIPLY;
    after_block();
  }
#undef HEADGATE_LEFT
#undef HEADGATE_RIGHT
#undef HEADGATE_MULTIPLY
  _tile_stored(0, c.at[0][0], stride);
  _tile_stored(2, c.at[1][0], stride);
  if constexpr (C > 1) _tile_stored(1, c.at[0][1], stride);
  if constexpr (C > 1) _tile_stored(3, c.at[1][1], stride);
}

// One panel of rows times C panels of columns, `size` tiles apart: c (rows, C, 16).
template <int C, class F>
static HEADGATE_APART void multiply_one(int64_t blocks, const Tile* a, const Tile* b0, int64_t size, float* c, bool first,
                                        F& after_block) {
  const Tile *b1 = b0 + size, *b2 = b1 + size;
  constexpr int64_t stride = C * tile_side * int64_t(sizeof(float));
  HEADGATE_IS_READ(a);
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
  } else {
    _tile_loadd(0, c, stride);
    if constexpr (C > 1) _tile_loadd(1, c + tile_side, stride);
    if constexpr (C > 2) _tile_loadd(2, c + 2 * tile_side, stride);
  }
#define HEADGATE_RIGHT(part)                            \
  _tile_loadd(5, b0 + (part), 64);                      \
  if constexpr (C > 1) _tile_loadd(6, b1 + (part), 64); \
  if constexpr (C > 2) _tile_loadd(7, b2 + (part), 64)
#define HEADGATE_MULTIPLY(left)                    \
  _tile_dpbf16ps(0, left, 5);                      \
  if constexpr (C > 1) _tile_dpbf16ps(1, left, 6); \
  if constexpr (C > 2) _tile_dpbf16ps(2, left, 7)
  for (int64_t k = 0; k < blocks; ++k, a += parts, b0 += parts, b1 += parts, b2 += parts) {
    _tile_loadd(3, a, 64);
    HEADGATE_RIGHT(2);
    HEADGATE_MULTIPLY(3);
    HEADGATE_RIGHT(1);
    HEADGATE_MULTIPLY(3);
    _tile_loadd(4, a + 1, 64);
    HEADGATE_MULTIPLY(4);
    HEADGATE_RIGHT(0);
    HEADGATE_MULTIPLY(4);
    _tile_loadd(4, a + 2, 64);
    HEADGATE_MULTIPLY(4);
    HEADGATE_MULTIPLY(3);
    after_block();
  }
#undef HEADGATE_RIGHT
#undef HEADGATE_MULTIPLY
  _tile_stored(0, c, stride);
  if constexpr (C > 1) _tile_stored(1, c + tile_side, stride);
  if constexpr (C > 2) _tile_stored(2, c + 2 * tile_side, stride);
}

// --- rows times columns -----------------------------------------------------------------------------------------------

// One row times a panel of columns, with vectors.
static HEADGATE_APART Vec<float> multiply_row(const float* a, int64_t K, const Tile* panel) {
  Vec<float> sum{};
  for (int64_t k = 0; k < K; ++k) {
    const Tile* block = panel + k / block_depth * parts;
    Vec<float> column{};
    for (int p = parts - 1; p >= 0; --p)
      column += number_of_pair(load(row_of(block[p], int(k % tile_side))), k % block_depth >= tile_side);
    sum = fma(broadcast(a[k]), column, sum);
  }
  return sum;
}

// multiply_groups of product.h. Up to three vectors are taken together, of two panels of rows, or of one. What is to be
// done with their sums is done while the next ones are computed, some rows at a time.
template <int S, class Out>
HEADGATE_INLINE void multiply_groups(int64_t rows, const float* const* a, int64_t K, Columns<Tile> columns, int64_t begin,
                                     int64_t end, float* sums, Out out) {
  static_assert(S == 1, "the numbers of a row lie side by side");
  constexpr int64_t together = 4;  // rows
  const auto panels = reinterpret_cast<Tile*>(sums);
  sums += tiled_group / tile_side * tiles_of_panel(least(K, tiled_depth)) * int64_t(sizeof(Tile) / sizeof(float));
  for (int64_t first = 0; first < rows; first += tiled_group) {
    const int64_t group = least(tiled_group, rows - first), slices = (group + together - 1) / together;
    struct {
      int64_t v;
      int n;
      const float* sums;
      int64_t done;  // slices
    } finished = {0, 0, nullptr, slices};
    const auto finish_slice = [&]() __attribute__((noinline)) {
      const int64_t i = finished.done++ * together;
      out(finished.v, finished.n, first + i, least(together, group - i), finished.sums + i * finished.n * tile_side);
    };
    TileUse::shape(int(least(tile_side, group)));
    uint32_t infinite[tiled_group / tile_side] = {}, any = 0;
    for (int64_t k = 0; k < K; k += tiled_depth) {
      const int64_t depth = least(tiled_depth, K - k), size = tiles_of_panel(depth);
      const bool whole = K <= tiled_depth, last = k + depth == K;
      for (int64_t i = 0; i < group; i += tile_side)
        any |= infinite[i / tile_side] |=
            pack_rows(int(least(tile_side, group - i)), a + first + i, k, depth, panels + i / tile_side * size);
      for (int64_t v = begin; v < end; v += 3) {
        const int n = int(least(3, end - v));
        const Columns<Tile> from = columns.from(v);
        float* const all = sums + (whole ? (v - begin) % 2 * 3 : v - begin) * tiled_group * tile_side;
        int64_t done = 0;
        const int64_t both = n == 3 && group > tile_side ? 2 : 1;  // products of a pair of panels
        const int64_t steps = (group + 2 * tile_side - 1) / (2 * tile_side) * blocks(depth) * both;
        auto after_block = [&] {
          ++done;
          while (finished.done < slices && finished.done * steps < done * slices) finish_slice();
        };
        const Tile* const right = from.p + tiles_of_panel(k);
        for (int64_t i = 0; i < group; i += 2 * tile_side) {
          const Tile* const left = panels + i / tile_side * size;
          float* const c = all + i * n * tile_side;
          const auto two = [&](auto C, int64_t j) {
            float *const c0 = c + j * tile_side, *const c1 = c0 + tile_side * n * tile_side;
            const Tile* const panel = right + j * from.stride;
            multiply_two<C.value>(blocks(depth), {left, left + size}, {panel, panel + from.stride},
                                  {{{c0, c0 + tile_side}, {c1, c1 + tile_side}}, n * tile_side}, !k, after_block);
          };
          const auto one = [&](auto C) {
            multiply_one<C.value>(blocks(depth), left, right, from.stride, c, !k, after_block);
          };
          if (group - i > tile_side) {
            if (n > 1) two(std::integral_constant<int, 2>{}, 0);
            if (n != 2) two(std::integral_constant<int, 1>{}, n - 1);
          } else if (n == 3) {
            one(std::integral_constant<int, 3>{});
          } else if (n == 2) {
            one(std::integral_constant<int, 2>{});
          } else {
            one(std::integral_constant<int, 1>{});
          }
        }
        while (finished.done < slices) finish_slice();
        if (!last) continue;
        for (int64_t i = 0; any && i < group; ++i)
          for (int j = 0; j < n && infinite[i / tile_side] >> i % tile_side & 1; ++j)
            store(all + (i * n + j) * tile_side, multiply_row(a[first + i], K, from.from(j).p));
        finished = {v, n, all, 0};
      }
    }
    while (finished.done < slices) finish_slice();
  }
}

// --- sums over tokens -------------------------------------------------------------------------------------------------

// The squares of a d (rows, N) at `row` and `column`: d's own memory, or a copy of what there is of it.
class Window {
 public:
  Window(float* d, int64_t rows, int64_t N, int64_t row, int64_t column, bool first)
      : d_(d + row * N + column), N_(N), rows_(least(2 * tile_side, rows - row)), columns_(least(2 * tile_side, N - column)) {
    const bool whole = rows_ == 2 * tile_side && columns_ == 2 * tile_side;
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j)
        squares.at[i][j] = whole ? d_ + i * tile_side * N + j * tile_side : &copy_[i * tile_side][j * tile_side];
    squares.stride = whole ? N : 2 * tile_side;
    copied_ = !whole;
    for (int64_t i = 0; copied_ && !first && i < rows_; ++i)
      std::memcpy(copy_[i], d_ + i * N, size_t(columns_) * sizeof(float));
  }
  ~Window() {
    for (int64_t i = 0; copied_ && i < rows_; ++i) std::memcpy(d_ + i * N_, copy_[i], size_t(columns_) * sizeof(float));
  }
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

  Squares squares;

 private:
  float* d_;
  const int64_t N_, rows_, columns_;
  bool copied_;
  alignas(64) float copy_[2 * tile_side][2 * tile_side];  // undefined where d has nothing
};

// So many tiles of a right side stay in the second cache.
constexpr int64_t tiles_at_hand = 768;

inline void multiply_left(int64_t K, const float* left, int64_t left_stride, int64_t begin, int64_t end, int64_t rows,
                          const Right* right, int count, bool first, Tile* panels) {
  const int64_t size = tiles_of_panel(K), pairs = tiles_at_hand / (2 * size), side = 2 * tile_side;
  const int64_t together = side * (pairs ? pairs : 1);
  const auto nothing = [] {};
  TileUse::shape(tile_side);
  for (int64_t u = begin; u < end; ++u) pack_left(left + u * left_stride, K, panels + (u - begin) * size);
  for (; count--; ++right)
    for (int64_t columns = 0; columns < right->N; columns += together)
      for (int64_t u = begin; u < end; u += 2)
        for (int64_t column = columns; column < least(columns + together, right->N); column += side) {
          const auto two = [size](const Tile* panel, bool both) { return Two{panel, both ? panel + size : panel}; };
          const Window window(right->d, least(rows, end * tile_side), right->N, u * tile_side, column, first);
          const Two lefts = two(panels + (u - begin) * size, u + 1 < end);
          const Two rights = two(right->panels + column / tile_side * size, column + tile_side < right->N);
          multiply_two<2>(blocks(K), lefts, rights, window.squares, first, nothing);
        }
}

#endif

}  // namespace HEADGATE_LEVEL
}  // namespace headgate
