// Fused unpooling and 3x3 convolution on the FP32 or FP64 cores: every value is multiplied by its nine weights and
// added to the outputs it contributes to. Only a quarter of the multiplications remain: pixels without a value need
// none.
//
// Each lane of a warp computes two outputs, or one for float64. Everything else, including the code, is the same for
// the whole warp. Branches on the code therefore do not diverge, and within a branch, the sums that a value contributes
// to are registers known at compile time. A warp processes 2x2 cells, which share each loaded weight; their sums are a
// patch of 6x6 pixels:
//
//     cells    a b        code 3 (bottom right) of a    . . . . . .
//              c d        contributes to the x pixels   . x x x . .
//                         of the patch                  . x x x . .
//                                                       . x x x . .
//                                                       . . . . . .
//                                                       . . . . . .
//
// A block has eight such warps side by side, which process a tile of 2x16 cells, and it moves down a strip of such
// tiles. Contributions of a tile's cells to the rows below it stay in the warps' registers, where the next tile adds to
// them. Contributions of a warp's cells to the columns on their right go through shared memory to the next warp, which
// adds them to its own sums. The order of each sum is therefore fixed, but depends on where strips begin. The first two
// rows and columns of a strip's pixels lack the contributions of the preceding cells. A strip therefore begins with the
// last cell of the previous one, which has written the pixels that this one lacks:
//
//     cells of strip 0     0 1 2 ... 15
//     cells of strip 1               15 16 17 ...
//     pixels of strip 0    0 1 ......... 31           the first two are complete: no cells precede them
//     pixels of strip 1                     32 ...    pixels 30 and 31 are complete in strip 0
#pragma once

#include <cstdint>

#include "codes.cuh"
#include "unpool_conv2d.cuh"

namespace segext {

template <typename T>
struct CellTraits {
  using Wide = WideOf<T>;
  using Layout = LaneWeights<Wide>;
  using Outputs = typename Layout::Outputs;
  // Cells: along either axis of a warp, per warp, and in a block's tile.
  static constexpr int kSide = 2, kWarpCells = kSide * kSide, kCells = kWarpCells * Launch::kBlockWarps;
  // Pixels: along either axis of a patch, whose last two belong to the next one; rows and columns of a block's tile.
  static constexpr int kPatch = 2 * kSide + 2, kRows = 2 * kSide, kColumns = kRows * Launch::kBlockWarps;
  static constexpr int kOverlap = 2;  // pixels along either axis that the previous strip computes
  static constexpr int kChannels = Launch::kBlockThreads / kCells;  // per step, in which each thread loads one value
  static constexpr int kStagedCells = kCells + 4;  // pitch of a channel: neighbouring threads store to different banks
  // To write results in rows, shared memory holds a few rows of one output per lane at a time.
  static constexpr int kPassRows = kRows * static_cast<int>(sizeof(float)) / static_cast<int>(sizeof(Wide));
  static constexpr int kPasses = kRows / kPassRows * Outputs::kLanes;
  static constexpr int kPitch = kPassRows * kColumns + 1;  // between outputs: odd, to avoid bank conflicts
  // With two blocks of float64 per multiprocessor, ptxas would spill a register.
  static constexpr int kMinBlocks = sizeof(Wide) == sizeof(float) ? Launch::kMinBlocks : 1;
  static_assert(kCells * kChannels == Launch::kBlockThreads, "each value once");
};

// How a cell's code is kept in shared memory: one bit per branch, so that a test takes one instruction.
struct CellBranches {
  static constexpr uint32_t kLower = 2, kLowerRight = 4, kUpperRight = 8;
  static constexpr uint32_t kNothing = 16;  // the cell does not exist, or its code names no pixel

  __device__ __forceinline__ static uint32_t of_code(uint32_t code) {
    constexpr uint32_t kOfCodes = kUpperRight << 4 | kLower << 8 | (kLower | kLowerRight) << 12;
    return kOfCodes >> 4 * code & 15;
  }
};

// A step's channels in shared memory. Cells are ordered by warp.
template <typename T>
struct CellStage {
  using Traits = CellTraits<T>;
  using Wide = typename Traits::Wide;
  alignas(kVectorBytes) typename Traits::Outputs weights[Traits::kChannels][kPanelTaps][Launch::kWarpThreads];
  alignas(kVectorBytes) Wide values[Traits::kChannels][Traits::kStagedCells];
  alignas(kVectorBytes) uint8_t branches[Traits::kChannels][Traits::kStagedCells];
};

// A block's strip, and the offsets of its maps and weights. In shared memory, to leave registers for the sums.
template <typename T>
struct CellStrip {
  using Traits = CellTraits<T>;
  using Layout = typename Traits::Layout;
  int64_t input, code_bytes, output, weights;
  int64_t first_output;
  int64_t first_row, first_column;  // in cells
  int32_t tiles;
  typename Traits::Outputs bias[Launch::kWarpThreads];

  // A strip has at most `most_tiles` tiles. The lowest one has only as many as it takes to reach the end of the result.
  __device__ __forceinline__ void find(const UnpoolConvShape& shape, const BlockTiles::Place& place,
                                       int32_t most_tiles) {
    input = place.sample * shape.pooled.sample;
    code_bytes = place.sample * shape.sample_bytes;
    output = place.sample * shape.output.sample;
    // Panels are padded to at least whole steps: a group has cuda_panel_channels channels.
    weights = place.group * cuda_panel_channels(shape.channels) * Layout::kChannel;
    first_output = place.group * int64_t{Layout::kOutputs};
    first_row = place.row * (int64_t{most_tiles} * Traits::kSide - 1);
    first_column = place.column * int64_t{Traits::kColumns / 2 - 1};
    const int64_t rows = shape.output_height + shape.padding_h - 2 * first_row;
    const int64_t reached = (rows + Traits::kRows - 1) / Traits::kRows;
    tiles = reached < most_tiles ? static_cast<int32_t>(reached) : most_tiles;
  }

  __device__ __forceinline__ int64_t row_of(int32_t tile) const { return first_row + tile * int64_t{Traits::kSide}; }
};

template <typename T>
constexpr int64_t cell_shared_bytes() {
  using Traits = CellTraits<T>;
  constexpr int64_t kStage = sizeof(CellStage<T>);
  constexpr int64_t kPass = sizeof(typename Traits::Wide) * Launch::kWarpThreads * Traits::kPitch;
  constexpr int64_t kEdges =
      sizeof(typename Traits::Outputs) * Traits::kRows * Traits::kOverlap * Launch::kBlockThreads;
  static_assert(2 * kStage + int64_t{sizeof(CellStrip<T>)} <= Launch::kMaxSharedBytes, "fits");
  static_assert(kPass <= kStage && kEdges <= kStage, "a stage that has been read has room for results");
  return 2 * kStage;
}

// The value that a thread loads for its block: one cell of one channel in each step.
template <typename T>
class StagedCell {
  using Traits = CellTraits<T>;
  using Wide = typename Traits::Wide;

 public:
  __device__ __forceinline__ void begin_tile(const UnpoolConvShape& shape, const CellStrip<T>& strip, int32_t tile) {
    // Neighbouring threads load neighbouring elements.
    const int number = static_cast<int>(threadIdx.x);
    const int cell = shape.channels_last ? number / Traits::kChannels : number % Traits::kCells;
    const int in_warp = cell % Traits::kWarpCells, warp = cell / Traits::kWarpCells;
    const int64_t row = strip.row_of(tile) + in_warp / Traits::kSide;
    const int64_t column = strip.first_column + warp * Traits::kSide + in_warp % Traits::kSide;
    channel_ = shape.channels_last ? number % Traits::kChannels : number / Traits::kCells;
    place_ = static_cast<int>(channel_) * Traits::kStagedCells + cell;
    element_ = shape.pooled.element(channel_, row, column);
    named_ = 0;
    if (!shape.has_cell(row, column)) return;
    for (int code = 0; code < 4; ++code) {
      const bool inside = 2 * row + code / 2 < shape.height && 2 * column + code % 2 < shape.width;
      named_ |= static_cast<uint32_t>(inside) << code;
    }
  }

  // Loads from the next step's channel. Nothing here waits for the loaded values.
  __device__ __forceinline__ void load(const UnpoolConvArrays<T>& arrays, const UnpoolConvShape& shape,
                                       const CellStrip<T>& strip) {
    value_ = T{};
    if (named_ != 0 && channel_ < shape.channels) {
      value_ = arrays.input[strip.input + element_];
      byte_ = arrays.codes[strip.code_bytes + static_cast<int64_t>(as_unsigned(element_) / kTilesPerByte)];
    }
    channel_ += Traits::kChannels;
    element_ += Traits::kChannels * shape.pooled.channel;
  }

  // Stores what was loaded last.
  __device__ __forceinline__ void store(const UnpoolConvShape& shape, CellStage<T>* stage) const {
    // A code has the same position in its byte in every step, so element_ gives it although load() has advanced it.
    static_assert(Traits::kChannels % kTilesPerByte == 0, "whole bytes");
    const uint32_t code = take_code(byte_, static_cast<int>(as_unsigned(element_) % kTilesPerByte), kTileBits);
    const bool is_there = channel_ - Traits::kChannels < shape.channels && (named_ >> code & 1) != 0;
    (&stage->values[0][0])[place_] = Element<T>::widen(value_);
    (&stage->branches[0][0])[place_] =
        static_cast<uint8_t>(is_there ? CellBranches::of_code(code) : CellBranches::kNothing);
  }

 private:
  int place_;
  uint32_t channel_;
  int64_t element_;
  uint32_t named_;  // a bit for each code that names a pixel of the map
  T value_;
  uint32_t byte_ = 0;  // contains the code
};

// A lane's sums: its outputs at each pixel of its warp's patch.
template <typename T>
struct CellPatch {
  using Traits = CellTraits<T>;
  using Wide = typename Traits::Wide;
  using Outputs = typename Traits::Outputs;
  Outputs sums[Traits::kPatch][Traits::kPatch];

  // The bias is added by the warp whose cell contains the pixel.
  __device__ __forceinline__ void begin_rows(int first, const Outputs& bias) {
#pragma unroll
    for (int row = first; row < Traits::kPatch; ++row) {
#pragma unroll
      for (int column = 0; column < Traits::kPatch; ++column) {
        sums[row][column] = column < Traits::kRows ? bias : Outputs{};
      }
    }
  }

  // The rows below a tile become the first rows of the next one.
  __device__ __forceinline__ void go_down(const Outputs& bias) {
#pragma unroll
    for (int row = 0; row < Traits::kOverlap; ++row) {
#pragma unroll
      for (int column = 0; column < Traits::kPatch; ++column) sums[row][column] = sums[row + Traits::kRows][column];
    }
    begin_rows(Traits::kOverlap, bias);
  }

  // Adds the contributions of a value at this pixel of the warp's cells.
  __device__ __forceinline__ void feed(int row, int column, Wide value, const Outputs (&weights)[kPanelTaps]) {
#pragma unroll
    for (int tap = 0; tap < kPanelTaps; ++tap) {
      Outputs& sum = sums[row + tap / 3][column + tap % 3];
#pragma unroll
      for (int k = 0; k < Outputs::kLanes; ++k) {
        sum.lane[k] = multiply_add(value, weights[tap].lane[k], sum.lane[k]);
      }
    }
  }

  // Adds the contributions of a warp's cells over a step's channels.
  __device__ __forceinline__ void add(const CellStage<T>& stage, int warp, int lane) {
    const int first_cell = warp * Traits::kWarpCells;
    // Lane c has the branch bits of channel c. The compiler knows that the result of the shuffle is the same for all
    // lanes, so it need not make lanes reconverge after branches on it.
    const uint32_t of_lane = *reinterpret_cast<const uint32_t*>(&stage.branches[lane % Traits::kChannels][first_cell]);
    const Outputs* of_channel = &stage.weights[0][0][lane];
    const Wide* cells = &stage.values[0][first_cell];
#pragma unroll 1
    for (int c = 0; c < Traits::kChannels; ++c) {
      const uint32_t branches = __shfl_sync(0xffffffffu, of_lane, c);
      Outputs weights[kPanelTaps];
#pragma unroll
      for (int tap = 0; tap < kPanelTaps; ++tap) weights[tap] = of_channel[tap * Launch::kWarpThreads];
      Vector<Wide> values[Traits::kWarpCells / Vector<Wide>::kLanes];
#pragma unroll
      for (int k = 0; k < Traits::kWarpCells; k += Vector<Wide>::kLanes) {
        values[k / Vector<Wide>::kLanes] = load_vector<Vector<Wide>>(cells + k);
      }
      of_channel += kPanelTaps * Launch::kWarpThreads;
      cells += Traits::kStagedCells;
#pragma unroll
      for (int k = 0; k < Traits::kWarpCells; ++k) {
        const int row = k / Traits::kSide * 2, column = k % Traits::kSide * 2;
        const Wide value = values[k / Vector<Wide>::kLanes].lane[k % Vector<Wide>::kLanes];
        const auto has = [&](uint32_t bit) { return (branches & bit << 8 * k) != 0; };
        if (has(CellBranches::kLower)) {
          if (has(CellBranches::kLowerRight)) {
            feed(row + 1, column + 1, value, weights);
          } else {
            feed(row + 1, column, value, weights);
          }
        } else if (has(CellBranches::kUpperRight)) {
          feed(row, column + 1, value, weights);
        } else if (!has(CellBranches::kNothing)) {
          feed(row, column, value, weights);
        }
      }
    }
  }

  // Adds what each warp's cells contribute to the columns on their right to the patch of the next warp.
  __device__ __forceinline__ void pass_edges(void* shared, int warp, int lane) {
    auto* edges = static_cast<Outputs*>(shared);  // [warps, kRows, kOverlap, lanes]
    const auto at = [&](int of_warp, int row, int column) {
      return ((of_warp * Traits::kRows + row) * Traits::kOverlap + column) * Launch::kWarpThreads + lane;
    };
#pragma unroll
    for (int row = 0; row < Traits::kRows; ++row) {
#pragma unroll
      for (int column = 0; column < Traits::kOverlap; ++column) {
        edges[at(warp, row, column)] = sums[row][Traits::kRows + column];
      }
    }
    __syncthreads();
    if (warp == 0) return;
#pragma unroll
    for (int row = 0; row < Traits::kRows; ++row) {
#pragma unroll
      for (int column = 0; column < Traits::kOverlap; ++column) {
        const Outputs edge = edges[at(warp - 1, row, column)];
#pragma unroll
        for (int k = 0; k < Outputs::kLanes; ++k) sums[row][column].lane[k] += edge.lane[k];
      }
    }
  }
};

// The range of a tile's pixels, along one axis, that is written: pixels of the result whose sums are complete.
struct WholePixels {
  int begin, end;

  // The tile begins at pixel `first` of a result of `size` pixels; its first `lacking` pixels are incomplete.
  __device__ __forceinline__ WholePixels(int64_t first, int64_t size, int pixels, int lacking)
      : begin(first + lacking < 0 ? static_cast<int>(-first) : lacking),
        end(size - first < pixels ? static_cast<int>(size - first) : pixels) {}

  __device__ __forceinline__ bool contain(int pixel) const { return pixel >= begin && pixel < end; }
};

// Writes a tile's results.
template <typename T>
class CellResults {
  using Traits = CellTraits<T>;
  using Wide = typename Traits::Wide;

 public:
  __device__ __forceinline__ CellResults(const UnpoolConvArrays<T>& arrays, const UnpoolConvShape& shape,
                                         const CellStrip<T>& strip, int32_t tile)
      : output_(arrays.output + strip.output),
        steps_(shape.output),
        outputs_(shape.outputs),
        first_output_(strip.first_output),
        top_(2 * strip.row_of(tile) - shape.padding_h),
        left_(2 * strip.first_column - shape.padding_w),
        rows_(top_, shape.output_height, Traits::kRows, strip.first_row == 0 || tile != 0 ? 0 : Traits::kOverlap),
        columns_(left_, shape.output_width, Traits::kColumns, strip.first_column == 0 ? 0 : Traits::kOverlap) {}

  // Neighbouring lanes write neighbouring outputs.
  __device__ __forceinline__ void write_channels_last(const CellPatch<T>& patch, int warp, int lane) const {
    const int first_column = warp * Traits::kRows;
    const int64_t left = outputs_ - first_output_ - lane;  // number of outputs from the lane's first one on
    const int64_t corner = steps_.element(first_output_ + lane, top_, left_ + first_column);
#pragma unroll
    for (int row = 0; row < Traits::kRows; ++row) {
      if (!rows_.contain(row)) continue;
#pragma unroll
      for (int column = 0; column < Traits::kRows; ++column) {
        if (!columns_.contain(first_column + column)) continue;
        const int64_t pixel = corner + row * steps_.row + column * steps_.column;
#pragma unroll
        for (int k = 0; k < Traits::Outputs::kLanes; ++k) {
          if (k * Launch::kWarpThreads >= left) continue;
          output_[pixel + k * Launch::kWarpThreads] = Element<T>::narrow(patch.sums[row][column].lane[k]);
        }
      }
    }
  }

  // Transposes through shared memory, so that neighbouring lanes write neighbouring pixels.
  __device__ __forceinline__ void write_rows(const CellPatch<T>& patch, void* shared, int warp, int lane) const {
    auto* results = static_cast<Wide*>(shared);  // [lanes, kPitch]
    Wide* to = results + lane * Traits::kPitch + warp * Traits::kRows;
#pragma unroll
    for (int pass = 0; pass < Traits::kPasses; ++pass) {
      const int k = pass % Traits::Outputs::kLanes, first_row = pass / Traits::Outputs::kLanes * Traits::kPassRows;
      __syncthreads();  // no thread reads the previous contents any more
#pragma unroll
      for (int row = 0; row < Traits::kPassRows; ++row) {
#pragma unroll
        for (int column = 0; column < Traits::kRows; ++column) {
          to[row * Traits::kColumns + column] = patch.sums[first_row + row][column].lane[k];
        }
      }
      __syncthreads();
      if (columns_.contain(lane)) write_pass(results, k, first_row, warp, lane);
    }
  }

 private:
  T* output_;
  const MapSteps& steps_;
  int64_t outputs_, first_output_, top_, left_;
  WholePixels rows_, columns_;

  __device__ __forceinline__ void write_pass(const Wide* results, int k, int first_row, int warp, int lane) const {
    const Wide* from = results + warp * Traits::kPitch + lane;
    const int64_t first = first_output_ + k * Launch::kWarpThreads + warp;
    T* to = output_ + steps_.element(first, top_ + first_row, left_ + lane);
    int64_t left = outputs_ - first;
#pragma unroll 1
    for (int number = warp; number < Launch::kWarpThreads && left > 0; number += Launch::kBlockWarps) {
#pragma unroll
      for (int row = 0; row < Traits::kPassRows; ++row) {
        if (!rows_.contain(first_row + row)) continue;
        to[row * steps_.row] = Element<T>::narrow(from[row * Traits::kColumns]);
      }
      from += Launch::kBlockWarps * Traits::kPitch;
      to += Launch::kBlockWarps * steps_.channel;
      left -= Launch::kBlockWarps;
    }
  }
};

// While a block computes one step's channels, those of the next step, which may belong to the next tile, are on their
// way to the other stage.
template <typename T>
__global__ void __launch_bounds__(Launch::kBlockThreads, CellTraits<T>::kMinBlocks)
    unpool_conv2d_cells_kernel(UnpoolConvShape shape, BlockTiles tiles, UnpoolConvArrays<T> arrays,
                               const WideOf<T>* __restrict__ panels, int32_t steps, int32_t strip_tiles) {
  using Traits = CellTraits<T>;
  using Wide = typename Traits::Wide;
  using Layout = typename Traits::Layout;
  using Outputs = typename Traits::Outputs;
  constexpr int kWeights = Traits::kChannels * Layout::kChannel;
  __shared__ CellStrip<T> strip;
  auto* stages = dynamic_shared_memory<CellStage<T>>();
  const int warp = static_cast<int>(threadIdx.x) / Launch::kWarpThreads;
  const int lane = static_cast<int>(threadIdx.x) % Launch::kWarpThreads;
  const auto place = tiles.place();
  if (threadIdx.x == 0) strip.find(shape, place, strip_tiles);
  if (warp == 0) {
#pragma unroll
    for (int k = 0; k < Outputs::kLanes; ++k) {
      const int64_t output = place.group * int64_t{Layout::kOutputs} + k * Launch::kWarpThreads + lane;
      strip.bias[lane].lane[k] = arrays.bias_of(output, shape.outputs);
    }
  }
  __syncthreads();
  StagedCell<T> cell;

  const auto begin_step = [&](int32_t step, CellStage<T>* stage) {
    constexpr int kLanes = Vector<Wide>::kLanes, kBlockLanes = Launch::kBlockThreads * kLanes;
    const int of_thread = static_cast<int>(threadIdx.x) * kLanes;
    Wide* to = &stage->weights[0][0][0].lane[0] + of_thread;
    const Wide* from = panels + strip.weights + step * int64_t{kWeights} + of_thread;
#pragma unroll
    for (int first = 0; first < kWeights; first += kBlockLanes) {
      const bool all = first + kBlockLanes <= kWeights;
      if (all || first + of_thread < kWeights) ptx::copy_async(to + first, from + first);
    }
    cell.load(arrays, shape, strip);
  };

  CellPatch<T> patch;
  patch.begin_rows(0, strip.bias[lane]);
  CellStage<T>*stage = &stages[0], *next = &stages[1];
  cell.begin_tile(shape, strip, 0);
  begin_step(0, stage);
  for (int32_t tile = 0; tile < strip.tiles; ++tile) {
    const bool has_cells = shape.has_cell(strip.row_of(tile), strip.first_column + warp * Traits::kSide);
    const bool works = __any_sync(0xffffffffu, has_cells);  // tells the compiler that it is the same for all lanes
    for (int32_t step = 0; step < steps; ++step) {
      cell.store(shape, stage);
      ptx::wait_for_copies();
      __syncthreads();  // the stage is complete, and no thread reads the other one any more
      const bool is_last = step + 1 == steps;
      if (is_last) cell.begin_tile(shape, strip, tile + 1);
      if (!is_last || tile + 1 < strip.tiles) begin_step(is_last ? 0 : step + 1, next);
      if (works) patch.add(*stage, warp, lane);
      CellStage<T>* read = stage;
      stage = next;
      next = read;
    }
    // The stage that was read last is free until the barrier after which the copies of the step after next begin.
    __syncthreads();  // no thread reads it any more
    patch.pass_edges(next, warp, lane);
    const CellResults<T> results(arrays, shape, strip, tile);
    if (shape.channels_last) {
      results.write_channels_last(patch, warp, lane);
    } else {
      results.write_rows(patch, next, warp, lane);
    }
    patch.go_down(strip.bias[lane]);
  }
}

}  // namespace segext
