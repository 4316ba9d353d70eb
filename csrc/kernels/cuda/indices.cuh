// Kernels for stock's int64 indices: conversion to and from packed codes, conversion of codes between memory orders,
// and unpooling by indices. Each thread handles one element; a warp that writes codes handles 32 consecutive elements
// of one sample.
//
// Unpooling by indices cannot look up which elements refer to a pixel, so it takes two steps. First, every element bids
// for its pixel with its number in the plane, and the maximum is kept, whatever the order of the bids. Then each pixel
// or element reads which bid won.
#pragma once

#include <cstdint>

#include "codes.cuh"
#include "element.cuh"
#include "geometry.cuh"
#include "launch.cuh"

namespace segext {

template <typename Index>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    indices_from_codes_kernel(const uint8_t* __restrict__ codes, int64_t* __restrict__ indices, PoolShape<Index> shape,
                              WarpRuns<Index> runs) {
  const auto lane = runs.lane();
  if (lane.sample >= runs.samples || !lane.present) return;

  const uint32_t code = load_any_code(codes + lane.sample * shape.sample_bytes, lane.element, shape.bits);
  Index row, column;
  const bool exists = shape.names_pixel(shape.pooled.place(lane.element), code, &row, &column);
  indices[static_cast<int64_t>(lane.sample) * runs.elements + lane.element] =
      exists ? static_cast<int64_t>(row) * shape.columns.pixels + column : -1;
}

// Counts invalid indices with atomics: the count is the same in any order. Each warp first counts its own.
template <typename Index>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    codes_from_indices_kernel(const int64_t* __restrict__ indices, uint8_t* __restrict__ codes,
                              int64_t* __restrict__ invalid, PoolShape<Index> shape, WarpRuns<Index> runs) {
  const auto lane = runs.lane();
  if (lane.sample >= runs.samples) return;

  uint32_t code = 0;
  bool is_invalid = false;
  if (lane.present) {
    const int64_t index = indices[static_cast<int64_t>(lane.sample) * runs.elements + lane.element];
    is_invalid = !shape.tap_on_pixel(shape.pooled.place(lane.element), index, &code);
  }
  const uint32_t invalid_lanes = __ballot_sync(0xffffffffu, is_invalid);
  if (invalid_lanes != 0 && threadIdx.x % Launch::kWarpThreads == 0) {
    atomicAdd(reinterpret_cast<unsigned long long*>(invalid), static_cast<unsigned long long>(__popc(invalid_lanes)));
  }
  store_warp_codes(codes + lane.sample * shape.sample_bytes, lane.element, lane.present, shape.bits, code);
}

// Writes are coalesced. Reads are scattered bytes, but codes are a small part of what the op that uses them moves.
template <typename Index>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    repack_codes_kernel(const uint8_t* __restrict__ codes, uint8_t* __restrict__ repacked, PoolShape<Index> shape,
                        Order<Index> repacked_order, WarpRuns<Index> runs) {
  const auto lane = runs.lane();
  if (lane.sample >= runs.samples) return;

  uint32_t code = 0;
  if (lane.present) {
    const Index element = shape.pooled.element(repacked_order.place(lane.element));
    code = load_any_code(codes + lane.sample * shape.sample_bytes, element, shape.bits);
  }
  store_warp_codes(repacked + lane.sample * shape.sample_bytes, lane.element, lane.present, shape.bits, code);
}

// The memory order of a map in unpooling by indices: planes of `pixels` pixels, in NCHW or channels_last order.
struct PlaneOrder {
  Divisor<int64_t> inner;  // NCHW: pixels. channels_last: channels
  Divisor<int64_t> outer;  // NCHW: unused (1). channels_last: pixels
  int64_t channels, pixels;
  bool channels_last;

  PlaneOrder(int64_t channels, int64_t pixels, bool channels_last)
      : inner(channels_last ? channels : pixels),
        outer(channels_last ? pixels : 1),
        channels(channels),
        pixels(pixels),
        channels_last(channels_last) {}

  // A plane, numbered across all samples, and a pixel in it.
  struct Place {
    int64_t plane, pixel;
  };

  __device__ __forceinline__ Place place(int64_t element) const {
    Place at;
    if (!channels_last) {
      at.plane = inner.divide(element, &at.pixel);
      return at;
    }
    int64_t channel;
    const int64_t sample = outer.divide(inner.divide(element, &channel), &at.pixel);
    at.plane = sample * channels + channel;
    return at;
  }

  __device__ __forceinline__ int64_t element(const Place& at, const Divisor<int64_t>& by_channels) const {
    if (!channels_last) return at.plane * pixels + at.pixel;
    int64_t channel;
    const int64_t sample = by_channels.divide(at.plane, &channel);
    return (sample * pixels + at.pixel) * channels + channel;
  }
};

struct IndexUnpoolShape {
  PlaneOrder map, pooled;
  Divisor<int64_t> by_channels;
  int64_t elements;  // of the map with one thread per element

  // The element of the full map that a pooled element's index names; -1 if it names none.
  __device__ __forceinline__ int64_t named_element(const PlaneOrder::Place& at, int64_t index) const {
    return index >= 0 && index < map.pixels ? map.element({at.plane, index}, by_channels) : -1;
  }
};

// The bid of a pooled element: its number in its plane, from 1 on. Later elements bid more and win.
__device__ __forceinline__ uint32_t bid_of(const PlaneOrder::Place& at) { return static_cast<uint32_t>(at.pixel + 1); }

// Each pooled element bids for its pixel. All of `winners` is zero at the start.
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    index_unpool_bid_kernel(const int64_t* __restrict__ indices, uint32_t* __restrict__ winners,
                            IndexUnpoolShape shape) {
  const int64_t element = thread_number();
  if (element >= shape.elements) return;
  const PlaneOrder::Place at = shape.pooled.place(element);
  const int64_t named = shape.named_element(at, indices[element]);
  if (named >= 0) atomicMax(winners + named, bid_of(at));
}

// Each pixel of the full map takes the value of the element that won it, or zero.
template <typename Bits>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    index_unpool_kernel(const Bits* __restrict__ values, const uint32_t* __restrict__ winners, Bits* __restrict__ map,
                        IndexUnpoolShape shape) {
  const int64_t element = thread_number();
  if (element >= shape.elements) return;
  const uint32_t winner = winners[element];
  Bits value = 0;
  if (winner > 0) {
    const PlaneOrder::Place at = shape.map.place(element);
    value = values[shape.pooled.element({at.plane, static_cast<int64_t>(winner) - 1}, shape.by_channels)];
  }
  map[element] = value;
}

// Each pooled element takes the gradient of the pixel it won, or zero.
template <typename Bits>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    index_unpool_backward_kernel(const Bits* __restrict__ grad_map, const int64_t* __restrict__ indices,
                                 const uint32_t* __restrict__ winners, Bits* __restrict__ grad_values,
                                 IndexUnpoolShape shape) {
  const int64_t element = thread_number();
  if (element >= shape.elements) return;
  const PlaneOrder::Place at = shape.pooled.place(element);
  const int64_t named = shape.named_element(at, indices[element]);
  grad_values[element] = named >= 0 && winners[named] == bid_of(at) ? grad_map[named] : Bits{0};
}

}  // namespace segext
