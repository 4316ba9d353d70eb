// Upsampling without mixing channels, for convolution kernels that span at most two strides, e.g. all bilinear ones.
//
//   depthwise_conv_transpose2d_cells_kernel
//
// Little is computed for each byte that is written, so threads must not wait for memory. A block has its weights in
// shared memory for all its work (cell_weights.cuh), and while it writes one strip (cell_division.cuh), the input of
// the next one is copied there (strip_copier.cuh). What does not exist, of the input or of the taps, is zero there, so
// that few cases need to be told apart.
#pragma once

#include <type_traits>

#include "cell_weights.cuh"
#include "depthwise_conv_transpose2d.cuh"
#include "strip_copier.cuh"

namespace segext {

// A thread's run, in the tiles of all its strips. It writes kLanes neighbouring elements in each row of the block's
// phases:
//
//     input rows      h - 1   . a b .        output    A A A A     row h * s + phase         one store
//                     h       . c d .                  A A A A     row h * s + phase + 1     one store
//                                                      ...         as many phases as the block has
//                     h + 1   . e f .                  B B B B     row (h + 1) * s + phase
//
// For each cell, it reads two elements per lane of one new row of input. For each phase, it reads the weights, four
// vectors, once for all cells of a quad.
template <typename T, int kLanes, bool kAdds>
class StripWriter {
  using Wide = WideOf<T>;
  using Weights = Lanes<Wide, kLanes>;
  using Run = Lanes<T, kLanes>;
  static constexpr int kTogether = CellDivision::kTogether;
  // The number of phases whose addends are on their way.
  static constexpr int kAhead = kAdds ? 2 : 1;

 public:
  __device__ __forceinline__ StripWriter(const UpsamplingArrays<T>& arrays, const UpsamplingShape<int32_t>& shape,
                                         const CellDivision& division, const CellBlock& block, const Wide* weights,
                                         AddendSteps addend_steps, bool addend_in_lanes, int32_t in_tile)
      : arrays_(arrays),
        shape_(shape),
        division_(division),
        block_(block),
        tiles_(division, shape),
        addend_steps_(addend_steps),
        addend_in_lanes_(addend_in_lanes) {
    int32_t in_chunk;
    const int32_t tile_period = division.by_chunk_runs.divide(in_tile, &in_chunk);
    const int32_t in_period = block.chunk * division.chunk_runs + in_chunk;
    exists_ = in_period < division.period_runs;
    run_ = tile_period * division.period_runs + in_period;
    weights_ = weights + in_chunk * kLanes;
    int32_t channel, x = division.by_slice.divide(run_ * kLanes, &channel);
    output_ = x * shape.output.column_stride + channel;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      int32_t column_phase;
      const int32_t column = shape.columns.by_stride.divide(x + shape.columns.origin, &column_phase);
      own_[lane] = column * division.input_slice + shape.by_multiplier.quotient(channel);
      bias_[lane] = Wide{0};
      if (arrays.bias != nullptr) bias_[lane] = Element<T>::widen(arrays.bias[block.first_channel + channel]);
#pragma unroll
      for (int left = 0; left < 2; ++left) {
        const bool tap = shape.columns.tap_at(column_phase + left * shape.columns.stride) >= 0;
        taps_ |= static_cast<uint32_t>(tap) << (2 * lane + left);
      }
      if (++channel == division.slice) {
        channel = 0;
        ++x;
      }
    }
  }

  // Writes a strip, whose input has been copied to `input`.
  __device__ __forceinline__ void write(const UpsamplingStrip& strip, const T* input) const {
    const int32_t tile_run = strip.tile * division_.tile_periods * division_.period_runs;
    if (strip.quads == 0 || !exists_ || tile_run + run_ >= division_.row_runs) return;
    const int32_t stride = shape_.rows.stride, row_step = shape_.output.row_stride;
    const int64_t quad_rows = kTogether * int64_t{stride};
    const int32_t strip_end = strip.first_cell + strip.quads * kTogether;
    const int32_t end = strip_end < block_.end_cell ? strip_end : block_.end_cell;
    int32_t y = strip.first_cell * stride + block_.phase - shape_.rows.origin;  // the quad's first row
    T* output = arrays_.output + start(strip, y, shape_.output.elements, shape_.output.channel_stride, row_step);
    const T* addend = arrays_.addend;
    if (kAdds) {
      addend += shape_.output.channels_last
                    ? start(strip, y, addend_steps_.plane, 1, addend_steps_.row)
                    : start(strip, y, addend_steps_.plane * shape_.channels, addend_steps_.plane, addend_steps_.row);
    }
    // Where the lanes' own columns are in the copy's next row; it begins with the first element of its first position.
    const int32_t first_position = tiles_.first_position(division_, block_, strip.tile);
    input += strip.tile * tiles_.columns * division_.input_slice - first_position * division_.position_elements;
    const T* own[kLanes];
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) own[lane] = input + own_[lane];

    Wide rows[kTogether + 1][2 * kLanes];  // of input: the one above the quad, then those of its cells
    load_row(own, 0, rows[0]);
    Weights own_weight = load_weights(weights_, 0), left_weight = load_weights(weights_, 1);
    Run added[kAhead][kTogether] = {};
    if (kAdds) {
#pragma unroll
      for (int p = 0; p < kAhead; ++p) {
        if (p < block_.phases) load_addends(addend, y, p, added[p]);
      }
    }

    // Writes a quad. With `whole`, a std::bool_constant, all its rows exist, and all taps.
    const auto write_quad = [&](bool is_last, auto whole) {
      constexpr bool kWhole = decltype(whole)::value;
      const Wide* weights = weights_;
      T* row = output;
      const auto write_phase = [&](int32_t p, Run(&addends)[kTogether]) {
        const bool own_tap = kWhole || division_.every_tap || tap_row(shape_.rows, block_.phase + p, 0) >= 0;
        const bool above_tap = kWhole || division_.every_tap || tap_row(shape_.rows, block_.phase + p, 1) >= 0;
        // Weights are loaded half a phase before they are used.
        const Weights own_above = load_weights(weights, 2), left_above = load_weights(weights, 3);
        weights = p + 1 < block_.phases ? weights + CellDivision::kWeights * division_.chunk_runs * kLanes : weights_;
        Wide sums[kTogether][kLanes];
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
#pragma unroll
          for (int lane = 0; lane < kLanes; ++lane) {
            sums[k][lane] = bias_[lane];
            if (!own_tap) continue;
            sums[k][lane] = multiply_add(rows[k + 1][2 * lane + 1], left_weight.lane[lane], sums[k][lane]);
            sums[k][lane] = multiply_add(rows[k + 1][2 * lane], own_weight.lane[lane], sums[k][lane]);
          }
        }
        own_weight = load_weights(weights, 0);
        left_weight = load_weights(weights, 1);
        T* to = row;
#pragma unroll
        for (int k = 0; k < kTogether; ++k, to += stride * int64_t{row_step}) {
          Run result;
#pragma unroll
          for (int lane = 0; lane < kLanes; ++lane) {
            Wide sum = sums[k][lane];
            if (above_tap) {
              sum = multiply_add(rows[k][2 * lane + 1], left_above.lane[lane], sum);
              sum = multiply_add(rows[k][2 * lane], own_above.lane[lane], sum);
            }
            if (kAdds) sum += Element<T>::widen(addends[k].lane[lane]);
            result.lane[lane] = Element<T>::narrow(sum);
          }
          if (kWhole || shape_.rows.contains(y + k * stride + p)) store_vector(to, result);
        }
        row += row_step;
        if (kAdds) {
          const bool is_of_next = p + kAhead >= block_.phases;
          if (!is_of_next) {
            load_addends(addend, y, p + kAhead, addends);
          } else if (!is_last) {
            load_addends(addend, y, static_cast<int32_t>(quad_rows) + p % kAhead, addends);
          }
        }
      };
#pragma unroll 1
      for (int32_t p = 0; p < block_.phases; p += kAhead) {
#pragma unroll
        for (int ahead = 0; ahead < kAhead; ++ahead) {
          if (ahead == 0 || p + ahead < block_.phases) write_phase(p + ahead, added[ahead]);
        }
      }
    };

#pragma unroll 1
    for (int32_t h = strip.first_cell; h < end; h += kTogether) {
#pragma unroll
      for (int k = 1; k <= kTogether; ++k) load_row(own, k * division_.pitch, rows[k]);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) own[lane] += kTogether * division_.pitch;
      // Where groups share a warp, they might differ in what is whole, and the warp would take both branches.
      const bool is_whole = division_.every_tap && division_.whole_warps && y >= 0 &&
                            y + (kTogether - 1) * stride + block_.phases <= shape_.rows.pixels;
      if (is_whole) {
        write_quad(h + kTogether >= end, std::true_type{});
      } else {
        write_quad(h + kTogether >= end, std::false_type{});
      }
      y += static_cast<int32_t>(quad_rows);
      output += quad_rows * row_step;
      if (kAdds) addend += quad_rows * addend_steps_.row;
#pragma unroll
      for (int i = 0; i < 2 * kLanes; ++i) rows[0][i] = rows[kTogether][i];
    }
  }

 private:
  // The offset of the run's first element in row y, in an array with these steps.
  __device__ __forceinline__ int64_t start(const UpsamplingStrip& strip, int32_t y, int64_t sample_step,
                                           int64_t channel_step, int64_t row_step) const {
    return strip.sample * sample_step + block_.first_channel * channel_step + y * row_step +
           (strip.tile * tiles_.pixels * shape_.output.column_stride + output_);
  }

  __device__ __forceinline__ Weights load_weights(const Wide* of_phase, int number) const {
    return load_vector<Weights>(of_phase + number * division_.chunk_runs * kLanes);
  }

  // Loads what the lanes see of a row of input: the element in the own column and the one to the left.
  __device__ __forceinline__ void load_row(const T* const (&own)[kLanes], int32_t offset,
                                           Wide (&values)[2 * kLanes]) const {
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      const T* at = own[lane] + offset;
      values[2 * lane] = Element<T>::widen(*at);
      values[2 * lane + 1] = Element<T>::widen(*(at - division_.input_slice));
    }
    if (!division_.every_tap) {  // the products of zero weights and infinite elements would not be zero
#pragma unroll
      for (int i = 0; i < 2 * kLanes; ++i) values[i] = (taps_ >> i & 1) != 0 ? values[i] : Wide{0};
    }
  }

  // Loads the addends of row y + first of the output and of the rows one, two, three strides below it, as far as these
  // rows exist. `addend` is that of row y.
  __device__ __forceinline__ void load_addends(const T* addend, int32_t y, int32_t first, Run (&to)[kTogether]) const {
#pragma unroll
    for (int k = 0; k < kTogether; ++k, first += shape_.rows.stride) {
      if (!shape_.rows.contains(y + first)) continue;
      const T* from = addend + first * addend_steps_.row;
      if (addend_in_lanes_) {
        to[k] = load_vector<Run>(from);
      } else {
#pragma unroll
        for (int lane = 0; lane < kLanes; ++lane) to[k].lane[lane] = from[lane];
      }
    }
  }

  const UpsamplingArrays<T>& arrays_;
  const UpsamplingShape<int32_t>& shape_;
  const CellDivision& division_;
  const CellBlock& block_;
  const TileColumns<kLanes> tiles_;
  const AddendSteps addend_steps_;
  const bool addend_in_lanes_;
  bool exists_;
  int32_t run_, output_;  // the run's number in the row, and its offset there, both in tile 0
  const Wide* weights_;   // of the block's first phase
  int32_t own_[kLanes];   // in a row of the input: the lanes' own columns in tile 0
  Wide bias_[kLanes];
  uint32_t taps_ = 0;  // bits 2 * lane and 2 * lane + 1: whether own and left column have a tap
};

// The number of blocks of kBlockThreads threads per multiprocessor: as many as registers allow.
template <typename T, int kLanes, bool kAdds>
inline constexpr int kMinCellBlocks = kLanes > 2 || sizeof(T) == 8 || (kAdds && kLanes == 2) ? 2 : 3;

// A block has as few warps as its groups of threads need.
template <typename T, int kLanes, bool kAdds>
__global__ void __launch_bounds__(Launch::kBlockThreads, kMinCellBlocks<T, kLanes, kAdds>)
    depthwise_conv_transpose2d_cells_kernel(UpsamplingArrays<T> arrays, UpsamplingShape<int32_t> shape,
                                            CellDivision division, AddendSteps addend_steps, bool addend_in_lanes) {
  using Wide = WideOf<T>;
  const CellBlock block(division, shape, kLanes);
  int32_t in_tile;
  const int32_t group = division.by_tile_runs.divide(static_cast<int32_t>(threadIdx.x), &in_tile);

  Wide* const weights = dynamic_shared_memory<Wide>();
  const int32_t strip_elements = (division.strip_quads * CellDivision::kTogether + 1) * division.pitch;
  T* const input =
      reinterpret_cast<T*>(weights + division.phases * CellDivision::kWeights * division.chunk_runs * kLanes) +
      group * strip_elements;  // for this group, twice
  const auto buffer = [&](int32_t round) { return input + (round % 2) * division.groups * strip_elements; };

  const StripCopier<T, kLanes> copier(arrays.input, shape, division, block, in_tile);
  UpsamplingStrip strip(division, block, 0, group);
  copier.copy(strip, buffer(0));
  CellWeights<T, kLanes>::stage(arrays.weight, shape, division, block, weights);
  const StripWriter<T, kLanes, kAdds> writer(arrays, shape, division, block, weights, addend_steps, addend_in_lanes,
                                             in_tile);
  for (int32_t round = 0; round < division.rounds; ++round) {
    ptx::wait_for_copies();
    __syncthreads();
    const UpsamplingStrip next(division, block, round + 1, group);
    copier.copy(next, buffer(round + 1));
    writer.write(strip, buffer(round));
    strip = next;
  }
}

}  // namespace segext
