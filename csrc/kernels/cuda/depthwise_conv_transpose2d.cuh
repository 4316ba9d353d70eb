// Kernels of upsampling without mixing channels. Each output element is written once, by one thread, and no
// intermediate results are stored.
//
//   depthwise_conv_transpose2d_cells_kernel   convolution kernels that span at most two strides, e.g. all bilinear ones
//   depthwise_conv_transpose2d_kernel         everything else: one element per thread, coalesced along the output
#pragma once

#include <algorithm>
#include <numeric>
#include <type_traits>

#include "upsampling.cuh"

namespace segext {

// The number of elements of a pixel that are adjacent in memory.
inline int64_t depth_of(const Upsampling& g) { return g.channels_last ? g.channels : 1; }

template <typename T>
struct ScoreArrays {
  const T* __restrict__ input;
  const T* __restrict__ weight;
  const T* __restrict__ bias;    // or null
  const T* __restrict__ addend;  // or null; points to its origin
  T* __restrict__ output;
};

// The strides of an addend, in elements: from one row to the next, and from one plane (one sample in channels_last) to
// the next.
struct AddendSteps {
  int64_t row, plane;
};

// What a thread's lanes see of one row of input: for each lane, the element in its own column and the one to the left.
template <typename Wide, int kLanes>
struct InputRow {
  Wide own[kLanes], left[kLanes];
};

// Runs of kLanes neighbouring elements in the rows of the output. The weights that runs need repeat after a *class* of
// runs (in NCHW with a stride of 8 and four lanes, after two). All threads of a block belong to one unit of cells and
// one *chunk* of the class, so the block stages the weights of its phases once, in the order in which runs read them.
template <typename T, int kLanes, bool kChannelsLast>
struct LaneRuns {
  using Wide = typename Element<T>::Wide;
  static constexpr int kWeights = 4;  // per phase: for the cell's input row, own and left; then for the row above
  static constexpr int64_t kRunBytes = kWeights * kLanes * static_cast<int64_t>(sizeof(Wide));  // and per phase
  static constexpr int kBatch = 4;
  Divisor<int32_t> by_chunks, by_chunk_runs;
  int32_t runs, class_runs, chunk_runs;  // in a row of the output, in a class, in a chunk
  // A warp stages *tiles* of a chunk, some neighbouring columns of some neighbouring channels, each for a batch of
  // kBatch phases at a time.
  Divisor<int32_t> by_batches, by_channel_tiles;
  int32_t tiles, column_bits;  // in a chunk; binary logarithm of a tile's columns

  LaneRuns(const Upsampling& g, int64_t chunks, int64_t phases)
      : by_chunks(chunks),
        by_chunk_runs(ceil_divide(class_size(g), chunks)),
        runs(static_cast<int32_t>(row_size(g))),
        class_runs(static_cast<int32_t>(class_size(g))),
        chunk_runs(static_cast<int32_t>(ceil_divide(class_size(g), chunks))),
        by_batches(ceil_divide(phases, kBatch)) {
    // A chunk that is smaller than a pixel has part of one column.
    const int64_t elements = int64_t{chunk_runs} * kLanes, chunk_depth = std::min(depth_of(g), elements);
    const int64_t columns = ceil_divide(elements, chunk_depth);
    // In NCHW, a tile has the columns of one channel; lanes without a column idle. In channels_last, it has up to eight
    // columns, whose float32 weights fill a sector, of as many channels as there are lanes for.
    const int most_bits = kChannelsLast ? 3 : 5;
    column_bits = 0;
    while (column_bits < most_bits && columns > int64_t{1} << column_bits) ++column_bits;
    const int64_t channel_tiles = ceil_divide(chunk_depth, kChannelsLast ? Launch::kWarpThreads >> column_bits : 1);
    by_channel_tiles = Divisor<int32_t>(channel_tiles);
    tiles = static_cast<int32_t>(channel_tiles * ceil_divide(columns, int64_t{1} << column_bits));
  }

  static int64_t row_size(const Upsampling& g) { return g.output_width * depth_of(g) / kLanes; }
  static int64_t class_size(const Upsampling& g) {
    return std::lcm(g.stride_w * depth_of(g), int64_t{kLanes}) / kLanes;
  }

  // The number of runs that a unit has for one chunk, the last of them possibly beyond the row.
  int64_t unit_runs() const { return ceil_divide(runs, class_runs) * chunk_runs; }

  // The place of an element in a row of the output: its cell's column, its column phase and its channel.
  struct Column {
    int32_t w, phase, channel;

    __device__ __forceinline__ Column(const UpsamplingShape<int32_t>& shape, int32_t element, int32_t plane) {
      if (kChannelsLast) {
        element = shape.by_channels.divide(element, &channel);
      } else {
        shape.by_channels.divide(plane, &channel);
      }
      w = shape.columns.by_stride.divide(element + shape.columns.padding, &phase);
    }
  };

  // Turns what Cells gives a thread, with the plane and the chunk in one number, into its plane and its run of the row.
  // Returns the first run of the chunk.
  __device__ __forceinline__ int32_t place(Cells::Thread& at, int32_t& in_chunk) const {
    int32_t chunk;
    at.plane = by_chunks.divide(at.plane, &chunk);
    const int32_t of_class = by_chunk_runs.divide(at.run, &in_chunk), first = chunk * chunk_runs;
    at.run = of_class * class_runs + first + in_chunk;
    at.present = at.present && first + in_chunk < class_runs && at.run < runs;
    return first;
  }

  // Stages weights as [phases, kWeights, chunk_runs * kLanes], with zero where there is no tap, from run `first_run` of
  // the row on. All threads of the block must call this.
  //
  // Neighbouring columns of one channel have neighbouring weights, but in channels_last they are a pixel apart in the
  // output, and neighbouring channels have weights a whole kernel apart. A warp that staged neighbouring elements would
  // read as many sectors as it has lanes; its tile takes few sectors and uses all of them.
  __device__ __forceinline__ void stage(const ScoreArrays<T>& arrays, const UpsamplingShape<int32_t>& shape,
                                        const Cells::Thread& at, int32_t first_run, int32_t phases) const {
    const int32_t elements = chunk_runs * kLanes, depth = kChannelsLast ? shape.channels : 1;
    const int32_t lane = static_cast<int32_t>(threadIdx.x) % Launch::kWarpThreads;
    const int32_t lane_column = lane & ((1 << column_bits) - 1), lane_channel = lane >> column_bits;
    const int32_t batches = (phases + kBatch - 1) / kBatch;
    for (int32_t item = static_cast<int32_t>(threadIdx.x) / Launch::kWarpThreads; item < tiles * batches;
         item += Launch::kBlockWarps) {
      int32_t batch, channel_tile;
      const int32_t column_tile = by_channel_tiles.divide(by_batches.divide(item, &batch), &channel_tile);
      const int32_t in_pixel = channel_tile * (Launch::kWarpThreads >> column_bits) + lane_channel;
      const int32_t e = ((column_tile << column_bits) + lane_column) * depth + in_pixel;
      if (in_pixel >= depth || e >= elements) continue;
      const Column column(shape, first_run * kLanes + e, at.plane);
      const int32_t p = batch * kBatch;
      Wide* to = dynamic_shared_memory<Wide>() + kWeights * p * elements + e;
      if (p + kBatch <= phases && shape.rows.dilation == 1) {
        stage_batch<kBatch>(arrays, shape, column, at.phase + p, to);
      } else {
        for (int32_t k = p; k < phases; ++k, to += kWeights * elements) {
          stage_batch<1>(arrays, shape, column, at.phase + k, to);
        }
      }
    }
    __syncthreads();
  }

 private:
  // Stages the weights of kCount phases of one element, from `phase` on; of several only if the rows of the kernel are
  // not dilated.
  template <int kCount>
  __device__ __forceinline__ void stage_batch(const ScoreArrays<T>& arrays, const UpsamplingShape<int32_t>& shape,
                                              const Column& column, int32_t phase, Wide* to) const {
    T weights[kCount][kWeights] = {};
#pragma unroll
    for (int left = 0; left < 2; ++left) {
      const int32_t j = shape.columns.tap_at(column.phase + left * shape.columns.stride);
      const T* taps = arrays.weight + (column.channel * shape.rows.kernel * shape.columns.kernel + (j < 0 ? 0 : j));
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
      for (int k = 0; k < kWeights; ++k, to += chunk_runs * kLanes) *to = Element<T>::widen(weights[b][k]);
    }
  }
};

// The element `bytes` after an address. An unsigned offset in bytes takes the fewest instructions.
template <typename T>
__device__ __forceinline__ const T* at_bytes(const T* address, uint32_t bytes) {
  return reinterpret_cast<const T*>(reinterpret_cast<const char*>(address) + bytes);
}

// Reads the input for a thread's lanes, row by row: in each row, the lanes' own columns and the columns to the left of
// them. In NCHW, the lanes lie in at most two cells, so these are kColumns columns for all of them.
template <typename T, int kLanes, bool kChannelsLast>
class InputColumns {
  using Wide = typename Element<T>::Wide;
  using Column = typename LaneRuns<T, kLanes, kChannelsLast>::Column;
  static constexpr int kColumns = 3;

 public:
  using Row = InputRow<Wide, kLanes>;
  // The elements of a row as they are loaded: in NCHW by column, in channels_last by lane, own and left.
  using Loaded = T[kChannelsLast ? 2 * kLanes : kColumns];

  __device__ __forceinline__ InputColumns(const ScoreArrays<T>& arrays, const UpsamplingShape<int32_t>& shape,
                                          const Cells::Thread& at)
      : row_step_(shape.input.row_stride), column_step_(shape.input.column_stride) {
    Column column(shape, at.run * kLanes, at.plane);
    first_ = arrays.input;
    first_ += kChannelsLast ? at.plane * static_cast<int64_t>(shape.input.elements)
                            : shape.by_multiplier.quotient(at.plane) * static_cast<int64_t>(shape.input.channel_stride);
    const auto exists = [&](int32_t w) { return w >= 0 && w < shape.columns.pooled_size; };
    if constexpr (!kChannelsLast) {
      first_ += column.w - 1;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) present_ |= static_cast<uint32_t>(exists(column.w - 1 + c)) << c;
    }
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      if (kChannelsLast) {
        const int32_t w = column.w <= shape.columns.pooled_size ? column.w : 0;  // far columns could exceed int32_t
        const int32_t element = w * shape.input.column_stride + shape.by_multiplier.quotient(column.channel);
        offset_[lane] = static_cast<uint32_t>(element) * sizeof(T);
      }
      if (kChannelsLast || lane == 0) {
        bias_[lane] = arrays.bias == nullptr ? Wide{0} : Element<T>::widen(arrays.bias[column.channel]);
      }
#pragma unroll
      for (int left = 0; left < 2; ++left) {
        const bool tap = shape.columns.tap_at(column.phase + left * shape.columns.stride) >= 0;
        taps_ |= static_cast<uint32_t>(tap) << (2 * lane + left);
        if (kChannelsLast) present_ |= static_cast<uint32_t>(tap && exists(column.w - left)) << (2 * lane + left);
      }
      if (!kChannelsLast || ++column.channel == shape.channels) {
        column.channel = kChannelsLast ? 0 : column.channel;
        if (++column.phase == shape.columns.stride) {
          column.phase = 0;
          ++column.w;
          crossing_ = lane + 1 < crossing_ ? lane + 1 : crossing_;
        }
      }
    }
  }

  // Loads row h, which exists. It does not wait, so that the loads of several rows are in flight together.
  __device__ __forceinline__ void load(int32_t h, Loaded& loaded) const {
    const T* row = ptx::keep(first_ + h * static_cast<int64_t>(row_step_));
    if constexpr (!kChannelsLast) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        loaded[c] = T{};
        if ((present_ >> c & 1) != 0) loaded[c] = row[c];
      }
    } else if (present_ == kAll) {
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        const T* own = at_bytes(row, offset_[lane]);
        loaded[2 * lane] = *own;
        loaded[2 * lane + 1] = *(own - column_step_);
      }
    } else {
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        loaded[2 * lane] = loaded[2 * lane + 1] = T{};
        const T* own = at_bytes(row, offset_[lane]);
        if ((present_ >> 2 * lane & 1) != 0) loaded[2 * lane] = *own;
        if ((present_ >> 2 * lane & 2) != 0) loaded[2 * lane + 1] = *(own - column_step_);
      }
    }
  }

  // What the lanes see of a row; zero where there is no column or no tap.
  __device__ __forceinline__ Row row_of(const Loaded& loaded) const {
    Row row;
    if constexpr (kChannelsLast) {
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        row.own[lane] = Element<T>::widen(loaded[2 * lane]);
        row.left[lane] = Element<T>::widen(loaded[2 * lane + 1]);
      }
    } else {
      Wide columns[kColumns];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) columns[c] = Element<T>::widen(loaded[c]);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        const bool crossed = lane >= crossing_;
        row.own[lane] = crossed ? columns[2] : columns[1];
        row.left[lane] = crossed ? columns[1] : columns[0];
      }
      if (taps_ != kAll) {
#pragma unroll
        for (int lane = 0; lane < kLanes; ++lane) {
          if ((taps_ >> 2 * lane & 1) == 0) row.own[lane] = Wide{0};
          if ((taps_ >> 2 * lane & 2) == 0) row.left[lane] = Wide{0};
        }
      }
    }
    return row;
  }

  // Row h, or zero if it does not exist.
  __device__ __forceinline__ Row read(int32_t h, bool exists) const {
    if (!exists) return Row{};
    Loaded loaded;
    load(h, loaded);
    return row_of(loaded);
  }

  __device__ __forceinline__ Wide bias(int lane) const { return bias_[kChannelsLast ? lane : 0]; }

 private:
  static constexpr uint32_t kAll = (1u << 2 * kLanes) - 1;

  Wide bias_[kChannelsLast ? kLanes : 1];
  const T* first_;  // the first row of the thread's plane; in NCHW, the leftmost column of it that the lanes see
  uint32_t offset_[kChannelsLast ? kLanes : 1];  // in channels_last, of the lanes' own columns in a row, in bytes
  uint32_t taps_ = 0;     // bits 2 * lane and 2 * lane + 1: whether own and left column have a tap
  uint32_t present_ = 0;  // in NCHW by column: whether it exists; in channels_last likewise, whether they exist too
  int32_t crossing_ = kLanes;       // in NCHW: the first lane in the next cell
  int32_t row_step_, column_step_;  // in elements, to the row below and to the column on the right
};

// The number of vertically adjacent cells whose rows of one phase a thread writes together, and the number of blocks
// per multiprocessor: as many as registers allow.
template <bool kAdds>
inline constexpr int kCellsTogether = kAdds ? 3 : 4;
template <typename T, int kLanes>
inline constexpr int kMinCellBlocks = kLanes > 2 || sizeof(T) == 8 ? 2
                                      : kLanes == 2                ? 3
                                                                   : 4;

// A thread writes kLanes neighbouring elements in each row of its unit's phases, in some vertically adjacent cells:
//
//     input rows      h - 1   . a b .        output    A A A A     row h * s + phase         one store
//                     h       . c d .                  A A A A     row h * s + phase + 1     one store
//                                                      ...         as many phases as weights are staged for
//                     h + 1   . e f .                  B B B B     row (h + 1) * s + phase
//
// For each cell, a thread reads one new row of input, three values in NCHW and two per lane in channels_last;
// neighbouring threads share these through the L1 cache. For each phase, it reads the weights, four vectors in shared
// memory, once for all cells that are written together. The rows of input of these cells are loaded together, and so
// are the addends for one row of each of them. With 4 lanes a store has 16 bytes (float32) or 8 (half types); the 32
// adjacent threads of a warp write whole sectors either way.
//
// In channels_last, the elements of a row are the channels of all its columns, and the lanes of a thread may span
// several columns.
template <typename T, int kLanes, bool kChannelsLast, bool kAdds>
__global__ void __launch_bounds__(Launch::kBlockThreads, kMinCellBlocks<T, kLanes>)
    depthwise_conv_transpose2d_cells_kernel(ScoreArrays<T> arrays, UpsamplingShape<int32_t> shape, Cells cells,
                                            LaneRuns<T, kLanes, kChannelsLast> runs, AddendSteps addend_steps,
                                            bool addend_in_lanes) {
  using Wide = typename Element<T>::Wide;
  using Weights = Lanes<Wide, kLanes>;
  using Row = InputRow<Wide, kLanes>;
  constexpr int kTogether = kCellsTogether<kAdds>;
  // Whether the input of the next cells is loaded ahead: where it takes few registers and blocks have many.
  constexpr bool kAhead = !kChannelsLast && kLanes > 2;
  using Columns = InputColumns<T, kLanes, kChannelsLast>;
  auto at = cells.thread();
  int32_t run_in_chunk;
  const int32_t first_run = runs.place(at, run_in_chunk);
  const auto row_exists = [&](int32_t h) { return h >= 0 && h < shape.rows.pooled_size; };
  const Columns columns(arrays, shape, at);
  // The row above the thread's cells is on its way while the block stages its weights.
  typename Columns::Loaded first_above;
  const bool has_above = at.present && row_exists(at.cell - 1);
  if (has_above) columns.load(at.cell - 1, first_above);
  runs.stage(arrays, shape, at, first_run, cells.phases);
  if (!at.present) return;

  const Wide* const weights = dynamic_shared_memory<Wide>() + run_in_chunk * kLanes;
  const int32_t weights_step = runs.chunk_runs * kLanes;
  const int32_t stride = shape.rows.stride;
  const int32_t phases = at.phase + cells.phases < stride ? cells.phases : stride - at.phase;
  // The first row of a cell, which may not exist.
  const auto first_row = [&](int32_t cell) { return cell * stride + at.phase - shape.rows.padding; };
  const int32_t element = at.run * kLanes, row_step = shape.output.row_stride;
  // From a cell to the next, if the output has as many rows. Otherwise the product might exceed int32_t.
  const int32_t cell_step = (stride < shape.rows.size ? stride : 0) * row_step;
  const int64_t plane = kChannelsLast ? shape.output.elements : shape.output.channel_stride;
  // In the first row of the next cell.
  T* output = arrays.output + (at.plane * plane + first_row(at.cell) * int64_t{row_step} + element);
  const T* addend = arrays.addend;
  if (kAdds) addend += at.plane * addend_steps.plane + first_row(at.cell) * addend_steps.row + element;

  const auto load_added = [&](int32_t row) {
    Lanes<T, kLanes> added{};
    if constexpr (kAdds) {
      const T* from = addend + row * addend_steps.row;
      if (addend_in_lanes) return load_vector<Lanes<T, kLanes>>(from);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) added.lane[lane] = from[lane];
    }
    return added;
  };
  const auto load_weights = [&](int32_t p, int number) {
    return load_vector<Weights>(weights + (runs.kWeights * p + number) * weights_step);
  };
  const auto start_sum = [&](Wide(&sum)[kLanes]) {
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] = columns.bias(lane);
  };
  const auto add_products = [](const Row& row, const Weights& own, const Weights& left, Wide(&sum)[kLanes]) {
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      sum[lane] = multiply_add(row.left[lane], left.lane[lane], sum[lane]);
      sum[lane] = multiply_add(row.own[lane], own.lane[lane], sum[lane]);
    }
  };
  const auto write = [](const Wide(&sum)[kLanes], const Lanes<T, kLanes>& added, T* to) {
    Lanes<T, kLanes> result;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      result.lane[lane] = Element<T>::narrow(kAdds ? sum[lane] + Element<T>::widen(added.lane[lane]) : sum[lane]);
    }
    store_vector(to, result);
  };

  Row rows[kTogether + 1];  // of input: the one above the next cell, then those of the next cells
  rows[0] = has_above ? columns.row_of(first_above) : Row{};

  typename Columns::Loaded loaded[kTogether];  // of the cells that load_cells loaded
  int32_t loaded_from = -1;                    // the first of these cells
  const auto load_cells = [&](int32_t h, int32_t count) {
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      if (k < count && h + k < shape.rows.pooled_size) {
        columns.load(h + k, loaded[k]);
      } else {
#pragma unroll
        for (T& element : loaded[k]) element = T{};
      }
    }
    loaded_from = h;
  };

  // Writes the next `count` cells, from h on, for which every output row and tap exists; a row of input that does not
  // exist is zero. First loads what the `next_count` cells after them see, if kAhead. With `full`, a
  // std::bool_constant, `count` is kTogether and the rows of these cells exist.
  const auto write_cells = [&](int32_t h, int32_t count, int32_t next_count, auto full) {
    const auto has = [&](int k) { return decltype(full)::value || k < count; };
    Lanes<T, kLanes> added[kTogether];
    if (!kAhead || loaded_from != h) {
      if (decltype(full)::value) {
#pragma unroll
        for (int k = 0; k < kTogether; ++k) columns.load(h + k, loaded[k]);
      } else {
        load_cells(h, count);
      }
    }
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      if (has(k)) added[k] = load_added(k * stride);
    }
#pragma unroll
    for (int k = 0; k < kTogether; ++k) rows[k + 1] = columns.row_of(loaded[k]);
    if (kAhead && next_count > 0) load_cells(h + count, next_count);
#pragma unroll 1
    for (int32_t p = 0; p < phases; ++p) {
      const Weights own = load_weights(p, 0), left = load_weights(p, 1);
      const Weights own_above = load_weights(p, 2), left_above = load_weights(p, 3);
      T* to = output + p * row_step;
#pragma unroll
      for (int k = 0; k < kTogether; ++k, to += cell_step) {
        if (!has(k)) break;
        Wide sum[kLanes];
        start_sum(sum);
        add_products(rows[k + 1], own, left, sum);
        add_products(rows[k], own_above, left_above, sum);
        write(sum, added[k], to);
        if (p + 1 < phases) added[k] = load_added(k * stride + p + 1);
      }
    }
    rows[0] = rows[kTogether];  // the row above the next cell if count == kTogether; else unused
  };

  // Writes the next cell, h, at a border of the output or beyond the input, or for a convolution kernel that spans less
  // than two strides.
  const auto write_cell = [&](int32_t h) {
    rows[1] = columns.read(h, row_exists(h));
#pragma unroll 1
    for (int32_t p = 0; p < phases; ++p) {
      if (!shape.rows.contains(first_row(h) + p)) continue;
      Wide sum[kLanes];
      start_sum(sum);
#pragma unroll
      for (int above = 0; above < 2; ++above) {
        if (!row_exists(h - above) || tap_row(shape.rows, at.phase + p, above) < 0) continue;
        add_products(rows[1 - above], load_weights(p, 2 * above), load_weights(p, 2 * above + 1), sum);
      }
      write(sum, load_added(p), output + p * int64_t{row_step});
    }
  };

  const bool all_taps = shape.rows.dilation == 1 && at.phase + phases - 1 + stride < shape.rows.kernel;
  const WholeCells whole(shape.rows, at.phase, phases);
  const int32_t end = cells.end_of(at);
  // For cells whole.first..whole_end - 1, every output row and tap exists. Of the two rows of input, one may not.
  const int32_t seen_end = whole.end <= shape.rows.pooled_size ? whole.end : shape.rows.pooled_size + 1;
  const int32_t whole_end = !all_taps ? 0 : seen_end < end ? seen_end : end;
  bool above_is_known = true;
  for (int32_t h = at.cell; h < end;) {
    if (!above_is_known) rows[0] = columns.read(h - 1, row_exists(h - 1));
    int32_t count = 1;
    if (h >= whole.first && h < whole_end) {
      const auto together = [&](int32_t from) { return whole_end - from < kTogether ? whole_end - from : kTogether; };
      count = together(h);
      if (count == kTogether && h + kTogether <= shape.rows.pooled_size) {
        write_cells(h, kTogether, together(h + kTogether), std::true_type{});
      } else {
        write_cells(h, count, 0, std::false_type{});
      }
    } else {
      write_cell(h);
    }
    above_is_known = count == kTogether;
    h += count;
    output += count * stride * int64_t{row_step};
    if (kAdds) addend += count * stride * addend_steps.row;
  }
}

// A thread writes one element, after looking up which input pixels contribute to it. In channels_last, a block stages
// the kernels of all channels in shared memory if they fit.
template <typename T, typename Index, bool kStaged>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_conv_transpose2d_kernel(ScoreArrays<T> arrays, UpsamplingShape<Index> shape, WarpRuns<Index> runs,
                                      Staging staging, AddendSteps addend_steps) {
  using Wide = typename Element<T>::Wide;
  const WeightsInMemory<T, Index> in_memory{arrays.weight, shape.rows.kernel, shape.columns.kernel};
  const auto weights = [&] {
    if constexpr (kStaged) {
      return staging.stage<T>(in_memory, shape.channels, [](int32_t row) { return row; });
    } else {
      return in_memory;
    }
  }();
  const auto lane = runs.lane();
  if (lane.sample >= runs.samples || !lane.present) return;

  const Place<Index> at = shape.output.place(lane.element);
  const T* input = arrays.input + static_cast<int64_t>(lane.sample) * shape.input.elements;
  const Wide bias = arrays.bias == nullptr ? Wide{0} : Element<T>::widen(arrays.bias[at.channel]);
  Wide sum = sum_of_taps(shape, input, weights, at, bias);
  if (arrays.addend != nullptr) {
    const bool last = shape.output.channels_last;
    const int64_t plane = last ? lane.sample : static_cast<int64_t>(lane.sample) * shape.channels + at.channel;
    const int64_t in_row = last ? static_cast<int64_t>(at.column) * shape.channels + at.channel : at.column;
    sum += Element<T>::widen(arrays.addend[plane * addend_steps.plane + at.row * addend_steps.row + in_row]);
  }
  arrays.output[static_cast<int64_t>(lane.sample) * runs.elements + lane.element] = Element<T>::narrow(sum);
}

}  // namespace segext
