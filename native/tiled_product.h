// Products on matrix tiles: rows times packed columns, as in product.h, and sums over tokens.
//
// Letters as in product.h; blocks and panels as in tiles.h.
#pragma once

#include <cstring>

#include "tiles.h"

namespace headgate {
namespace HEADGATE_LEVEL {

// Rows and terms that are multiplied together: a left side of this size stays in the L2 cache.
constexpr int64_t tiled_group = 128, tiled_depth = 1024;

// The memory of multiply_groups: the group's rows on tiles, then the sums of twice three vectors, or of all vectors if
// K is more than tiled_depth.
template <> constexpr int64_t sums_size<float, Tile>(int64_t K, int64_t vectors) {
  return tiled_group * (tiles_of_panel(least(K, tiled_depth)) * int64_t(sizeof(Tile) / sizeof(float)) / tile_side +
                        (K > tiled_depth ? vectors + 3 : 6) * tile_side);
}

// A right side, as panels of its N columns, and the matrix d (left rows, N) that receives the product.
struct Right {
  const Tile* panels;
  int64_t N;
  float* d;
};

// Like multiply_left in product.h, for `count` right sides: the vectors [begin, end) of `left` are rows of each d.
// `panels` is memory for one panel per vector.
void multiply_left(int64_t K, const float* left, int64_t left_stride, int64_t begin, int64_t end, int64_t rows,
                   const Right* right, int count, bool first, Tile* panels);

#if defined(__AMX_BF16__)

// --- panels times panels ----------------------------------------------------------------------------------------------

// Both functions take the parts in the same order, so that an element has the same bits: h l, h m, m m, m h, l h, h h.
// They call after_block() after each block, so that vectors can work while tiles do.

struct Two {
  const Tile *first, *second;
};

// Two by two squares of 16 x 16 numbers, whose rows are `stride` apart.
struct Squares {
  float* at[2][2];
  int64_t stride;
};

// Two panels of rows times C panels of columns: added to the squares, or stored there if `first`.
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

// multiply_groups of product.h on tiles: up to three vectors at a time, with one or two panels of rows. Their sums are
// passed to out() while the next ones are computed, a few rows at a time.
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

// The squares of d (rows, N) at `row` and `column`: d's own memory, or at its edges a copy, written back at the end.
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
  alignas(64) float copy_[2 * tile_side][2 * tile_side];  // undefined beyond the edges of d
};

// Tiles of a right side that stay in the L2 cache.
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
