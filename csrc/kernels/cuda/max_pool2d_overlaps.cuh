// Kernels of max-pooling in NCHW for 3x3 windows two pixels apart, as in the stems of ResNets: taps at distances that
// are known, several outputs of a row a thread.
//
//   max_pool2d_overlaps_kernel       a padding of 1, rows that 16-byte vectors fill
//   max_pool2d_overlap_pairs_kernel  a padding of 0 or 1, any width
#pragma once

#include <cstdint>

#include "codes.cuh"
#include "element.cuh"
#include "geometry.cuh"
#include "launch.cuh"
#include "max_pool2d.cuh"

namespace segext {

// The maximum of no tap yet. A window has a tap inside the map in its first row and column, or in the second ones.
template <typename Wide>
__device__ __forceinline__ Maximum<Wide> start_overlap(bool row_inside, bool column_inside, Wide floor) {
  return {floor, (row_inside ? 0u : 3u) + (column_inside ? 0u : 1u)};
}

// A thread makes V = 4 (float32) or 8 (half types) outputs of one row, and their two or four bytes of codes:
//
//     input    a a           row 2r - 1: two 16-byte loads, and the element before them
//              . a a b b
//                  b b c c
//                      c c d d
//     output   A B C D       row r: one 16-byte store
//
// shows four windows of that row. The rows below are read alike; taps outside the map are the lowest value, which never
// wins. There are `threads` threads; rows are counted through all planes.
template <typename T>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    max_pool2d_overlaps_kernel(const T* __restrict__ input, T* __restrict__ output, uint8_t* __restrict__ codes,
                               PoolShape<int32_t> shape, Divisor<int32_t> vectors_per_row, int32_t threads,
                               MaxLimits<typename Element<T>::Wide> limits) {
  using Wide = typename Element<T>::Wide;
  constexpr int kLanes = Vector<T>::kLanes;
  const int bits = code_bits(9);
  const int64_t thread = thread_number();
  if (thread >= threads) return;

  int32_t vector, window_row;
  const int32_t pooled_row = vectors_per_row.divide(static_cast<int32_t>(thread), &vector);
  const int64_t plane = shape.rows.by_pooled_size.divide(pooled_row, &window_row);
  const int32_t first_row = 2 * window_row - shape.rows.padding;
  const bool has_left = vector > 0;
  const T* corner =
      input + (plane * shape.rows.size + first_row) * shape.columns.size + 2 * kLanes * static_cast<int64_t>(vector);
  const T lowest = Element<T>::narrow(limits.lowest);
  T left[3];
  Vector<T> taps[3][2];
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const T* row = corner + i * shape.columns.size;
    left[i] = lowest;
    taps[i][0] = taps[i][1] = fill_vector<T>(lowest);
    if (!shape.rows.contains(first_row + i)) continue;
    if (has_left) left[i] = row[-1];
    taps[i][0] = load_vector<Vector<T>>(row);
    taps[i][1] = load_vector<Vector<T>>(row + kLanes);
  }

  Vector<T> maxima;
  uint64_t run = 0;
#pragma unroll
  for (int k = 0; k < kLanes; ++k) {
    auto maximum = start_overlap(shape.rows.contains(first_row), k > 0 || has_left, limits.floor);
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) {
      const int i = tap / 3, column = 2 * k - 1 + tap % 3;
      const Wide value =
          column < 0 ? Element<T>::widen(left[i]) : widen_lane(taps[i][column / kLanes], column % kLanes);
      maximum.take(value, tap);
    }
    maxima.lane[k] = Element<T>::narrow(maximum.value);
    run |= place_code(maximum.code, k, bits);
  }
  store_vector(output + thread * kLanes, maxima);
  store_run(codes, thread, kLanes * bits / 8, run);
}

// A thread makes two neighbours of one sample in memory order, which share a byte of codes. The second may be of the
// next row, or not exist.
template <typename T>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    max_pool2d_overlap_pairs_kernel(const T* __restrict__ input, T* __restrict__ output, uint8_t* __restrict__ codes,
                                    PoolShape<int32_t> shape, Divisor<int32_t> pairs_per_sample, int32_t threads,
                                    MaxLimits<typename Element<T>::Wide> limits) {
  using Wide = typename Element<T>::Wide;
  const int64_t thread = thread_number();
  if (thread >= threads) return;

  int32_t pair;
  const int64_t sample = pairs_per_sample.divide(static_cast<int32_t>(thread), &pair);
  int32_t row, column;
  int32_t plane = shape.rows.by_pooled_size.divide(shape.columns.by_pooled_size.divide(2 * pair, &column), &row);
  input += sample * shape.map.elements;
  output += sample * shape.pooled.elements + 2 * pair;
  uint32_t byte = 0;
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    if (2 * pair + k >= shape.pooled.elements) break;
    const int32_t first_row = 2 * row - shape.rows.padding, first_column = 2 * column - shape.columns.padding;
    const T* corner = input + (plane * shape.map.channel_stride + first_row * shape.map.row_stride + first_column);
    Wide values[3][3];
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const bool row_inside = shape.rows.contains(first_row + i);
#pragma unroll
      for (int j = 0; j < 3; ++j) {
        const bool inside = row_inside && shape.columns.contains(first_column + j);
        values[i][j] = inside ? Element<T>::widen(corner[i * shape.map.row_stride + j]) : limits.lowest;
      }
    }
    auto maximum = start_overlap(shape.rows.contains(first_row), shape.columns.contains(first_column), limits.floor);
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) maximum.take(values[tap / 3][tap % 3], tap);
    output[k] = Element<T>::narrow(maximum.value);
    byte |= static_cast<uint32_t>(place_code(maximum.code, k, code_bits(9)));
    if (++column < shape.columns.pooled_size) continue;
    column = 0;
    if (++row < shape.rows.pooled_size) continue;
    row = 0;
    ++plane;
  }
  codes[sample * shape.sample_bytes + pair] = static_cast<uint8_t>(byte);
}

}  // namespace segext
