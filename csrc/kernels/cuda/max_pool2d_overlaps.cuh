// Kernels of max-pooling in NCHW for 3x3 windows with stride 2, as in the stems of ResNets. The distances between taps
// are compile-time constants, and each thread computes several neighbouring outputs.
//
//   max_pool2d_overlaps_kernel       horizontal padding of 1, rows of whole 16-byte vectors
//   max_pool2d_overlap_pairs_kernel  padding of 0 or 1, any width
#pragma once

#include <cstdint>

#include "codes.cuh"
#include "element.cuh"
#include "geometry.cuh"
#include "launch.cuh"
#include "maxima.cuh"

namespace segext {

// The running maximum before any tap: the floor, with the code of the window's first tap inside the map. That tap lies
// in the window's first or second row, and in its first or second column.
template <typename Wide>
__device__ __forceinline__ Maximum<Wide> start_overlap(bool row_inside, bool column_inside, Wide floor) {
  return {floor, (row_inside ? 0u : 3u) + (column_inside ? 0u : 1u)};
}

// The input of V neighbouring windows in one row of the map: two vectors, and the word before them.
struct OverlapRow {
  uint32_t before;
  Vector<uint32_t> words[2];

  __device__ __forceinline__ uint32_t word(int n) const {
    return n < 0 ? before : words[n / Vector<uint32_t>::kLanes].lane[n % Vector<uint32_t>::kLanes];
  }

  // Column j of each window: every other element of the row, starting with element j - 1. Element -1 is the last one of
  // the word before.
  template <typename T>
  __device__ __forceinline__ Vector<T> taps(int j) const {
    Vector<uint32_t> taps;
#pragma unroll
    for (int w = 0; w < Vector<uint32_t>::kLanes; ++w) {
      if constexpr (sizeof(T) == 4) {
        taps.lane[w] = word(2 * w - 1 + j);
      } else if (j == 1) {
        taps.lane[w] = __byte_perm(word(2 * w), word(2 * w + 1), 0x5410);  // the lower halves
      } else {
        const int first = 2 * w - 1 + j / 2;
        taps.lane[w] = __byte_perm(word(first), word(first + 1), 0x7632);  // the upper halves
      }
    }
    return from_words<T>(taps);
  }
};

// A thread computes V outputs of one row, 4 of float32 or 8 of half types, and their two or four bytes of codes. Here V
// is 4:
//
//     element  - 0 1 2 3 4 5 6 7   of row 2r - padding: two 16-byte loads, and the word before them (-)
//     taps     a a a
//                  b b b
//                      c c c
//                          d d d
//     output   A B C D             of row r: one 16-byte store
//
// The diagram shows the first of the three rows of taps. The other two are read in the same way. Taps outside the map
// have the lowest value, which never wins. There are `threads` threads; rows are numbered across all planes.
template <typename T>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    max_pool2d_overlaps_kernel(const T* __restrict__ input, T* __restrict__ output, uint8_t* __restrict__ codes,
                               PoolShape<int32_t> shape, Divisor<int32_t> vectors_per_row, int32_t threads,
                               MaxLimits<WideOf<T>> limits) {
  constexpr int kLanes = Vector<T>::kLanes;
  constexpr int bits = kOverlapBits;
  const int64_t thread = thread_number();
  if (thread >= threads) return;

  int32_t vector, window_row;
  const int32_t pooled_row = vectors_per_row.divide(static_cast<int32_t>(thread), &vector);
  const int64_t plane = shape.rows.by_windows.divide(pooled_row, &window_row);
  const int32_t first_row = 2 * window_row - shape.rows.origin;
  const bool has_left = vector > 0;
  const T* corner = input + (plane * shape.rows.pixels + first_row) * shape.columns.pixels +
                    2 * kLanes * static_cast<int64_t>(vector);
  const auto lowest = as_words(fill_vector<T>(Element<T>::narrow(limits.lowest)));
  OverlapRow rows[3];
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const auto* row = reinterpret_cast<const uint32_t*>(corner + i * shape.columns.pixels);
    rows[i] = {lowest.lane[0], {lowest, lowest}};
    if (!shape.rows.contains(first_row + i)) continue;
    if (has_left) rows[i].before = row[-1];
    rows[i].words[0] = load_vector<Vector<uint32_t>>(row);
    rows[i].words[1] = load_vector<Vector<uint32_t>>(row + Vector<uint32_t>::kLanes);
  }

  VectorMaxima<T> maxima;
  const bool row_inside = shape.rows.contains(first_row);
  maxima.start(start_overlap(row_inside, true, limits.floor));
  maxima.set_first_code(start_overlap(row_inside, has_left, limits.floor).code);
  Vector<T> first_taps = row_inside ? rows[0].template taps<T>(0) : rows[1].template taps<T>(0);
  if (!has_left) first_taps.lane[0] = (row_inside ? rows[0].template taps<T>(1) : rows[1].template taps<T>(1)).lane[0];
#pragma unroll
  for (int tap = 0; tap < 9; ++tap) maxima.take(rows[tap / 3].template taps<T>(tap % 3), tap);
  store_vector(output + thread * kLanes, maxima.values(first_taps));
  store_run(codes, thread, kLanes * bits / 8, maxima.codes(bits));
}

// A thread computes two elements of one sample that are neighbours in memory order and share a byte of codes. The
// second may lie in the next row; if it does not exist, the first is read again in its place. The loads of both are
// issued before the first is used.
template <typename T>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    max_pool2d_overlap_pairs_kernel(const T* __restrict__ input, T* __restrict__ output, uint8_t* __restrict__ codes,
                                    PoolShape<int32_t> shape, Divisor<int32_t> pairs_per_sample, int32_t threads,
                                    MaxLimits<WideOf<T>> limits) {
  using Wide = WideOf<T>;
  const int64_t thread = thread_number();
  if (thread >= threads) return;

  int32_t pair;
  const int64_t sample = pairs_per_sample.divide(static_cast<int32_t>(thread), &pair);
  const bool has_second = 2 * pair + 1 < shape.pooled.elements;
  const T* map = input + sample * shape.map.elements;
  Wide values[2][9];
  Maximum<Wide> maxima[2];
  Wide first_taps[2];
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    int32_t row, column;
    const int32_t element = 2 * pair + (has_second ? k : 0);
    const int32_t plane = shape.rows.by_windows.divide(shape.columns.by_windows.divide(element, &column), &row);
    const int32_t first_row = 2 * row - shape.rows.origin, first_column = 2 * column - shape.columns.origin;
    const T* corner = map + (plane * shape.map.channel_stride + first_row * shape.map.row_stride + first_column);
    bool row_inside[3], column_inside[3];
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      row_inside[i] = shape.rows.contains(first_row + i);
      column_inside[i] = shape.columns.contains(first_column + i);
    }
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) {
      const int i = tap / 3, j = tap % 3;
      const bool inside = row_inside[i] && column_inside[j];
      values[k][tap] = inside ? Element<T>::widen(corner[i * shape.map.row_stride + j]) : limits.lowest;
    }
    maxima[k] = start_overlap(row_inside[0], column_inside[0], limits.floor);
    first_taps[k] = row_inside[0]      ? column_inside[0] ? values[k][0] : values[k][1]
                    : column_inside[0] ? values[k][3]
                                       : values[k][4];
  }

  uint32_t byte = 0;
#pragma unroll
  for (int k = 0; k < 2; ++k) {
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) maxima[k].take(values[k][tap], tap);
    const Wide maximum = with_sign_of_first(maxima[k].value, first_taps[k]);
    if (k == 1 && !has_second) break;
    output[sample * shape.pooled.elements + 2 * pair + k] = Element<T>::narrow(maximum);
    byte |= static_cast<uint32_t>(place_code(maxima[k].code, k, kOverlapBits));
  }
  codes[sample * shape.sample_bytes + pair] = static_cast<uint8_t>(byte);
}

}  // namespace segext
