// Upsampling without mixing channels, for convolution kernels that span at most two strides, e.g. all bilinear ones.
//
//   depthwise_conv_transpose2d_cells_kernel
//
// Little is computed for each byte that is written, so threads must not wait for memory. A block has its weights in
// shared memory for all its work, and while it writes one strip (cell_division.cuh), the input of the next one is
// copied there. What does not exist, of the input or of the taps, is zero there, so that few cases need to be told
// apart.
#pragma once

#include <type_traits>

#include "cell_division.cuh"
#include "depthwise_conv_transpose2d.cuh"

namespace segext {

// What a block works on.
struct CellBlock {
  int32_t first_channel, chunk, phase, phases;
  int32_t first_cell, end_cell;  // those with rows in the output
  int32_t first_column;          // of the input: that of the first element of tile 0
  int32_t first_strip, in_wave;  // the wave's first strip, and the block's place in the wave

  __device__ __forceinline__ CellBlock(const CellDivision& division, const UpsamplingShape<int32_t>& shape,
                                       int32_t lanes) {
    const Axis<int32_t>& rows = shape.rows;
    int32_t weights, phase_group;
    const int32_t part = division.by_weights.divide(static_cast<int32_t>(blockIdx.x), &weights);
    const int32_t slice = division.by_chunks.divide(division.by_phase_groups.divide(weights, &phase_group), &chunk);
    first_channel = slice * division.slice;
    phase = phase_group * division.phases;
    phases = phase + division.phases < rows.stride ? division.phases : rows.stride - phase;
    const int32_t before = rows.origin - (phase + phases - 1);
    first_cell = before <= 0 ? 0 : rows.by_stride.quotient(before + rows.stride - 1);
    const int32_t last_row = rows.origin + rows.pixels - 1 - phase;
    end_cell = last_row < 0 ? 0 : rows.by_stride.quotient(last_row) + 1;
    const int32_t x = division.by_slice.quotient(chunk * division.chunk_runs * lanes);
    first_column = shape.columns.by_stride.quotient(x + shape.columns.origin);
    first_strip = division.by_parts.divide(part, &in_wave) * division.wave_strips;
  }
};

// Up to strip_quads quads of cells of a tile.
struct UpsamplingStrip {
  int32_t sample, tile, first_cell;
  int32_t quads;  // 0 if there is no such strip

  // The strip of a group in a round.
  __device__ __forceinline__ UpsamplingStrip(const CellDivision& division, const CellBlock& block, int32_t round,
                                             int32_t group) {
    const int32_t strip_in_wave = (round * division.parts + block.in_wave) * division.groups + group;
    const int32_t number = block.first_strip + strip_in_wave;
    const bool exists = group < division.groups && strip_in_wave < division.wave_strips && number < division.strips;
    int32_t in_column;
    sample = division.by_column_strips.divide(division.by_tiles.divide(number, &tile), &in_column);
    const int32_t first_quad = in_column * division.strip_quads, left = division.column_quads - first_quad;
    first_cell = block.first_cell + first_quad * CellDivision::kTogether;
    quads = !exists ? 0 : left < division.strip_quads ? left : division.strip_quads;
  }
};

// The columns of tiles, in pixels of the output and of the input.
template <int kLanes>
struct TileColumns {
  int32_t pixels, columns;  // from one tile to the next

  __device__ __forceinline__ TileColumns(const CellDivision& division, const UpsamplingShape<int32_t>& shape)
      : pixels(division.by_slice.quotient(division.tile_periods * division.period_runs * kLanes)),
        columns(shape.columns.by_stride.quotient(pixels)) {}

  // The first position of input that the copy for a tile holds: that of the column to the left of the tile's first one,
  // which may not exist.
  __device__ __forceinline__ int32_t first_position(const CellDivision& division, const CellBlock& block,
                                                    int32_t tile) const {
    const int32_t left = (block.first_column + tile * columns - 1) * division.input_slice;
    const int32_t before = division.positions_before;
    return division.by_position_elements.quotient(left + before * division.position_elements) - before;
  }
};

// Copies the input of strips to shared memory: one row for each cell and the one above.
template <typename T, int kLanes>
class StripCopier {
 public:
  // `in_tile` is the number of the thread among those that copy.
  __device__ __forceinline__ StripCopier(const T* input, const UpsamplingShape<int32_t>& shape,
                                         const CellDivision& division, const CellBlock& block, int32_t in_tile)
      : shape_(shape), division_(division), block_(block), tiles_(division, shape) {
    const int32_t channel = shape.by_multiplier.quotient(block.first_channel);
    input_ = input + channel * int64_t{shape.input.channel_stride};
    first_row_ = division.by_row_pieces.divide(in_tile, &first_piece_);
  }

  // The copy is complete after ptx::wait_for_copies and a barrier.
  __device__ __forceinline__ void copy(const UpsamplingStrip& strip, T* to) const {
    if (strip.quads == 0) return;
    const int32_t bytes = division_.piece_elements * static_cast<int32_t>(sizeof(T));
    if (bytes == kVectorBytes) {
      copy_pieces<kVectorBytes>(strip, to);
    } else if constexpr (sizeof(T) == 2) {
      if (bytes == 4) {
        copy_pieces<4>(strip, to);
      } else {
        copy_pieces<2>(strip, to);
      }
    } else {
      copy_pieces<sizeof(T)>(strip, to);
    }
  }

 private:
  template <int kBytes>
  __device__ __forceinline__ void copy_pieces(const UpsamplingStrip& strip, T* to) const {
    // cp.async copies no less than four bytes. Of smaller pieces, some are loaded before the first is stored.
    constexpr bool kAsynchronous = kBytes >= 4;
    constexpr int kBatch = kAsynchronous ? 1 : 4;
    const T* const sample = input_ + strip.sample * static_cast<int64_t>(shape_.input.elements);
    const int32_t first_position = tiles_.first_position(division_, block_, strip.tile);
    const int32_t rows = strip.quads * CellDivision::kTogether + 1;
    int32_t row = first_row_, piece = first_piece_;
    while (row < rows) {
      T* places[kBatch];
      T elements[kBatch] = {};
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        int32_t in_position;
        const int32_t position = first_position + division_.by_position_pieces.divide(piece, &in_position);
        const int32_t h = strip.first_cell - 1 + row;
        const bool exists = static_cast<uint32_t>(h) < static_cast<uint32_t>(shape_.rows.windows) &&
                            static_cast<uint32_t>(position) < static_cast<uint32_t>(division_.positions);
        const T* from = sample + (h * int64_t{shape_.input.row_stride} + position * division_.position_step +
                                  in_position * division_.piece_elements);
        places[k] = row < rows ? to + row * division_.pitch + piece * division_.piece_elements : nullptr;
        if constexpr (!kAsynchronous) {
          if (exists && row < rows) elements[k] = *from;
        } else if (exists) {
          ptx::copy_async<kBytes>(places[k], from);
        } else {
          store_vector(places[k], Lanes<T, kBytes / static_cast<int>(sizeof(T))>{});
        }
        row += division_.step_rows;
        piece += division_.step_pieces;
        if (piece >= division_.row_pieces) {
          piece -= division_.row_pieces;
          ++row;
        }
      }
      if constexpr (!kAsynchronous) {
#pragma unroll
        for (int k = 0; k < kBatch; ++k) {
          if (places[k] != nullptr) *places[k] = elements[k];
        }
      }
    }
  }

  const UpsamplingShape<int32_t>& shape_;
  const CellDivision& division_;
  const CellBlock& block_;
  const TileColumns<kLanes> tiles_;
  const T* input_;  // of the block's slice
  int32_t first_row_, first_piece_;
};

// The weights of a block in shared memory: [phases, kWeights, chunk_runs * kLanes], with zero where there is no tap.
template <typename T, int kLanes>
class CellWeights {
  using Wide = WideOf<T>;
  static constexpr int kWeights = CellDivision::kWeights, kBatch = CellDivision::kBatch;

 public:
  // They are staged after a barrier.
  //
  // Neighbouring columns of one channel have neighbouring weights, but in channels_last they are a pixel apart in the
  // output, and neighbouring channels have weights a whole kernel apart. A warp that staged neighbouring elements would
  // read as many sectors as it has lanes; its tile of columns and channels takes few sectors and uses all of them.
  __device__ __forceinline__ static void stage(const T* weight, const UpsamplingShape<int32_t>& shape,
                                               const CellDivision& division, const CellBlock& block, Wide* staged) {
    const int32_t elements = division.chunk_runs * kLanes;
    const int32_t warp = static_cast<int32_t>(threadIdx.x) / Launch::kWarpThreads;
    const int32_t lane = static_cast<int32_t>(threadIdx.x) % Launch::kWarpThreads;
    const int32_t lane_column = lane & ((1 << division.column_bits) - 1), lane_channel = lane >> division.column_bits;
    const int32_t batches = division.by_batches.divisor();
    for (int32_t item = warp; item < division.weight_tiles * batches;
         item += static_cast<int32_t>(blockDim.x) / Launch::kWarpThreads) {
      int32_t batch, channel_tile;
      const int32_t tile = division.by_batches.divide(item, &batch);
      const int32_t column_tile = division.by_channel_tiles.divide(tile, &channel_tile);
      const int32_t in_pixel = channel_tile * (Launch::kWarpThreads >> division.column_bits) + lane_channel;
      const int32_t e = ((column_tile << division.column_bits) + lane_column) * division.slice + in_pixel;
      if (in_pixel >= division.slice || e >= elements) continue;
      int32_t channel, column_phase;
      const int32_t x = division.by_slice.divide(block.chunk * elements + e, &channel);
      shape.columns.by_stride.divide(x + shape.columns.origin, &column_phase);
      const T* kernel = weight + (block.first_channel + channel) * (shape.rows.kernel * shape.columns.kernel);
      const int32_t first = batch * kBatch;
      Wide* to = staged + kWeights * first * elements + e;
      if (first + kBatch <= block.phases && shape.rows.dilation == 1) {
        stage_batch<kBatch>(kernel, shape, column_phase, block.phase + first, to, elements);
      } else {
        for (int32_t k = first; k < block.phases && k < first + kBatch; ++k, to += kWeights * elements) {
          stage_batch<1>(kernel, shape, column_phase, block.phase + k, to, elements);
        }
      }
    }
  }

 private:
  // Stages the weights of kCount phases of one element, from `phase` on; of several only if the rows of the kernel are
  // not dilated.
  template <int kCount>
  __device__ __forceinline__ static void stage_batch(const T* kernel, const UpsamplingShape<int32_t>& shape,
                                                     int32_t column_phase, int32_t phase, Wide* to, int32_t elements) {
    T weights[kCount][kWeights] = {};
#pragma unroll
    for (int left = 0; left < 2; ++left) {
      const int32_t j = shape.columns.tap_at(column_phase + left * shape.columns.stride);
      const T* taps = kernel + (j < 0 ? 0 : j);
      const uint32_t rows = j < 0 ? 0 : static_cast<uint32_t>(shape.rows.kernel);
#pragma unroll
      for (int b = 0; b < kCount; ++b) {
#pragma unroll
        for (int above = 0; above < 2; ++above) {
          const int32_t distance = phase + b + above * shape.rows.stride;
          const int32_t i = kCount > 1 ? distance : shape.rows.tap_at(distance);
          const T* tap = ptx::keep(taps + i * int64_t{shape.columns.kernel});
          if (static_cast<uint32_t>(i) < rows) weights[b][2 * above + left] = *tap;
        }
      }
    }
#pragma unroll
    for (int b = 0; b < kCount; ++b) {
#pragma unroll
      for (int k = 0; k < kWeights; ++k, to += elements) *to = Element<T>::widen(weights[b][k]);
    }
  }
};

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
