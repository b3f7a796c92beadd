// Matrix tiles (AMX), on which floats are represented as sums of three bfloat16s; tiled_product.h multiplies them.
//
// A float is h + m + l, each the bfloat16 nearest to the remainder: three times eight bits for the float's 24. Of the
// nine products of two such sums six matter,
//
//   a b = ah bh + (ah bm + am bh) + (ah bl + am bm + al bh),
//
// the others are below 2^-25 of a b, so that a sum is about as exact as with fused multiply-adds. In the time of 32
// vector multiply-adds, a tile product does the work of 512, or of 85 after the division by six. (Henry, Tang and
// Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", 2019.)
//
// For a single row, tiles are slower than vectors. So the weights' gradients, which are sums over tokens, are always
// computed on tiles, but results of a row only if they need not have the same bits alone and in a batch.
//
// Tiles do not support infinities: inf - inf makes m a NaN. Left rows with infinities are multiplied with vectors
// instead; elsewhere, every result that an infinity contributes to is NaN. Tiles do not support subnormal numbers
// either: a part below 2^-126 is zero.
//
// Letters as in product.h. A block is 32 terms of K: 16 pairs of k and k + 16. A panel is 16 rows of a left side, or 16
// columns of a right side, over all blocks.
#pragma once

#include "product.h"

namespace headgate {
namespace HEADGATE_LEVEL {

#if defined(__AMX_BF16__)
constexpr bool has_tiles = true;
#else
constexpr bool has_tiles = false;  // the declarations below are then unused
#endif

// One part of a block: (row, pair) of a left side, (pair, column) of a right side. The parts of a block are h, m, l.
struct Tile {
  alignas(64) uint32_t pairs[16][16];
};

constexpr int tile_side = 16, parts = 3;
constexpr int64_t block_depth = 32;
constexpr int64_t blocks(int64_t K) { return (K + block_depth - 1) / block_depth; }
constexpr int64_t tiles_of_panel(int64_t K) { return blocks(K) * parts; }

// A thread may use tiles during the lifetime of this object.
class TileUse;

// --- packed columns, as in product.h ----------------------------------------------------------------------------------

template <> constexpr int64_t bytes_of_number<Tile> = 2 * parts;
template <> constexpr int64_t vector_stride<float, Tile>(int64_t K) { return tiles_of_panel(K); }

void pack_lanes_as(const float* const* from, int64_t K, Tile* to, float*);
void pack_columns(const float* const* rows, int64_t K, int64_t N, int64_t begin, int64_t end, Tile* to, int64_t stride);

// --- sums over tokens -------------------------------------------------------------------------------------------------

// Packs a packed vector (K, 16) as a panel of a right side; its lanes are the columns.
void pack_right(const float* from, int64_t K, Tile* to);

#if defined(__AMX_BF16__)

// Tells the compiler what it does not know of these intrinsics: that they read the memory a pointer points to.
#define HEADGATE_IS_READ(p) asm volatile("" ::"r"(p) : "memory")

class TileUse {
 public:
  TileUse() { rows_ = 0; }
  ~TileUse() { _tile_release(); }
  TileUse(const TileUse&) = delete;
  TileUse& operator=(const TileUse&) = delete;

  // Tiles have 64 bytes per row: 0 to 4 have `rows` rows, 5 to 7 have 16.
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

// Splits 16 pairs (x[i], y[i]) into three parts; returns true if all are finite.
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

// The second number of each pair, its upper half, or the first, its lower half.
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

// Packs a panel, where at(i, k) returns the pairs for row i of a tile in the block at k; `transposed` turns columns
// into rows.
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
// The pairs of the block at k of K contiguous numbers; beyond K there are zeros.
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

// Packs terms [first, first + K) of up to 16 rows as a panel of a left side; returns a bit for each non-finite row.
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

#endif

}  // namespace HEADGATE_LEVEL
}  // namespace headgate
