// Kernels of gather: each pooled element reads the pixel that its switch names. Nothing is computed, so kernels are
// compiled for the raw bits of an element, one for each size.
//
//   gather_tile_rows_kernel            NCHW, adjacent 2x2 windows, rows of the map in whole 16-byte vectors
//   gather_channels_last_tiles_kernel  channels_last, the same windows, channels in whole 16-byte vectors
//   gather_kernel                      everything else: one element per thread, coalesced along the pooled map
#pragma once

#include <cstdint>

#include "codes.cuh"
#include "element.cuh"
#include "geometry.cuh"
#include "launch.cuh"

namespace segext {

// A thread gathers kCount elements of one row: as many as a vector has lanes, or half as many if the rows are not whole
// runs of that length. It reads every pixel of their tiles with 16-byte loads, which do not wait for the codes, and
// writes one store. Reading only the named pixels would hardly save traffic, since nearly any 32 bytes contain a pixel
// that some window names.
//
//     codes    1 2 0 3
//     map      . a . . c . . .   row 2r
//              . . b . . . . d   row 2r + 1
//     values   a b c d           row r
template <typename Bits, int kCount>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    gather_tile_rows_kernel(const Bits* __restrict__ map, const uint8_t* __restrict__ codes, Bits* __restrict__ values,
                            ReluMask<Bits> relu, PoolShape<int32_t> shape, Divisor<int32_t> runs_per_row,
                            int32_t threads) {
  constexpr int kLanes = Vector<Bits>::kLanes, kVectors = 2 * kCount / kLanes;
  const int64_t thread = thread_number();
  if (thread >= threads) return;

  int32_t run_in_row;
  const int32_t pooled_row = runs_per_row.divide(static_cast<int32_t>(thread), &run_in_row);
  const Bits* top = map + tile_top_row(shape, pooled_row) * shape.columns.pixels + 2 * kCount * run_in_row;
  const Bits* bottom = top + shape.columns.pixels;
  Vector<Bits> pixels[2][kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    pixels[0][v] = load_vector<Vector<Bits>>(top + v * kLanes);
    pixels[1][v] = load_vector<Vector<Bits>>(bottom + v * kLanes);
  }
  uint32_t run;
  if constexpr (kCount > kTilesPerByte) {
    run = static_cast<uint32_t>(load_run(codes, thread, kCount / kTilesPerByte));
  } else {
    run = load_code_run<kCount>(codes, thread * kCount, kTileBits);
  }

  Lanes<Bits, kCount> result;
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    const Vector<Bits>& upper = pixels[0][2 * k / kLanes];
    const Vector<Bits>& lower = pixels[1][2 * k / kLanes];
    const int left = 2 * k % kLanes;
    const uint32_t code = take_code(run, k, kTileBits);
    const Bits in_upper = (code & 1) != 0 ? upper.lane[left + 1] : upper.lane[left];
    const Bits in_lower = (code & 1) != 0 ? lower.lane[left + 1] : lower.lane[left];
    result.lane[k] = (code & 2) != 0 ? in_lower : in_upper;
  }
  relu.apply(thread * kCount, &result);
  store_vector(values + thread * kCount, result);
}

// A thread gathers V = 4 or 8 channels of one pooled pixel from the four pixels of its tile: four 16-byte loads, one
// 16-byte store. Neighbouring threads handle neighbouring channels, then neighbouring pixels.
template <typename Bits>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    gather_channels_last_tiles_kernel(const Bits* __restrict__ map, const uint8_t* __restrict__ codes,
                                      Bits* __restrict__ values, ReluMask<Bits> relu, PoolShape<int32_t> shape,
                                      Divisor<int32_t> vectors_per_pixel, int32_t threads) {
  constexpr int kLanes = Vector<Bits>::kLanes;
  constexpr int bits = kTileBits;
  const int64_t thread = thread_number();
  if (thread >= threads) return;

  int32_t vector, column;
  const int32_t pixel = vectors_per_pixel.divide(static_cast<int32_t>(thread), &vector);
  const int32_t pooled_row = shape.columns.by_windows.divide(pixel, &column);
  const Bits* top = map + tile_top_row(shape, pooled_row) * shape.map.row_stride +
                    2 * column * shape.map.column_stride + vector * kLanes;
  Vector<uint32_t> pixels[2][2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const Bits* pixel = top + (i * shape.map.row_stride + j * shape.map.column_stride);
      pixels[i][j] = as_words(load_vector<Vector<Bits>>(pixel));
    }
  }
  const TileMasks<kLanes> masks(load_run(codes, thread, kLanes * bits / 8));

  Vector<uint32_t> words;
#pragma unroll
  for (int w = 0; w < Vector<uint32_t>::kLanes; ++w) {
    const uint32_t upper = (pixels[0][0].lane[w] & ~masks.right[w]) | (pixels[0][1].lane[w] & masks.right[w]);
    const uint32_t lower = (pixels[1][0].lane[w] & ~masks.right[w]) | (pixels[1][1].lane[w] & masks.right[w]);
    words.lane[w] = (upper & ~masks.lower[w]) | (lower & masks.lower[w]);
  }
  auto result = from_words<Bits>(words);
  relu.apply(thread * kLanes, &result);
  store_vector(values + thread * kLanes, result);
}

// Whether a later window of the same channel, in row-major order, also names pixel (row, column).
template <typename Index>
__device__ __forceinline__ bool is_named_later(const PoolShape<Index>& shape, const uint8_t* __restrict__ codes,
                                               const Place<Index>& window, Index row, Index column) {
  const Index first_column = shape.columns.first_window(column);
  const Index last_column = shape.columns.last_window(column);
  const Index last_row = shape.rows.last_window(row);
  for (Index r = window.row; r <= last_row; ++r) {
    const Index i = shape.rows.tap(r, row);
    if (i < 0) continue;
    for (Index c = r == window.row ? window.column + 1 : first_column; c <= last_column; ++c) {
      const Index j = shape.columns.tap(c, column);
      if (j < 0) continue;
      const Index element = shape.pooled.element({window.channel, r, c});
      if (load_any_code(codes, element, shape.bits) == static_cast<uint32_t>(i * shape.columns.kernel + j)) return true;
    }
  }
  return false;
}

// A thread gathers one element. Accesses to codes and values are coalesced, and neighbouring threads read pixels that
// lie close together. With `only_winners`, an element gets zero if a later element names the same pixel.
template <typename Bits, typename Index>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    gather_kernel(const Bits* __restrict__ map, const uint8_t* __restrict__ codes, Bits* __restrict__ values,
                  ReluMask<Bits> relu, PoolShape<Index> shape, WarpRuns<Index> runs, bool only_winners) {
  const auto lane = runs.lane();
  if (lane.sample >= runs.samples || !lane.present) return;

  const int64_t element = static_cast<int64_t>(lane.sample) * runs.elements + lane.element;
  const uint8_t* sample_codes = codes + lane.sample * shape.sample_bytes;
  Bits value = 0;
  if (relu.passes(element)) {
    const uint32_t code = load_any_code(sample_codes, lane.element, shape.bits);
    const Place<Index> window = shape.pooled.place(lane.element);
    Index row, column;
    if (shape.names_pixel(window, code, &row, &column) &&
        !(only_winners && is_named_later(shape, sample_codes, window, row, column))) {
      value = map[static_cast<int64_t>(lane.sample) * shape.map.elements +
                  shape.map.element({window.channel, row, column})];
    }
  }
  values[element] = value;
}

}  // namespace segext
