// Unpooling and 3x3 convolution on the cores of each type: every value is multiplied by its nine weights and added
// where they reach, so a quarter of the multiplications is left, and a pixel without a value takes part in none.
//
// Lanes of a warp are outputs. All else, the code too, is the same for a whole warp: a branch on the code costs no
// divergence, and within it the sums that a value feeds are known registers. A warp has 2x4 cells, which share each
// weight that it loads; their sums are a patch of 6x10 pixels:
//
//     cells    a b c d        code 3 (bottom right) of a    . . . . . . . . . .
//              e f g h        feeds the patch here          . x x x . . . . . .
//                                                           . x x x . . . . . .
//                                                           . x x x . . . . . .
//                                                           . . . . . . . . . .
//                                                           . . . . . . . . . .
//
// A block has 4x2 such warps and 8x8 cells. In the end they add their patches up in shared memory, those that share no
// pixel at a time, with a barrier between: a sum has one order. The first two rows and columns of pixels lack what the
// cells before feed, so the next tile begins a cell before this one's end and makes them:
//
//     cells of tile 0     0 1 2 3 4 5 6 7
//     cells of tile 1                   7 8 9 ...
//     pixels of tile 0    0 1 ........ 15           its first two are whole: nothing lies before them
//     pixels of tile 1                    16 ...    after the two that tile 0 has whole
#pragma once

#include <cstdint>

#include "codes.cuh"
#include "unpool_conv2d.cuh"

namespace segext {

template <typename T>
struct CellTraits {
  using Wide = typename Element<T>::Wide;
  static constexpr int kTile = 8;                // cells along either axis of a block
  static constexpr int kRows = 2, kColumns = 4;  // of a warp
  static constexpr int kWarpCells = kRows * kColumns;
  static constexpr int kWarpColumns = kTile / kColumns;
  static constexpr int kPatchRows = 2 * kRows + 2, kPatchColumns = 2 * kColumns + 2;
  static constexpr int kPixels = 2 * kTile;  // along either axis of a block; what reaches beyond is the next tile's
  static constexpr int kOverlap = 2;         // pixels along either axis that the tile before makes
  static constexpr int kOutputs = LaneWeights::kOutputs;
  static constexpr int kChannels = 8;      // of a step
  static constexpr uint32_t kNothing = 4;  // in place of the code of a cell that is none, or names no pixel
  static constexpr int kItems = kTile * kTile * kChannels / Launch::kBlockThreads;  // values that a thread loads a step
  // Outputs whose sums shared memory holds at a time, and elements between pixels: odd, against bank conflicts.
  static constexpr int kPassOutputs = kOutputs * static_cast<int>(sizeof(float)) / static_cast<int>(sizeof(Wide));
  static constexpr int kPitch = kPassOutputs + 1;
  // Sums of 64 bits take two registers each.
  static constexpr int kMinBlocks = sizeof(Wide) == sizeof(float) ? Launch::kMinBlocks : 1;
  static_assert(kWarpCells * Launch::kBlockWarps == kTile * kTile, "each cell once");
  static_assert(kItems * Launch::kBlockThreads == kTile * kTile * kChannels, "each value once");
};

// What a block has of a step's channels. The odd ends keep threads that store neighbouring channels in different banks.
template <typename T>
struct CellStage {
  using Traits = CellTraits<T>;
  using Wide = typename Traits::Wide;
  alignas(kVectorBytes) Wide weights[Traits::kChannels][kPanelTaps][Traits::kOutputs];
  alignas(kVectorBytes) Wide values[Traits::kChannels][Traits::kTile * Traits::kTile + 4];  // warp by warp
  alignas(kVectorBytes) uint8_t codes[Traits::kChannels][Traits::kTile * Traits::kTile + 8];
};

template <typename T>
constexpr int64_t cell_shared_bytes() {
  using Traits = CellTraits<T>;
  constexpr int64_t kStages = 2 * sizeof(CellStage<T>);
  constexpr int64_t kSums = sizeof(typename Traits::Wide) * Traits::kPixels * Traits::kPixels * Traits::kPitch;
  static_assert(kStages <= Launch::kMaxSharedBytes && kSums <= Launch::kMaxSharedBytes, "fits");
  return kStages > kSums ? kStages : kSums;
}

// The values that a thread loads for its block: of one cell, or two, and one channel of each step, or two.
template <typename T>
class StagedCells {
  using Traits = CellTraits<T>;
  using Wide = typename Traits::Wide;

 public:
  __device__ __forceinline__ StagedCells(const UnpoolConvArrays<T>& arrays, const UnpoolConvShape& shape,
                                         const BlockTiles::Place& tile)
      : input_(arrays.input + tile.sample * shape.pooled.sample),
        codes_(arrays.codes + tile.sample * shape.sample_bytes),
        channels_(shape.channels),
        channel_step_(shape.pooled.channel) {
#pragma unroll
    for (int k = 0; k < Traits::kItems; ++k) {
      constexpr int kCells = Traits::kTile * Traits::kTile;
      // Neighbouring threads load what lies side by side.
      const int number = static_cast<int>(threadIdx.x) + k * Launch::kBlockThreads;
      const int cell = shape.channels_last ? number / Traits::kChannels : number % kCells;
      const int row = cell / Traits::kTile, column = cell % Traits::kTile;
      channel_[k] = shape.channels_last ? number % Traits::kChannels : number / kCells;
      const int warp = row / Traits::kRows * Traits::kWarpColumns + column / Traits::kColumns;
      slot_[k] = warp * Traits::kWarpCells + row % Traits::kRows * Traits::kColumns + column % Traits::kColumns;
      const int64_t map_row = tile.row * int64_t{Traits::kTile - 1} + row;
      const int64_t map_column = tile.column * int64_t{Traits::kTile - 1} + column;
      element_[k] = shape.pooled.element(channel_[k], map_row, map_column);
      named_[k] = 0;
      if (!shape.has_cell(map_row, map_column)) continue;
      for (int code = 0; code < 4; ++code) {
        const bool inside = 2 * map_row + code / 2 < shape.height && 2 * map_column + code % 2 < shape.width;
        named_[k] |= static_cast<uint32_t>(inside) << code;
      }
    }
  }

  __device__ __forceinline__ void load(int64_t first_channel) {
#pragma unroll
    for (int k = 0; k < Traits::kItems; ++k) {
      value_[k] = T{};
      code_[k] = Traits::kNothing;
      if (named_[k] == 0 || first_channel + channel_[k] >= channels_) continue;
      const int64_t element = element_[k] + first_channel * channel_step_;
      const uint32_t code = load_code(codes_, element, code_bits(4));
      value_[k] = input_[element];
      if ((named_[k] >> code & 1) != 0) code_[k] = code;
    }
  }

  __device__ __forceinline__ void store(CellStage<T>* stage) const {
#pragma unroll
    for (int k = 0; k < Traits::kItems; ++k) {
      stage->values[channel_[k]][slot_[k]] = Element<T>::widen(value_[k]);
      stage->codes[channel_[k]][slot_[k]] = static_cast<uint8_t>(code_[k]);
    }
  }

 private:
  const T* input_;
  const uint8_t* codes_;
  int64_t channels_, channel_step_;
  int64_t element_[Traits::kItems];
  int channel_[Traits::kItems], slot_[Traits::kItems];
  uint32_t named_[Traits::kItems];  // a bit for each code that names a pixel
  T value_[Traits::kItems];
  uint32_t code_[Traits::kItems];
};

// A lane's sums: one output of its warp's patch.
template <typename T>
struct CellPatch {
  using Traits = CellTraits<T>;
  using Wide = typename Traits::Wide;
  Wide sums[Traits::kPatchRows][Traits::kPatchColumns] = {};

  // What a value at this pixel of the warp's cells feeds.
  __device__ __forceinline__ void feed(int row, int column, Wide value, const Wide (&weights)[kPanelTaps]) {
#pragma unroll
    for (int tap = 0; tap < kPanelTaps; ++tap) {
      Wide& sum = sums[row + tap / 3][column + tap % 3];
      sum = multiply_add(value, weights[tap], sum);
    }
  }

  // What a warp's cells feed over a step's channels.
  __device__ __forceinline__ void add(const CellStage<T>& stage, int warp, int lane) {
#pragma unroll 1
    for (int c = 0; c < Traits::kChannels; ++c) {
      Wide weights[kPanelTaps];
#pragma unroll
      for (int tap = 0; tap < kPanelTaps; ++tap) weights[tap] = stage.weights[c][tap][lane];
      // What comes from a shuffle is known to be the same for all lanes: branches on it need not bring lanes together.
      const uint2 loaded = *reinterpret_cast<const uint2*>(&stage.codes[c][warp * Traits::kWarpCells]);
      const uint32_t codes[] = {__shfl_sync(0xffffffffu, loaded.x, 0), __shfl_sync(0xffffffffu, loaded.y, 0)};
      Vector<Wide> values[Traits::kWarpCells / Vector<Wide>::kLanes];
#pragma unroll
      for (int k = 0; k < Traits::kWarpCells; k += Vector<Wide>::kLanes) {
        values[k / Vector<Wide>::kLanes] = load_vector<Vector<Wide>>(&stage.values[c][warp * Traits::kWarpCells + k]);
      }
#pragma unroll
      for (int k = 0; k < Traits::kWarpCells; ++k) {
        const int row = k / Traits::kColumns * 2, column = k % Traits::kColumns * 2;
        const Wide value = values[k / Vector<Wide>::kLanes].lane[k % Vector<Wide>::kLanes];
        // 2: the lower row of the window, 1: the right column.
        const auto has = [&](uint32_t bit) { return (codes[k / 4] & bit << 8 * (k % 4)) != 0; };
        if (has(Traits::kNothing)) continue;
        if (has(2)) {
          if (has(1)) {
            feed(row + 1, column + 1, value, weights);
          } else {
            feed(row + 1, column, value, weights);
          }
        } else if (has(1)) {
          feed(row, column + 1, value, weights);
        } else {
          feed(row, column, value, weights);
        }
      }
    }
  }
};

// Adds up the block's patches of outputs [first, first + kPassOutputs) of its group, and writes what is whole.
template <typename T>
__device__ __forceinline__ void write_patches(const CellPatch<T>& patch, const UnpoolConvArrays<T>& arrays,
                                              const UnpoolConvShape& shape, const BlockTiles::Place& tile, int first) {
  using Traits = CellTraits<T>;
  using Wide = typename Traits::Wide;
  constexpr int kSide = Traits::kPixels, kOutputs = Traits::kPassOutputs, kCount = kSide * kSide * kOutputs;
  auto* sums = dynamic_shared_memory<Wide>();  // [kSide, kSide, kPitch]
  const int warp = static_cast<int>(threadIdx.x) / Launch::kWarpThreads;
  const int lane = static_cast<int>(threadIdx.x) % Launch::kWarpThreads;
  const int64_t group = tile.group * int64_t{Traits::kOutputs} + first;

  __syncthreads();  // nobody uses the shared memory for anything else any more
  for (int e = static_cast<int>(threadIdx.x); e < kCount; e += Launch::kBlockThreads) {
    sums[e / kOutputs * Traits::kPitch + e % kOutputs] = arrays.bias_of(group + e % kOutputs, shape.outputs);
  }
  const int warp_row = warp / Traits::kWarpColumns, warp_column = warp % Traits::kWarpColumns;
  for (int turn = 0; turn < 4; ++turn) {
    __syncthreads();
    if (turn != warp_row % 2 * 2 + warp_column || lane < first || lane >= first + kOutputs) continue;
#pragma unroll
    for (int r = 0; r < Traits::kPatchRows; ++r) {
#pragma unroll
      for (int c = 0; c < Traits::kPatchColumns; ++c) {
        const int row = 2 * Traits::kRows * warp_row + r, column = 2 * Traits::kColumns * warp_column + c;
        if (row < kSide && column < kSide) {
          sums[(row * kSide + column) * Traits::kPitch + lane - first] += patch.sums[r][c];
        }
      }
    }
  }
  __syncthreads();

  constexpr int kStep = kSide - Traits::kOverlap;
  const int64_t top = tile.row * int64_t{kStep} - shape.padding_h;
  const int64_t left = tile.column * int64_t{kStep} - shape.padding_w;
  const int first_row = tile.row == 0 ? 0 : Traits::kOverlap, first_column = tile.column == 0 ? 0 : Traits::kOverlap;
  T* output = arrays.output + tile.sample * shape.output.sample;
  for (int e = static_cast<int>(threadIdx.x); e < kCount; e += Launch::kBlockThreads) {
    const int pixel = shape.channels_last ? e / kOutputs : e % (kSide * kSide);
    const int number = shape.channels_last ? e % kOutputs : e / (kSide * kSide);
    const int row = pixel / kSide, column = pixel % kSide;
    const int64_t y = top + row, x = left + column;
    if (row < first_row || column < first_column || y < 0 || y >= shape.output_height || x < 0 ||
        x >= shape.output_width || group + number >= shape.outputs) {
      continue;
    }
    output[shape.output.element(group + number, y, x)] = Element<T>::narrow(sums[pixel * Traits::kPitch + number]);
  }
}

// While a block works on the channels of one step, those of the next are on their way into the other stage.
template <typename T>
__global__ void __launch_bounds__(Launch::kBlockThreads, CellTraits<T>::kMinBlocks)
    unpool_conv2d_cells_kernel(UnpoolConvShape shape, BlockTiles tiles, UnpoolConvArrays<T> arrays,
                               const typename Element<T>::Wide* __restrict__ panels, int32_t steps) {
  using Traits = CellTraits<T>;
  using Wide = typename Traits::Wide;
  constexpr int kWeights = Traits::kChannels * LaneWeights::kChannel;
  auto* stages = dynamic_shared_memory<CellStage<T>>();
  const auto tile = tiles.place();
  const int warp = static_cast<int>(threadIdx.x) / Launch::kWarpThreads;
  const int lane = static_cast<int>(threadIdx.x) % Launch::kWarpThreads;
  // Panels are filled up to whole steps, and more: a group's channels are cuda_panel_channels.
  const Wide* weights = panels + tile.group * cuda_panel_channels(shape.channels) * LaneWeights::kChannel;
  StagedCells<T> cells(arrays, shape, tile);

  const auto begin_step = [&](int32_t step) {
    Wide* to = &stages[step % 2].weights[0][0][0];
    const Wide* from = weights + step * int64_t{kWeights};
    constexpr int kLanes = Vector<Wide>::kLanes;
#pragma unroll
    for (int first = 0; first < kWeights; first += Launch::kBlockThreads * kLanes) {
      const int e = first + static_cast<int>(threadIdx.x) * kLanes;
      if (e < kWeights) ptx::copy_async(to + e, from + e);
    }
    cells.load(step * int64_t{Traits::kChannels});
  };

  CellPatch<T> patch;
  begin_step(0);
  for (int32_t step = 0; step < steps; ++step) {
    cells.store(&stages[step % 2]);
    ptx::wait_for_copies();
    __syncthreads();  // the stage is complete, and nobody reads the other one any more
    if (step + 1 < steps) begin_step(step + 1);
    patch.add(stages[step % 2], warp, lane);
  }
  for (int first = 0; first < Traits::kOutputs; first += Traits::kPassOutputs) {
    write_patches(patch, arrays, shape, tile, first);
  }
}

}  // namespace segext
