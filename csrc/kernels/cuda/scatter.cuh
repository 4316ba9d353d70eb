// Kernels of scatter, in gather form: a thread owns pixels of the full map, looks up which switches refer to them, and
// writes each pixel once, zero or not. No pixel has two writers, so nothing is cleared first and nothing is atomic.
//
//   scatter_tile_rows_kernel              NCHW, adjacent 2x2 windows, rows of whole 16-byte vectors
//   scatter_tiles_kernel                  NCHW, the same windows, any width
//   scatter_channels_last_tiles_kernel    channels_last, adjacent 2x2 windows
//   scatter_channels_last_windows_kernel  channels_last, other windows that do not overlap
//   scatter_channels_last_kernel          channels_last, any windows
//   scatter_kernel                        everything else: one pixel per thread, coalesced along the full map
//
// The kernels of scatter_overlaps.cuh take precedence over the last two.
//
// Where windows do not overlap, and where only the last of overlapping ones is kept, values are only moved, so kernels
// are compiled for the raw bits of an element. Sums need the element type.
#pragma once

#include <cstdint>

#include "../scatter.h"
#include "codes.cuh"
#include "element.cuh"
#include "geometry.cuh"
#include "launch.cuh"

namespace segext {

// What a scatter kernel reads and writes, besides the geometry.
template <typename T>
struct ScatterArrays {
  const T* __restrict__ values;
  const uint8_t* __restrict__ codes;
  T* __restrict__ map;
  ReluMask<RawBitsOf<T>> relu;
};

// A thread writes 16 bytes (V = 4 or 8 pixels) in both rows of a row of tiles, from V / 2 values. Here V is 4:
//
//     values   a b             row r
//     codes    1 2
//     map      . a . .         row 2r
//              . . b .         row 2r + 1
//
// Each store of a warp covers one contiguous stretch. Pixels outside all tiles, in an odd last row or to the right of
// the last tile, become zero; either all tiles of a thread exist or none does. There are `threads` threads; rows of
// tiles are numbered across all planes.
template <typename Bits>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    scatter_tile_rows_kernel(ScatterArrays<Bits> arrays, PoolShape<int32_t> shape, Divisor<int32_t> vectors_per_row,
                             Divisor<int32_t> tile_rows, int32_t threads) {
  constexpr int kLanes = Vector<Bits>::kLanes;
  constexpr int kTiles = kLanes / 2;
  constexpr int bits = kTileBits;
  const int64_t thread = thread_number();
  if (thread >= threads) return;

  int32_t vector, r;
  const int32_t row_of_tiles = vectors_per_row.divide(static_cast<int32_t>(thread), &vector);
  const int64_t plane = tile_rows.divide(row_of_tiles, &r);
  const int32_t column = vector * kTiles;
  HalfVector<Bits> values{};
  uint32_t run = 0;
  if (r < shape.rows.windows && column < shape.columns.windows) {
    const int64_t element = (plane * shape.rows.windows + r) * shape.columns.windows + column;
    values = load_vector<HalfVector<Bits>>(arrays.values + element);
    arrays.relu.apply(element, &values);
    run = static_cast<uint32_t>(load_code_run<kTiles>(arrays.codes, element, bits));
  }

  Vector<Bits> upper, lower;
#pragma unroll
  for (int k = 0; k < kTiles; ++k) {
    const uint32_t code = take_code(run, k, bits);
    upper.lane[2 * k] = code == 0 ? values.lane[k] : Bits{0};
    upper.lane[2 * k + 1] = code == 1 ? values.lane[k] : Bits{0};
    lower.lane[2 * k] = code == 2 ? values.lane[k] : Bits{0};
    lower.lane[2 * k + 1] = code == 3 ? values.lane[k] : Bits{0};
  }
  Bits* top = arrays.map + (plane * shape.rows.pixels + 2 * r) * shape.columns.pixels + vector * kLanes;
  store_vector(top, upper);
  if (2 * r + 1 < shape.rows.pixels) store_vector(top + shape.columns.pixels, lower);
}

// Two neighbouring elements of a row, written by one store.
template <typename Bits>
struct alignas(2 * sizeof(Bits)) Pair {
  Bits left, right;
};

// A thread writes one 2x2 tile, as two pairs of neighbours:
//
//     value   a         code   2
//     map     . .       row 2r
//             a .       row 2r + 1
//
// With `paired`, which needs an even width, each store of a warp covers a contiguous stretch. Otherwise each store
// covers every other element of one, and the L2 cache merges the stores. Tiles cover the whole map: pixels outside all
// windows become zero, and the last tiles may overhang the map.
template <typename Bits>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    scatter_tiles_kernel(ScatterArrays<Bits> arrays, PoolShape<int32_t> shape, Divisor<int32_t> tile_columns,
                         Divisor<int32_t> tile_rows, Divisor<int32_t> channels, int32_t threads, bool paired) {
  const int64_t thread = thread_number();
  if (thread >= threads) return;

  int32_t r, c;
  const int32_t plane = tile_rows.divide(tile_columns.divide(static_cast<int32_t>(thread), &c), &r);
  Pair<Bits> upper{}, lower{};
  if (r < shape.rows.windows && c < shape.columns.windows) {
    int32_t channel;
    const int64_t sample = channels.divide(plane, &channel);
    const int32_t in_sample = shape.pooled.element({channel, r, c});
    const int64_t element = sample * shape.pooled.elements + in_sample;
    const uint32_t code = load_code(arrays.codes + sample * shape.sample_bytes, as_unsigned(in_sample), kTileBits);
    const Bits read = arrays.values[element];
    const Bits value = arrays.relu.passes(element) ? read : Bits{0};
    upper = {code == 0 ? value : Bits{0}, code == 1 ? value : Bits{0}};
    lower = {code == 2 ? value : Bits{0}, code == 3 ? value : Bits{0}};
  }
  const bool has_lower = 2 * r + 1 < shape.rows.pixels;
  const bool has_right = 2 * c + 1 < shape.columns.pixels;
  Bits* top = arrays.map + (static_cast<int64_t>(plane) * shape.rows.pixels + 2 * r) * shape.columns.pixels + 2 * c;
  Bits* bottom = top + shape.columns.pixels;
  if (paired) {
    *reinterpret_cast<Pair<Bits>*>(top) = upper;
    if (has_lower) *reinterpret_cast<Pair<Bits>*>(bottom) = lower;
  } else {
    top[0] = upper.left;
    if (has_right) top[1] = upper.right;
    if (has_lower) bottom[0] = lower.left;
    if (has_lower && has_right) bottom[1] = lower.right;
  }
}

// A thread writes V = 4 or 8 channels of a 2x2 tile: four 16-byte stores, from one 16-byte load and the codes. Tiles
// cover the whole map: pixels outside all windows become zero, and the last tiles may overhang the map.
template <typename Bits>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    scatter_channels_last_tiles_kernel(ScatterArrays<Bits> arrays, PoolShape<int32_t> shape,
                                       Divisor<int32_t> vectors_per_pixel, Divisor<int32_t> tile_rows,
                                       Divisor<int32_t> tile_columns, int32_t threads) {
  constexpr int kLanes = Vector<Bits>::kLanes;
  constexpr int bits = kTileBits;
  const int64_t thread = thread_number();
  if (thread >= threads) return;

  int32_t vector, r, c;
  const int32_t tile = vectors_per_pixel.divide(static_cast<int32_t>(thread), &vector);
  const int64_t sample = tile_rows.divide(tile_columns.divide(tile, &c), &r);
  Vector<Bits> values = fill_vector<Bits>(0);
  uint64_t run = 0;
  if (r < shape.rows.windows && c < shape.columns.windows) {
    const int64_t element = sample * shape.pooled.elements + shape.pooled.element({vector * kLanes, r, c});
    values = load_vector<Vector<Bits>>(arrays.values + element);
    arrays.relu.apply(element, &values);
    run = load_run(arrays.codes, element / kLanes, kLanes * bits / 8);
  }

  const TileMasks<kLanes> masks(run);
  const Vector<uint32_t> words = as_words(values);
  Bits* corner = arrays.map + (sample * shape.map.elements + shape.map.element({vector * kLanes, 2 * r, 2 * c}));
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      if ((i == 1 && 2 * r + 1 >= shape.rows.pixels) || (j == 1 && 2 * c + 1 >= shape.columns.pixels)) continue;
      Vector<uint32_t> pixel;
#pragma unroll
      for (int w = 0; w < Vector<uint32_t>::kLanes; ++w) {
        const uint32_t in_row = i == 1 ? masks.lower[w] : ~masks.lower[w];
        const uint32_t in_column = j == 1 ? masks.right[w] : ~masks.right[w];
        pixel.lane[w] = words.lane[w] & in_row & in_column;
      }
      store_vector(corner + (i * shape.map.row_stride + j * shape.map.column_stride), from_words<Bits>(pixel));
    }
  }
}

// A thread writes V = 4 or 8 channels of one cell, which is a window and the pixels between it and the next windows:
// stride_h x stride_w pixels, each of them one 16-byte store. Values and codes are read once.
//
//     cell of a 2x2 window, stride 3:    0 1 .
//                                        2 3 .      taps, and pixels (.) outside all windows
//                                        . . .
//
// Cells tile the map, starting in the padding before it. Cells after the last window become zero. Where a window
// overhangs the map, so does its cell.
template <typename Bits>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    scatter_channels_last_windows_kernel(ScatterArrays<Bits> arrays, PoolShape<int32_t> shape,
                                         Divisor<int32_t> vectors_per_pixel, Divisor<int32_t> cell_rows,
                                         Divisor<int32_t> cell_columns, int32_t threads) {
  constexpr int kLanes = Vector<Bits>::kLanes;
  const int64_t thread = thread_number();
  if (thread >= threads) return;

  int32_t vector, r, c;
  const int32_t cell = vectors_per_pixel.divide(static_cast<int32_t>(thread), &vector);
  const int64_t sample = cell_rows.divide(cell_columns.divide(cell, &c), &r);
  Vector<Bits> values = fill_vector<Bits>(0);
  uint64_t run = 0;
  if (r < shape.rows.windows && c < shape.columns.windows) {
    const int64_t element = sample * shape.pooled.elements + shape.pooled.element({vector * kLanes, r, c});
    values = load_vector<Vector<Bits>>(arrays.values + element);
    arrays.relu.apply(element, &values);
    run = load_run(arrays.codes, element / kLanes, kLanes * shape.bits / 8);
  }

  for (int32_t i = 0; i < shape.rows.stride; ++i) {
    const int32_t row = shape.rows.pixel(r, 0) + i;
    if (!shape.rows.contains(row)) continue;
    for (int32_t j = 0; j < shape.columns.stride; ++j) {
      const int32_t column = shape.columns.pixel(c, 0) + j;
      if (!shape.columns.contains(column)) continue;
      const bool is_tap = i < shape.rows.kernel && j < shape.columns.kernel;
      const uint32_t tap = static_cast<uint32_t>(i * shape.columns.kernel + j);
      Vector<Bits> pixel;
#pragma unroll
      for (int k = 0; k < kLanes; ++k) {
        pixel.lane[k] = is_tap && take_code(run, k, shape.bits) == tap ? values.lane[k] : Bits{0};
      }
      store_vector(arrays.map + sample * shape.map.elements + shape.map.element({vector * kLanes, row, column}), pixel);
    }
  }
}

// How a pixel combines the values whose switches name it, in row-major order. Usually only one or two windows of a row
// contain a pixel, so the loops over them are not unrolled: compilers would unroll them at a multiple of the registers.
template <typename T, Overlap kOverlap>
struct Combined {
  using Wide = WideOf<T>;
  Wide value{};

  // Branch-free, because compilers would split wide loads around a branch.
  __device__ __forceinline__ void combine_if(bool named, T next) {
    if constexpr (kOverlap == Overlap::kAdd) {
      value += named ? Element<T>::widen(next) : Wide{};
    } else {
      value = named ? next : value;
    }
  }

  __device__ __forceinline__ T result() const { return Element<T>::narrow(value); }
};

// A thread writes V = 4 or 8 channels (16 bytes) of one pixel, from the same channels, also 16 bytes, of each window
// that contains the pixel. Neighbouring threads handle neighbouring channels and read the same windows.
template <typename T, Overlap kOverlap>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    scatter_channels_last_kernel(ScatterArrays<T> arrays, PoolShape<int32_t> shape, Divisor<int32_t> vectors_per_pixel,
                                 Divisor<int32_t> rows, int32_t threads) {
  constexpr int kLanes = Vector<T>::kLanes;
  const int64_t thread = thread_number();
  if (thread >= threads) return;

  int32_t vector, row, column;
  const int32_t pixel = vectors_per_pixel.divide(static_cast<int32_t>(thread), &vector);
  const int64_t sample = rows.divide(shape.map.middle.divide(pixel, &column), &row);
  Combined<T, kOverlap> combined[kLanes];
  const int32_t last_row = shape.rows.last_window(row);
  const int32_t first_column = shape.columns.first_window(column);
  const int32_t last_column = shape.columns.last_window(column);
  for (int32_t r = shape.rows.first_window(row); r <= last_row; ++r) {
    const int32_t i = shape.rows.tap(r, row);
    if (i < 0) continue;
#pragma unroll 1
    for (int32_t c = first_column; c <= last_column; ++c) {
      const int32_t j = shape.columns.tap(c, column);
      if (j < 0) continue;
      const uint32_t tap = static_cast<uint32_t>(i * shape.columns.kernel + j);
      const int64_t element = sample * shape.pooled.elements + shape.pooled.element({vector * kLanes, r, c});
      const uint64_t run = load_run(arrays.codes, element / kLanes, kLanes * shape.bits / 8);
      const auto values = load_vector<Vector<T>>(arrays.values + element);
      Vector<RawBitsOf<T>> outputs;
      if (arrays.relu.output != nullptr) outputs = load_vector<Vector<RawBitsOf<T>>>(arrays.relu.output + element);
#pragma unroll
      for (int k = 0; k < kLanes; ++k) {
        const bool passes = arrays.relu.output == nullptr || arrays.relu.passes_bits(outputs.lane[k]);
        combined[k].combine_if(take_code(run, k, shape.bits) == tap, passes ? values.lane[k] : T{});
      }
    }
  }
  Vector<T> result;
#pragma unroll
  for (int k = 0; k < kLanes; ++k) result.lane[k] = combined[k].result();
  store_vector(arrays.map + thread * kLanes, result);
}

// A thread writes one element of the full map, after looking at every window that can contain its pixel.
template <typename T, Overlap kOverlap, typename Index>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    scatter_kernel(ScatterArrays<T> arrays, PoolShape<Index> shape, WarpRuns<Index> runs) {
  const auto lane = runs.lane();
  if (lane.sample >= runs.samples || !lane.present) return;

  const Place<Index> at = shape.map.place(lane.element);
  const uint8_t* codes = arrays.codes + lane.sample * shape.sample_bytes;
  const int64_t sample_begin = static_cast<int64_t>(lane.sample) * shape.pooled.elements;
  Combined<T, kOverlap> combined;
  const Index last_row = shape.rows.last_window(at.row);
  const Index first_column = shape.columns.first_window(at.column);
  const Index last_column = shape.columns.last_window(at.column);
  for (Index r = shape.rows.first_window(at.row); r <= last_row; ++r) {
    const Index i = shape.rows.tap(r, at.row);
    if (i < 0) continue;
#pragma unroll 1
    for (Index c = first_column; c <= last_column; ++c) {
      const Index j = shape.columns.tap(c, at.column);
      if (j < 0) continue;
      const Index element = shape.pooled.element({at.channel, r, c});
      const uint32_t code = load_any_code(codes, element, shape.bits);
      if (code != static_cast<uint32_t>(i * shape.columns.kernel + j)) continue;
      const bool passes = arrays.relu.passes(sample_begin + element);
      combined.combine_if(true, passes ? arrays.values[sample_begin + element] : T{});
    }
  }
  arrays.map[static_cast<int64_t>(lane.sample) * runs.elements + lane.element] = combined.result();
}

}  // namespace segext
