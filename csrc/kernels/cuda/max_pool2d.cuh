// Kernels of max-pooling with switches. Every input element is read from memory once; every output and every byte of
// codes is written once, by one thread.
//
//   max_pool2d_tile_rows_kernel      NCHW, adjacent 2x2 windows, rows of whole 16-byte vectors
//   max_pool2d_channels_last_kernel  channels_last, any window, channels in whole 16-byte vectors
//   max_pool2d_kernel                everything else: one element per thread, coalesced along the pooled map
//
// The kernels of max_pool2d_overlaps.cuh take precedence over the last one.
#pragma once

#include <cstdint>

#include "codes.cuh"
#include "element.cuh"
#include "geometry.cuh"
#include "launch.cuh"
#include "maxima.cuh"

namespace segext {

// A window's first tap inside the map. The running maximum starts with its code, and with the floor as its value.
template <typename Index>
struct FirstTap {
  Index row, column;
  bool exists;

  __device__ __forceinline__ FirstTap(const PoolShape<Index>& shape, Index window_row, Index window_column)
      : row(shape.rows.first_tap(window_row)),
        column(shape.columns.first_tap(window_column)),
        exists(shape.rows.has_tap(window_row, row) && shape.columns.has_tap(window_column, column)) {}

  template <typename Wide>
  __device__ __forceinline__ Maximum<Wide> start(Index kernel_w, const MaxLimits<Wide>& limits) const {
    return {exists ? limits.floor : limits.lowest, exists ? static_cast<uint32_t>(row * kernel_w + column) : 0};
  }
};

// The taps of a square window: which of them lie inside the map, and where they lie relative to tap (0, 0).
template <typename Index, Windows kWindows>
struct SquareTaps {
  static constexpr int kKernel = kSquareKernel<kWindows>;
  static constexpr bool kAllInside = kWindows == Windows::kTiles;
  bool row_inside[kKernel], column_inside[kKernel];
  int64_t corner;  // the element at tap (0, 0), extrapolated if that tap lies outside the map
  Index row_step, column_step;

  __device__ __forceinline__ SquareTaps(const PoolShape<Index>& shape, Index sample, const Place<Index>& window)
      : corner(static_cast<int64_t>(sample) * shape.map.elements +
               shape.map.element(
                   {window.channel, shape.rows.pixel(window.row, 0), shape.columns.pixel(window.column, 0)})),
        row_step(kAllInside ? shape.map.row_stride : shape.rows.dilation * shape.map.row_stride),
        column_step(kAllInside ? shape.map.column_stride : shape.columns.dilation * shape.map.column_stride) {
#pragma unroll
    for (int i = 0; i < kKernel; ++i) {
      row_inside[i] = kAllInside || shape.rows.contains(shape.rows.pixel(window.row, i));
      column_inside[i] = kAllInside || shape.columns.contains(shape.columns.pixel(window.column, i));
    }
  }

  __device__ __forceinline__ bool inside(int i, int j) const { return row_inside[i] && column_inside[j]; }

  // Whether tap (i, j) can be the first one inside the map. In a window that lies wholly inside, only tap (0, 0) can.
  __device__ __forceinline__ static constexpr bool may_be_first(int i, int j) {
    return !kAllInside || (i == 0 && j == 0);
  }

  __device__ __forceinline__ int64_t element(int i, int j) const { return corner + (i * row_step + j * column_step); }

  template <typename Wide>
  __device__ __forceinline__ Maximum<Wide> start(const MaxLimits<Wide>& limits) const {
    int row = kKernel, column = kKernel;
#pragma unroll
    for (int i = kKernel - 1; i >= 0; --i) {
      row = row_inside[i] ? i : row;
      column = column_inside[i] ? i : column;
    }
    const bool exists = row < kKernel && column < kKernel;
    return {exists ? limits.floor : limits.lowest, exists ? static_cast<uint32_t>(row * kKernel + column) : 0};
  }
};

// A thread computes V outputs of one row, 4 of float32 or 8 of half types, and their one or two bytes of codes. Here V
// is 4:
//
//     input    a a b b c c d d   row 2r       two 16-byte loads
//              a a b b c c d d   row 2r + 1   two 16-byte loads
//     output   A B C D           row r        one 16-byte store
//
// Neighbouring threads read neighbouring 32 bytes. There are `threads` threads; rows are numbered across all planes.
template <typename T>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    max_pool2d_tile_rows_kernel(const T* __restrict__ input, T* __restrict__ output, uint8_t* __restrict__ codes,
                                PoolShape<int32_t> shape, Divisor<int32_t> vectors_per_row, int32_t threads,
                                MaxLimits<WideOf<T>> limits) {
  using Wide = WideOf<T>;
  constexpr int kLanes = Vector<T>::kLanes;
  constexpr int bits = kTileBits;
  const int64_t thread = thread_number();
  if (thread >= threads) return;

  int32_t vector_in_row;
  const int32_t pooled_row = vectors_per_row.divide(static_cast<int32_t>(thread), &vector_in_row);
  const T* top = input + tile_top_row(shape, pooled_row) * shape.columns.pixels + 2 * kLanes * vector_in_row;
  const T* bottom = top + shape.columns.pixels;
  Vector<T> taps[2][2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    taps[0][half] = load_vector<Vector<T>>(top + half * kLanes);
    taps[1][half] = load_vector<Vector<T>>(bottom + half * kLanes);
  }

  Vector<T> maxima;
  uint64_t run = 0;
#pragma unroll
  for (int k = 0; k < kLanes; ++k) {
    const Vector<T>& upper = taps[0][2 * k / kLanes];
    const Vector<T>& lower = taps[1][2 * k / kLanes];
    const int left = 2 * k % kLanes;
    const Wide first = widen_lane(upper, left);
    Maximum<Wide> maximum{first < limits.floor ? limits.floor : first, 0};  // a NaN stays
    maximum.take(widen_lane(upper, left + 1), 1);
    maximum.take(widen_lane(lower, left), 2);
    maximum.take(widen_lane(lower, left + 1), 3);
    maxima.lane[k] = Element<T>::narrow(maximum.value);
    run |= place_code(maximum.code, k, bits);
  }
  store_vector(output + thread * kLanes, maxima);
  store_run(codes, thread, kLanes * bits / 8, run);
}

// A thread computes V = 4 or 8 channels of one pooled pixel, and their codes, which are whole bytes. Each tap is one
// 16-byte load; the result is one 16-byte store. Neighbouring threads have neighbouring channels, then pixels.
//
//     tap 0: cccc   tap 1: cccc   ...   ->   output: CCCC
//
// In a square window, all loads of a row of taps are issued before the first is used. A tap outside the map has the
// lowest value, which never wins.
template <typename T, Windows kWindows>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    max_pool2d_channels_last_kernel(const T* __restrict__ input, T* __restrict__ output, uint8_t* __restrict__ codes,
                                    PoolShape<int32_t> shape, Divisor<int32_t> vectors_per_pixel, int32_t threads,
                                    MaxLimits<WideOf<T>> limits) {
  constexpr int kLanes = Vector<T>::kLanes;
  constexpr int kKernel = kSquareKernel<kWindows>;
  const int bits = kKernel > 0 ? code_bits(kKernel * kKernel) : shape.bits;
  const int64_t thread = thread_number();
  if (thread >= threads) return;

  int32_t vector, window_row, window_column;
  const int32_t pixel = vectors_per_pixel.divide(static_cast<int32_t>(thread), &vector);
  const int32_t row_of_windows = shape.columns.by_windows.divide(pixel, &window_column);
  const int32_t sample = shape.rows.by_windows.divide(row_of_windows, &window_row);

  VectorMaxima<T> maxima;
  Vector<T> first_taps = fill_vector<T>(Element<T>::narrow(limits.lowest));
  if constexpr (kKernel > 0) {
    const SquareTaps<int32_t, kWindows> taps(shape, sample, {vector * kLanes, window_row, window_column});
    const auto start = taps.start(limits);
    maxima.start(start);
    const auto outside = as_words(fill_vector<T>(Element<T>::narrow(limits.lowest)));
#pragma unroll
    for (int i = 0; i < kKernel; ++i) {
      Vector<uint32_t> values[kKernel];  // as words: compilers would split vectors of half types into elements
#pragma unroll
      for (int j = 0; j < kKernel; ++j) {
        values[j] = outside;
        if (taps.inside(i, j)) values[j] = as_words(load_vector<Vector<T>>(input + taps.element(i, j)));
      }
#pragma unroll
      for (int j = 0; j < kKernel; ++j) {
        const auto vector = from_words<T>(values[j]);
        if (taps.may_be_first(i, j) && start.code == static_cast<uint32_t>(i * kKernel + j)) first_taps = vector;
        maxima.take(vector, i * kKernel + j);
      }
    }
  } else {
    const T* channels = input + static_cast<int64_t>(sample) * shape.map.elements + vector * kLanes;
    const FirstTap<int32_t> first(shape, window_row, window_column);
    const int32_t kernel_w = shape.columns.kernel;
    maxima.start(first.start(kernel_w, limits));
    if (first.exists) {
      const Place<int32_t> at{0, shape.rows.pixel(window_row, first.row),
                              shape.columns.pixel(window_column, first.column)};
      first_taps = load_vector<Vector<T>>(channels + shape.map.element(at));
    }
    for (int32_t i = first.row; shape.rows.has_tap(window_row, i); ++i) {
      for (int32_t j = first.column; shape.columns.has_tap(window_column, j); ++j) {
        const Place<int32_t> at{0, shape.rows.pixel(window_row, i), shape.columns.pixel(window_column, j)};
        maxima.take(load_vector<Vector<T>>(channels + shape.map.element(at)), i * kernel_w + j);
      }
    }
  }

  store_vector(output + thread * kLanes, maxima.values(first_taps));
  store_run(codes, thread, kLanes * bits / 8, maxima.codes(bits));
}

// A thread computes one element. A warp computes 32 consecutive elements of one sample, in memory order, and assembles
// the bytes of their codes. Outputs are coalesced, and inputs as far as the stride allows; taps that windows share come
// from the caches.
template <typename T, typename Index, Windows kWindows>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    max_pool2d_kernel(const T* __restrict__ input, T* __restrict__ output, uint8_t* __restrict__ codes,
                      PoolShape<Index> shape, WarpRuns<Index> runs, MaxLimits<WideOf<T>> limits) {
  using Wide = WideOf<T>;
  constexpr int kKernel = kSquareKernel<kWindows>;
  const auto lane = runs.lane();
  if (lane.sample >= runs.samples) return;

  const int bits = kKernel > 0 ? code_bits(kKernel * kKernel) : shape.bits;
  Maximum<Wide> maximum{limits.lowest, 0};
  if (lane.present) {
    const Place<Index> window = shape.pooled.place(lane.element);
    Wide first_tap = limits.lowest;
    if constexpr (kKernel > 0) {
      const SquareTaps<Index, kWindows> taps(shape, lane.sample, window);
      Wide values[kKernel][kKernel];
#pragma unroll
      for (int i = 0; i < kKernel; ++i) {
#pragma unroll
        for (int j = 0; j < kKernel; ++j) {
          values[i][j] = taps.inside(i, j) ? Element<T>::widen(input[taps.element(i, j)]) : limits.lowest;
        }
      }
      maximum = taps.start(limits);
      const uint32_t first = maximum.code;
#pragma unroll
      for (int tap = 0; tap < kKernel * kKernel; ++tap) {
        const Wide value = values[tap / kKernel][tap % kKernel];
        if (taps.may_be_first(tap / kKernel, tap % kKernel) && first == static_cast<uint32_t>(tap)) first_tap = value;
        maximum.take(value, tap);
      }
    } else {
      const T* sample = input + static_cast<int64_t>(lane.sample) * shape.map.elements;
      const FirstTap<Index> first(shape, window.row, window.column);
      const Index kernel_w = shape.columns.kernel;
      maximum = first.start(kernel_w, limits);
      if (first.exists) {
        const Place<Index> at{window.channel, shape.rows.pixel(window.row, first.row),
                              shape.columns.pixel(window.column, first.column)};
        first_tap = Element<T>::widen(sample[shape.map.element(at)]);
      }
      for (Index i = first.row; shape.rows.has_tap(window.row, i); ++i) {
        for (Index j = first.column; shape.columns.has_tap(window.column, j); ++j) {
          const Place<Index> at{window.channel, shape.rows.pixel(window.row, i), shape.columns.pixel(window.column, j)};
          maximum.take(Element<T>::widen(sample[shape.map.element(at)]), static_cast<uint32_t>(i * kernel_w + j));
        }
      }
    }
    output[static_cast<int64_t>(lane.sample) * runs.elements + lane.element] =
        Element<T>::narrow(with_sign_of_first(maximum.value, first_tap));
  }
  store_warp_codes(codes + lane.sample * shape.sample_bytes, lane.element, lane.present, bits, maximum.code);
}

}  // namespace segext
