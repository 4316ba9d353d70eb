// Fused unpooling and 3x3 convolution of half types on tensor cores: an implicit matrix product, for which each block
// unpools its input into shared memory. The zeros are multiplied too: an infinite or NaN weight makes every result that
// it could reach infinite or NaN, as it does when the unpooled map is stored.
//
// A block computes 16x16 pixels of 64 outputs. In steps of 16 channels, it unpools 10x10 cells to the 18x18 pixels of
// the unpooled map that its result depends on (the halo), and reads its weights in the order of the panels. A warp
// computes four rows of 16 pixels for 32 outputs. A column of taps is a shift of the pixels that are read. For each
// column of taps, the warp loads six rows of pixels once and uses them for all three rows of taps:
//
//     row of output       0       1       2       3
//     row of taps       0 1 2   0 1 2   0 1 2   0 1 2
//     row of pixels     2 1 0   3 2 1   4 3 2   5 4 3
//
// In shared memory, a pixel is 16 bytes (8 channels), and a row stores its even columns first and its odd columns after
// them. The left operand of a tile product has the even pixels in its upper half and the odd pixels in its lower half.
// For every shift, the eight pixels that are loaded at once are therefore neighbours in memory, without bank conflicts.
// A lane holds the results of eight neighbouring outputs at two neighbouring pixels (weight_panels.cuh), which are
// whole vectors in channels_last and pairs in NCHW.
#pragma once

#include <cstdint>

#include "codes.cuh"
#include "unpool_conv2d.cuh"

namespace segext {

struct TileTraits {
  static constexpr int kPixels = 16;  // along either axis of a block's tile
  static constexpr int kOutputs = FragmentWeights::kOutputs;
  static constexpr int kChannels = FragmentWeights::kChannels;  // per step
  static constexpr int kRows = 4;                               // rows of pixels per warp
  static constexpr int kReadRows = kRows + 2;
  static constexpr int kLanes = 8;                    // channels per vector
  static constexpr int kHalves = kChannels / kLanes;  // vectors per cell in a step
  static constexpr int kRunBytes = kLanes / kTilesPerByte;
  static constexpr int kHalo = kPixels + 2;         // pixels that are read along either axis
  static constexpr int kHaloCells = kHalo / 2 + 1;  // enough whether the first pixel is even or odd
  static constexpr int kItems = kHaloCells * kHaloCells * kHalves;
  static constexpr int kTileVectors = kHalves * kHalo * kHalo;
  static constexpr int kWeightVectors = FragmentWeights::kStep / kLanes;
  static constexpr int64_t kSharedBytes = (2 * kWeightVectors + kTileVectors) * int64_t{kVectorBytes};
  static_assert(kPixels / kRows * FragmentWeights::kHalves == Launch::kBlockWarps, "each pixel and output once");
  static_assert(kItems <= Launch::kBlockThreads, "a thread has one vector of one cell");
  static_assert(kSharedBytes <= Launch::kMaxSharedBytes, "fits");

  // The vector that holds 8 channels of a pixel of the halo.
  __device__ __forceinline__ static int vector_of(int half, int row, int column) {
    return ((half * kHalo + row) * 2 + (column & 1)) * (kHalo / 2) + (column >> 1);
  }
};

__device__ __forceinline__ void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                         TypeTag<Float16>) {
  ptx::mma_float16(sums, a, b);
}

__device__ __forceinline__ void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                         TypeTag<BFloat16>) {
  ptx::mma_bfloat16(sums, a, b);
}

// A thread's cell and half of a step's channels. It loads their values and codes, and writes the cell's four pixels to
// the halo. With kVectors the map is channels_last, and the values are one vector and the codes one run.
template <typename T, bool kVectors>
class HaloCell {
  using Traits = TileTraits;

 public:
  __device__ __forceinline__ HaloCell(const UnpoolConvArrays<T>& arrays, const UnpoolConvShape& shape,
                                      const BlockTiles::Place& tile)
      : input_(arrays.input + tile.sample * shape.pooled.sample),
        codes_(arrays.codes + tile.sample * shape.sample_bytes),
        channel_step_(shape.pooled.channel) {
    const int item = static_cast<int>(threadIdx.x);
    // Neighbouring threads load neighbouring elements.
    const int half = kVectors ? item % Traits::kHalves : item / (Traits::kHaloCells * Traits::kHaloCells);
    const int cell = kVectors ? item / Traits::kHalves : item % (Traits::kHaloCells * Traits::kHaloCells);
    // The unpooled pixel in the halo's upper left corner, -2 or more, and the thread's cell, counted from the one that
    // contains that pixel.
    const int64_t top = tile.row * int64_t{Traits::kPixels} + shape.padding_h - 2;
    const int64_t left = tile.column * int64_t{Traits::kPixels} + shape.padding_w - 2;
    const int64_t map_row = (top + 2) / 2 - 1 + cell / Traits::kHaloCells;
    const int64_t map_column = (left + 2) / 2 - 1 + cell % Traits::kHaloCells;
    // The position of the cell's first pixel in the halo, -1 or more.
    const int row = static_cast<int>(2 * map_row - top), column = static_cast<int>(2 * map_column - left);
    const bool exists = item < Traits::kItems && shape.has_cell(map_row, map_column);
    first_ = Traits::vector_of(half, row, column);
    to_right_ = Traits::vector_of(0, 0, 2 + column % 2 + 1) - Traits::vector_of(0, 0, 2 + column % 2);
    for (int k = 0; k < 4; ++k) {
      const bool in_halo = item < Traits::kItems && row + k / 2 >= 0 && row + k / 2 < Traits::kHalo &&
                           column + k % 2 >= 0 && column + k % 2 < Traits::kHalo;
      const bool in_map = exists && 2 * map_row + k / 2 < shape.height && 2 * map_column + k % 2 < shape.width;
      pixels_ |= static_cast<uint32_t>(in_halo) << k | static_cast<uint32_t>(in_map) << (k + 4);
    }
    element_ = shape.pooled.element(half * Traits::kLanes, map_row, map_column);
    input_ += element_;
    if constexpr (kVectors) codes_ += element_ / Traits::kLanes * Traits::kRunBytes;
    channels_ = static_cast<int32_t>(shape.channels) - half * Traits::kLanes;
  }

  // The first call loads the first step; each further call loads the next step.
  __device__ __forceinline__ void load() {
    values_ = fill_vector(T{});
    run_ = 0;
    if (pixels_ >> 4 != 0 && channels_ > 0) {
      if constexpr (kVectors) {
        values_ = load_vector<Vector<T>>(input_);
        run_ = static_cast<uint32_t>(load_run(codes_, 0, Traits::kRunBytes));
      } else {
#pragma unroll
        for (int k = 0; k < Traits::kLanes; ++k) {
          if (k >= channels_) continue;
          const int64_t step = k * channel_step_;
          values_.lane[k] = input_[step];
          const uint32_t code = load_code(codes_, element_ + step, kTileBits);
          run_ |= static_cast<uint32_t>(place_code(code, k, kTileBits));
        }
      }
    }
    input_ += Traits::kChannels * channel_step_;
    if constexpr (kVectors) {
      codes_ += Traits::kHalves * Traits::kRunBytes;
    } else {
      element_ += Traits::kChannels * channel_step_;
    }
    channels_ -= Traits::kChannels;
  }

  __device__ __forceinline__ void place(Vector<T>* halo) const {
    const TileMasks<Traits::kLanes> masks(run_);
    const Vector<uint32_t> words = as_words(values_);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if ((pixels_ >> k & 1) == 0) continue;
      Vector<uint32_t> pixel;
#pragma unroll
      for (int w = 0; w < Vector<uint32_t>::kLanes; ++w) {
        const uint32_t in_row = k / 2 == 0 ? ~masks.lower[w] : masks.lower[w];
        const uint32_t in_column = k % 2 == 0 ? ~masks.right[w] : masks.right[w];
        pixel.lane[w] = (pixels_ >> (k + 4) & 1) != 0 ? words.lane[w] & in_row & in_column : 0;
      }
      halo[first_ + k / 2 * Traits::kHalo + k % 2 * to_right_] = from_words<T>(pixel);
    }
  }

 private:
  const T* input_;        // at the next value
  const uint8_t* codes_;  // at the next run or, without kVectors, at the sample's first code
  int64_t channel_step_, element_;
  int32_t channels_;      // number of channels from the thread's next one on
  int first_, to_right_;  // vector of the cell's first pixel, and distance to that of the pixel on its right
  uint32_t pixels_ = 0;   // four bits: which of the cell's pixels are in the halo; four more: in the map
  Vector<T> values_;
  uint32_t run_;
};

// A lane's sums: for each row of its warp and each operand of the weights, those of two pixels and two outputs.
struct TileSums {
  using Traits = TileTraits;
  static constexpr int kOperands = 4;
  float sums[Traits::kRows][kOperands][4];

  // Adds a step's products. `weights` are those of the warp's half of the outputs.
  template <typename T>
  __device__ __forceinline__ void add(const Vector<T>* halo, const Vector<T>* weights, int first_row, int lane) {
#pragma unroll 1  // if unrolled, it would load rows so early that registers spill
    for (int j = 0; j < 3; ++j) {
      // The pixel whose address this lane passes to ldmatrix: lanes 0 to 7 pass the rows of the operand's upper half,
      // lanes 8 to 15 those of its lower half, and lanes 16 to 31 the same pixels with the other 8 channels.
      const int column = 2 * (lane % 8) + lane / 8 % 2 + 2 - j;
      const Vector<T>* from = halo + Traits::vector_of(lane / 16, first_row, column);
      uint32_t pixels[Traits::kReadRows][4];
#pragma unroll
      for (int r = 0; r < Traits::kReadRows; ++r) ptx::ldmatrix(pixels[r], from + r * Traits::kHalo);
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        const Vector<T>* of_tap = weights + (3 * i + j) * (FragmentWeights::kTap / Traits::kLanes) + lane;
#pragma unroll
        for (int v = 0; v < FragmentWeights::kVectors; ++v) {
          const Vector<uint32_t> words = as_words(of_tap[v * Launch::kWarpThreads]);
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            const uint32_t operand[2] = {words.lane[2 * k], words.lane[2 * k + 1]};
#pragma unroll
            for (int r = 0; r < Traits::kRows; ++r) {
              multiply(sums[r][2 * v + k], pixels[r + 2 - i], operand, TypeTag<T>{});
            }
          }
        }
      }
    }
  }

  // The sum in this row of this pixel (0: left, 1: right) and of this output (one of the lane's eight).
  __device__ __forceinline__ float of(int row, int pixel, int output) const {
    return sums[row][output / 2][2 * pixel + output % 2];
  }
};

// With `wide`, results are stored as vectors of eight outputs (channels_last) or as pairs of pixels (NCHW).
template <typename T>
__device__ __forceinline__ void write_tile(const TileSums& sums, T* output, const UnpoolConvShape& shape, int64_t y,
                                           int64_t x, int64_t first_output, bool wide) {
  constexpr int kOutputs = 8;
#pragma unroll
  for (int r = 0; r < TileTraits::kRows; ++r) {
    if (y + r >= shape.output_height || x >= shape.output_width) continue;
    T* row = output + shape.output.element(first_output, y + r, x);
    if (wide && shape.channels_last) {
      if (first_output >= shape.outputs) continue;
#pragma unroll
      for (int p = 0; p < 2; ++p) {
        if (x + p >= shape.output_width) continue;
        Vector<T> pixel;
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) pixel.lane[o] = Element<T>::narrow(sums.of(r, p, o));
        store_vector(row + p * shape.output.column, pixel);
      }
      continue;
    }
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      if (first_output + o >= shape.outputs) continue;
      T* pixel = row + o * shape.output.channel;
      const T left = Element<T>::narrow(sums.of(r, 0, o)), right = Element<T>::narrow(sums.of(r, 1, o));
      if (wide) {
        *reinterpret_cast<uint32_t*>(pixel) = left.bits | static_cast<uint32_t>(right.bits) << 16;
      } else {
        *pixel = left;
        if (x + 1 < shape.output_width) pixel[shape.output.column] = right;
      }
    }
  }
}

// While a block multiplies one step's channels, the weights of the next step are on their way to the other half of the
// weight buffer. Values are loaded between steps instead, because they would take registers from the sums; meanwhile
// the other block on the multiprocessor multiplies.
template <typename T, bool kVectors>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    unpool_conv2d_tiles_kernel(UnpoolConvShape shape, BlockTiles tiles, UnpoolConvArrays<T> arrays,
                               const Vector<T>* __restrict__ panels, int32_t steps, bool wide) {
  if constexpr (ptx::kHasMma) {
    using Traits = TileTraits;
    auto* weights = dynamic_shared_memory<Vector<T>>();  // [2, kWeightVectors], then the halo
    Vector<T>* halo = weights + 2 * Traits::kWeightVectors;
    const auto tile = tiles.place();
    const int warp = static_cast<int>(threadIdx.x) / Launch::kWarpThreads;
    const int lane = static_cast<int>(threadIdx.x) % Launch::kWarpThreads;
    const int first_row = warp / FragmentWeights::kHalves * Traits::kRows, half = warp % FragmentWeights::kHalves;
    const int64_t first_output = tile.group * int64_t{Traits::kOutputs} + half * FragmentWeights::kHalfOutputs;
    HaloCell<T, kVectors> cell(arrays, shape, tile);

    const auto begin_step = [&](int32_t step) {
      Vector<T>* to = weights + step % 2 * Traits::kWeightVectors;
      const Vector<T>* from = panels + (tile.group * int64_t{steps} + step) * Traits::kWeightVectors;
      for (int v = static_cast<int>(threadIdx.x); v < Traits::kWeightVectors; v += Launch::kBlockThreads) {
        ptx::copy_async(to + v, from + v);
      }
    };

    const int64_t lane_output = first_output + lane % 4 * 8;
    TileSums sums;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const float bias = arrays.bias_of(lane_output + k, shape.outputs);
#pragma unroll
      for (int r = 0; r < Traits::kRows; ++r) sums.sums[r][k / 2][k % 2] = sums.sums[r][k / 2][k % 2 + 2] = bias;
    }
    begin_step(0);
    for (int32_t step = 0; step < steps; ++step) {
      cell.load();
      __syncthreads();  // no thread reads the halo or the previous step's weights any more
      cell.place(halo);
      ptx::wait_for_copies();
      __syncthreads();
      if (step + 1 < steps) begin_step(step + 1);
      constexpr int kHalfVectors = FragmentWeights::kHalf / Traits::kLanes;
      sums.add(halo, weights + step % 2 * Traits::kWeightVectors + half * kHalfVectors, first_row, lane);
    }
    write_tile(sums, arrays.output + tile.sample * shape.output.sample, shape,
               tile.row * int64_t{Traits::kPixels} + first_row, tile.column * int64_t{Traits::kPixels} + lane / 4 * 2,
               lane_output, wide);
  } else {
    __trap();  // not reached: find_mma selects another kernel
  }
}

}  // namespace segext
