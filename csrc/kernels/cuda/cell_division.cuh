// How upsampling by cells (depthwise_conv_transpose2d_cells.cuh) divides its work.
#pragma once

#include <cstdint>
#include <optional>

#include "upsampling.cuh"

namespace segext {

// A block has the same weights for all its work: those of one slice, of one chunk, and of some phases.
//
//   slice    channels that a block treats alike: one in NCHW; in channels_last all, or an equal part of them if there
//            are many
//   run      neighbouring elements in a row of the output of one slice: as many as a thread has lanes
//   period   the runs after which the weights that runs need repeat
//   chunk    neighbouring runs of a period: as many as a block keeps the weights of in shared memory
//   tile     the runs of one chunk in some neighbouring periods
//   quad     kTogether vertically adjacent cells: a thread writes their rows of one phase together
//   strip    some vertically adjacent quads of a tile
//   group    threads of a block that have one strip at a time, each of them one run of it
//   round    the time in which each group of a block has one strip, and copies the input of its next one
//   wave     neighbouring strips, and the blocks of the same weights that share them. These blocks, and those that have
//            the same strips and other weights, have neighbouring numbers, so that they run at the same time
//
// A row of the output in NCHW with a stride of 8 and four lanes: equal letters have equal weights. If a chunk is half a
// period, a tile of two periods is the a's or the b's between two bars:
//
//     row       |aaaabbbbaaaabbbb|aaaabbbbaaaabbbb|     of each phase, of each cell
//     runs       0   1   2   3    4   5   6   7
//     periods    0       1        2       3
//     tiles      0                1
//
// Down a column of tiles, with two quads to a strip, and a wave of two blocks of two groups:
//
//     cells     0..3 4..7   8..11 12..15   ...
//     strips    0           1              2          3          4          5          ...
//     rounds    0                                                1
//     blocks    0                          1                     0                     ...
//     groups    0           1              0          1          0          1          ...
struct CellDivision {
  // Cells whose rows of one phase a thread writes together. Each weight is read once for all of them.
  static constexpr int kTogether = 4;
  // Per phase and element: those for the cell's own row of input, own column and left one; then those for the row
  // above.
  static constexpr int kWeights = 4;
  // Phases whose weights a warp stages at a time.
  static constexpr int kBatch = 4;

  // Blocks. In each round, the groups of a wave's blocks have neighbouring strips.
  int64_t blocks, shared_bytes;
  int32_t threads;
  Divisor<int32_t> by_weights, by_phase_groups, by_chunks, by_parts;
  int32_t parts;        // blocks of a wave that have the same weights
  int32_t phases;       // of a block; the last phase group may have fewer
  int32_t groups;       // of threads
  int32_t strips;       // of all samples, for the same weights
  int32_t wave_strips;  // of them, in a wave
  int32_t rounds;

  // Channels.
  int32_t slice, input_slice;
  Divisor<int32_t> by_slice;
  bool every_tap;  // the kernel spans exactly two strides, without gaps

  // Runs and tiles.
  Divisor<int32_t> by_tile_runs, by_chunk_runs, by_tiles, by_column_strips;
  int32_t row_runs, period_runs, chunk_runs, tile_periods;
  int32_t column_quads, strip_quads;  // quads, of kTogether cells, in a column of cells and in a strip
  bool whole_warps;                   // no warp has threads of two groups

  // The copy of a strip's input: rows of `pitch` elements, in pieces that are copied at once. A row of the input is
  // made of `positions` of position_elements each: in NCHW and for all channels, of pieces; otherwise of pixels.
  Divisor<int32_t> by_row_pieces, by_position_pieces, by_position_elements;
  int32_t pitch, row_pieces, piece_elements;
  int32_t step_rows, step_pieces;  // from one piece that a thread copies to its next
  int32_t positions, position_elements, position_step;
  int32_t positions_before;  // as many as the input of one column takes

  // The staging of weights: a warp has some neighbouring columns of some neighbouring channels at a time.
  Divisor<int32_t> by_batches, by_channel_tiles;
  int32_t weight_tiles, column_bits;
};

// The types of a kernel, as far as the division depends on them.
struct CellTypes {
  int64_t lanes, element_bytes, weight_bytes;
  int64_t most_blocks;  // per multiprocessor, as far as registers allow
};

// Nothing if shared memory has no room for the weights and the input of a strip, or if int32_t cannot number them.
std::optional<CellDivision> divide_strips(const UpsamplingOperands& operands, const CellTypes& types);

}  // namespace segext
