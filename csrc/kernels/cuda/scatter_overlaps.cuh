// Kernels of scatter with sums (kAdd) for 3x3 windows with stride 2, as in the stems of ResNets. Neighbouring windows
// share one row or one column of pixels. As in scatter.cuh, each pixel is written once, by a thread that looks up the
// switches that may name it.
//
//   scatter_overlaps_kernel                NCHW
//   scatter_channels_last_overlaps_kernel  channels_last, channels in whole 16-byte vectors
//
// The map is divided into tiles of 2x2 pixels, each covered by 2x2 windows. Along one axis:
//
//     taps of window c        0 1 2
//     taps of window c + 1        0 1 2
//     pixels of the tile        0 1
//
// A thread reads the windows of its tiles once and compares their codes with constants. Sums are taken in row-major
// order of the windows. The first tile may begin before the map, and the last may end after it. In place of a window
// that does not exist, the thread reads one that does, so that no load waits for a branch, and replaces its codes with
// one that selects no pixel.
#pragma once

#include <cstdint>

#include "codes.cuh"
#include "element.cuh"
#include "geometry.cuh"
#include "launch.cuh"
#include "scatter.cuh"

namespace segext {

inline constexpr uint32_t kNoTap = (1u << kOverlapBits) - 1;

// Along one axis: the tap of window 0 or 1 of a tile that lies on the tile's pixel 0 or 1; negative if none does.
__device__ constexpr int tap_in_tile(int window, int pixel) { return 1 + pixel - 2 * window; }

// Along one axis: the number of tiles of the map, and the first window and the first pixel of tile `tile`.
inline int64_t overlap_tiles(int64_t size, int64_t padding) { return (size + 2 - padding) / 2; }

__device__ __forceinline__ int32_t first_window_of_tile(const Axis<int32_t>& axis, int32_t tile) {
  return tile - 1 + axis.origin;
}

__device__ __forceinline__ int32_t first_pixel_of_tile(const Axis<int32_t>& axis, int32_t tile) {
  return 2 * tile - 1 + axis.origin;
}

// Along one axis: whether a window exists, and the window to read, which is window 0 if it does not.
struct OverlapWindow {
  bool exists;
  int32_t read;

  __device__ __forceinline__ OverlapWindow(const Axis<int32_t>& axis, int32_t window)
      : exists(as_unsigned(window) < as_unsigned(axis.windows)), read(exists ? window : 0) {}
};

// The sum at pixel (i, j) of a tile. `code(a, b)` and `value(a, b)` are those of the tile's window (a, b).
template <typename T, typename Codes, typename Values>
__device__ __forceinline__ T sum_in_tile(int i, int j, const Codes& code, const Values& value) {
  using Wide = WideOf<T>;
  Wide sum{};
#pragma unroll
  for (int a = 0; a < 2; ++a) {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const int row = tap_in_tile(a, i), column = tap_in_tile(b, j);
      if (row < 0 || column < 0) continue;
      sum += code(a, b) == static_cast<uint32_t>(3 * row + column) ? value(a, b) : Wide{};
    }
  }
  return Element<T>::narrow(sum);
}

// Replaces the codes of elements that the pool's fused ReLU blocks by kNoTap. The codes are those of the elements from
// `element` on.
template <typename V, typename Bits>
__device__ __forceinline__ void drop_blocked(const ReluMask<Bits>& relu, int64_t element, uint32_t* codes) {
  const auto outputs = load_vector<V>(relu.output + element);
#pragma unroll
  for (int k = 0; k < V::kLanes; ++k) {
    const bool passes = relu.passes_bits(outputs.lane[k]);
    *codes |= passes ? 0 : static_cast<uint32_t>(place_code(kNoTap, k, kOverlapBits));
  }
}

// One row of the windows that cover kTiles neighbouring tiles: kTiles + 1 windows.
template <typename T, int kTiles>
struct OverlapWindows {
  Lanes<T, kTiles> values;
  T last;
  uint32_t codes, last_code;

  __device__ __forceinline__ WideOf<T> value(int k) const {
    return Element<T>::widen(k < kTiles ? values.lane[k] : last);
  }

  __device__ __forceinline__ uint32_t code(int k) const {
    return k < kTiles ? take_code(codes, k, kOverlapBits) : last_code;
  }
};

// Rows of tiles per thread.
inline constexpr int kOverlapTileRows = 2;

// A thread writes kOverlapTileRows rows of kTiles neighbouring tiles. Either the 2 * kTiles pixels of a row are one
// vector, where a tile begins with the map's first column and the rows of the map are whole vectors; or kTiles is 1 and
// each pixel is a separate store. There are `threads` threads; the rows of tiles are numbered across all planes.
template <typename T, int kTiles>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    scatter_overlaps_kernel(ScatterArrays<T> arrays, PoolShape<int32_t> shape, Divisor<int32_t> threads_per_row,
                            Divisor<int32_t> threads_per_column, Divisor<int32_t> channels, int32_t threads) {
  static_assert(kTiles == 1 || 2 * kTiles == Vector<T>::kLanes, "a tile, or as many as fill a vector");
  using Bits = RawBitsOf<T>;
  const int64_t thread = thread_number();
  if (thread >= threads) return;

  int32_t in_row, in_column, channel;
  const int32_t plane =
      threads_per_column.divide(threads_per_row.divide(static_cast<int32_t>(thread), &in_row), &in_column);
  const int64_t sample = channels.divide(plane, &channel);
  const int32_t tile_row = in_column * kOverlapTileRows, tile_column = in_row * kTiles;
  const int32_t first_column = first_window_of_tile(shape.columns, tile_column);
  const OverlapWindow column(shape.columns, first_column), last_column(shape.columns, first_column + kTiles);
  const int32_t to_last = last_column.exists ? last_column.read - column.read : 0;
  const uint8_t* codes = arrays.codes + sample * shape.sample_bytes;

  OverlapWindows<T, kTiles> windows[kOverlapTileRows + 1];
  int64_t elements[kOverlapTileRows + 1];
#pragma unroll
  for (int a = 0; a <= kOverlapTileRows; ++a) {
    const OverlapWindow row(shape.rows, first_window_of_tile(shape.rows, tile_row) + a);
    const int32_t in_sample = shape.pooled.element({channel, row.read, column.read});
    elements[a] = sample * shape.pooled.elements + in_sample;
    OverlapWindows<T, kTiles>& of_row = windows[a];
    of_row.values = load_vector<Lanes<T, kTiles>>(arrays.values + elements[a]);
    of_row.last = arrays.values[elements[a] + to_last];
    if constexpr (kTiles == 1) {
      of_row.codes = load_code(codes, as_unsigned(in_sample), kOverlapBits);
    } else {
      const auto run = as_unsigned(in_sample) / kTiles;
      of_row.codes = static_cast<uint32_t>(load_run(codes, run, kTiles * kOverlapBits / 8));
    }
    of_row.last_code = load_code(codes, as_unsigned(in_sample + to_last), kOverlapBits);
    of_row.codes = row.exists && column.exists ? of_row.codes : ~0u;
    of_row.last_code = row.exists && last_column.exists ? of_row.last_code : kNoTap;
  }
  if (arrays.relu.output != nullptr) {
#pragma unroll
    for (int a = 0; a <= kOverlapTileRows; ++a) {
      drop_blocked<Lanes<Bits, kTiles>>(arrays.relu, elements[a], &windows[a].codes);
      drop_blocked<Lanes<Bits, 1>>(arrays.relu, elements[a] + to_last, &windows[a].last_code);
    }
  }

  const int32_t x = first_pixel_of_tile(shape.columns, tile_column);
  T* map = arrays.map + static_cast<int64_t>(plane) * shape.map.channel_stride + x;
#pragma unroll
  for (int i = 0; i < 2 * kOverlapTileRows; ++i) {
    const int32_t y = first_pixel_of_tile(shape.rows, tile_row) + i;
    if (!shape.rows.contains(y)) continue;
    Lanes<T, 2 * kTiles> pixels;
#pragma unroll
    for (int j = 0; j < 2 * kTiles; ++j) {
      pixels.lane[j] = sum_in_tile<T>(
          i % 2, j % 2, [&](int a, int b) { return windows[i / 2 + a].code(j / 2 + b); },
          [&](int a, int b) { return windows[i / 2 + a].value(j / 2 + b); });
    }
    T* row = map + y * shape.map.row_stride;
    if constexpr (kTiles > 1) {
      store_vector(row, pixels);
    } else {
      if (shape.columns.contains(x)) row[0] = pixels.lane[0];
      if (shape.columns.contains(x + 1)) row[1] = pixels.lane[1];
    }
  }
}

// Blocks per multiprocessor. Left to itself, the compiler gives threads of half types more registers than three blocks
// leave room for; with four blocks, it spills some.
inline constexpr int kOverlapMinBlocks = 3;

// A thread writes V = 4 or 8 channels of one tile: four 16-byte stores, from four 16-byte loads and their codes.
// Neighbouring threads handle neighbouring channels, then neighbouring tiles.
template <typename T>
__global__ void __launch_bounds__(Launch::kBlockThreads, kOverlapMinBlocks)
    scatter_channels_last_overlaps_kernel(ScatterArrays<T> arrays, PoolShape<int32_t> shape,
                                          Divisor<int32_t> vectors_per_pixel, Divisor<int32_t> tile_rows,
                                          Divisor<int32_t> tile_columns, int32_t threads) {
  using Bits = RawBitsOf<T>;
  constexpr int kLanes = Vector<T>::kLanes;
  const int64_t thread = thread_number();
  if (thread >= threads) return;

  int32_t vector, tile_row, tile_column;
  const int32_t tile = vectors_per_pixel.divide(static_cast<int32_t>(thread), &vector);
  const int64_t sample = tile_rows.divide(tile_columns.divide(tile, &tile_column), &tile_row);
  Vector<T> values[2][2];
  uint32_t codes[2][2];
  int64_t elements[2][2];
#pragma unroll
  for (int a = 0; a < 2; ++a) {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const OverlapWindow row(shape.rows, first_window_of_tile(shape.rows, tile_row) + a);
      const OverlapWindow column(shape.columns, first_window_of_tile(shape.columns, tile_column) + b);
      elements[a][b] = sample * shape.pooled.elements + shape.pooled.element({vector * kLanes, row.read, column.read});
      values[a][b] = load_vector<Vector<T>>(arrays.values + elements[a][b]);
      const uint64_t run = load_run(arrays.codes, elements[a][b] / kLanes, kLanes * kOverlapBits / 8);
      codes[a][b] = row.exists && column.exists ? static_cast<uint32_t>(run) : ~0u;
    }
  }
  if (arrays.relu.output != nullptr) {
#pragma unroll
    for (int w = 0; w < 4; ++w) drop_blocked<Vector<Bits>>(arrays.relu, elements[w / 2][w % 2], &codes[w / 2][w % 2]);
  }

  // One lane at a time, so that few values are held in their wide type at once.
  Vector<T> pixels[2][2];
#pragma unroll
  for (int k = 0; k < kLanes; ++k) {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      pixels[p / 2][p % 2].lane[k] = sum_in_tile<T>(
          p / 2, p % 2, [&](int a, int b) { return take_code(codes[a][b], k, kOverlapBits); },
          [&](int a, int b) { return widen_lane(values[a][b], k); });
    }
  }

  const int32_t y = first_pixel_of_tile(shape.rows, tile_row), x = first_pixel_of_tile(shape.columns, tile_column);
  T* map = arrays.map + sample * shape.map.elements + vector * kLanes;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      if (!shape.rows.contains(y + i) || !shape.columns.contains(x + j)) continue;
      store_vector(map + ((y + i) * shape.map.row_stride + (x + j) * shape.map.column_stride), pixels[i][j]);
    }
  }
}

}  // namespace segext
