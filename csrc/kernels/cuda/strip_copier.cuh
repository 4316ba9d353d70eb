// The strips of a block that upsamples by cells (depthwise_conv_transpose2d_cells.cuh), and copies of their input in
// shared memory.
#pragma once

#include "cell_division.cuh"
#include "upsampling.cuh"

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

}  // namespace segext
