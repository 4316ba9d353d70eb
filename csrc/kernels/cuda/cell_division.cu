// Chooses how upsampling by cells divides its work: what fits in shared memory, what keeps threads busy, and what lets
// all blocks end at about the same time. The costs that weigh divisions against each other are rough estimates;
// benchmarks/results/2026-11-27-h200-strips has the times of what they choose.
#include <algorithm>
#include <limits>
#include <numeric>

#include "cell_division.cuh"

namespace segext {
namespace {

// Blocks stage the weights of at most so many phases, and in at most this part of their shared memory.
constexpr int64_t kMostPhases = 8, kMostWeightBytes = 32 * 1024;
// A thread takes one *step* for each phase of a quad, in which it writes one row of each of its four cells. It takes at
// most so many in a strip, unless even one quad has more phases. More would take shared memory for input and gain
// nothing.
constexpr int64_t kMostSteps = 16;
// Of channels in a slice, if they can be split: the input of a tile consists of whole pixels of the slice.
constexpr int64_t kFewestSlice = 32, kMostSlice = 128;
// More tiles in a row than necessary, of those that are tried.
constexpr int64_t kMoreTiles = 7;
constexpr int64_t kMostWaves = 4;
// Of strips, and of blocks: kernels number a few more in int32_t.
constexpr int64_t kMostNumber = int64_t{1} << 30;
constexpr int64_t kCopyAlignment = 16;

// A slice that is only a part of the channels consists of whole runs and of all outputs of its inputs.
int64_t slice_of(const Upsampling& g, int64_t lanes) {
  if (!g.channels_last) return 1;
  for (int64_t slice = std::min(g.channels, kMostSlice); slice >= kFewestSlice; --slice) {
    const bool is_part = g.channels % slice == 0 && slice % lanes == 0 && slice % g.multiplier == 0;
    if (slice == g.channels || is_part) return slice;
  }
  return g.channels;
}

// The largest number of cells with rows in the output that any group of `phases` phases has.
int64_t most_cells(const Upsampling& g, int64_t phases) {
  int64_t most = 0;
  for (int64_t phase = 0; phase < g.stride_h; phase += phases) {
    const int64_t last_phase = std::min(phase + phases, g.stride_h) - 1;
    const int64_t first = g.origin_h <= last_phase ? 0 : ceil_divide(g.origin_h - last_phase, g.stride_h);
    const int64_t last_row = g.origin_h + g.output_height - 1 - phase;
    most = std::max(most, (last_row < 0 ? 0 : last_row / g.stride_h + 1) - first);
  }
  return most;
}

// A row of the output of one slice, and the row of input that its cells see.
struct SliceRow {
  const int64_t lanes, element_bytes;
  const int64_t step_weight_bytes;  // of the weights that a run needs for one phase
  const int64_t stride;             // of columns
  const int64_t slice, input_slice;
  const bool is_contiguous;  // the row of input, for all its columns
  const int64_t runs;
  const int64_t period_runs, periods;  // of weights; the last period may be a part of one
  const int64_t piece;                 // elements of input that are copied at once

  SliceRow(const UpsamplingOperands& operands, const CellTypes& types)
      : lanes(types.lanes),
        element_bytes(types.element_bytes),
        step_weight_bytes(CellDivision::kWeights * types.lanes * types.weight_bytes),
        stride(operands.geometry.stride_w),
        slice(slice_of(operands.geometry, lanes)),
        input_slice(operands.geometry.channels_last ? slice / operands.geometry.multiplier : 1),
        is_contiguous(!operands.geometry.channels_last || slice == operands.geometry.channels),
        runs(operands.geometry.output_width * slice / lanes),
        period_runs(std::min(std::lcm(stride * slice, lanes) / lanes, runs)),
        periods(ceil_divide(runs, period_runs)),
        piece(piece_bytes(operands) / element_bytes) {}

  // The elements of a copied row of input, for a tile of so many periods with so many runs of each.
  int64_t pitch(int64_t tile_periods, int64_t chunk_runs) const {
    const int64_t elements = ((tile_periods - 1) * period_runs + chunk_runs) * lanes;
    const int64_t columns = ceil_divide(ceil_divide(elements - 1, slice), stride) + 2;
    const int64_t most_before = is_contiguous ? piece - 1 : 0;
    return round_up((columns * input_slice + most_before) * element_bytes, kCopyAlignment) / element_bytes;
  }
  // The bytes of the input of two strips, of which one is copied while the other is in use.
  int64_t input_bytes(int64_t tile_periods, int64_t chunk_runs, int64_t strip_quads) const {
    return 2 * (CellDivision::kTogether * strip_quads + 1) * pitch(tile_periods, chunk_runs) * element_bytes;
  }

 private:
  // As many as fit: pieces are aligned, and the row, or each of its pixels, consists of whole ones.
  int64_t piece_bytes(const UpsamplingOperands& operands) const {
    const Upsampling& g = operands.geometry;
    const int64_t whole = is_contiguous ? g.width * input_slice : std::gcd(input_slice, input_channels(g));
    int64_t most = element_bytes;
    for (const int64_t bytes : {int64_t{4}, kCopyAlignment}) {
      const bool fits = whole * element_bytes % bytes == 0 && is_aligned(operands.input, bytes);
      if (fits && bytes > element_bytes) most = bytes;
    }
    return most;
  }
};

// How a SliceRow is divided, and the phases among blocks.
struct RowDivision {
  int64_t phases, chunks, chunk_runs, tiles, tile_periods;
  int64_t groups;  // of threads

  int64_t tile_runs() const { return tile_periods * chunk_runs; }
  int64_t threads() const { return round_up(groups * tile_runs(), Launch::kWarpThreads); }
};

int64_t column_quads(const Upsampling& g, int64_t phases) {
  return ceil_divide(most_cells(g, phases), CellDivision::kTogether);
}

// Calls try_division(division, use) with those divisions for this number of phases that fit in shared memory. `use` is
// the share of the threads of warps that are busy, less for what makes a division slow.
template <typename Try>
void for_divisions(const Upsampling& g, const SliceRow& row, int64_t phases, const Try& try_division) {
  // A block of fewer threads loses use in proportion: a multiprocessor holds only so many blocks.
  constexpr double kFullThreads = 128;
  // The share of its use that a division loses with each tile more than necessary: the input at the border of two tiles
  // is copied for both.
  constexpr double kTileCost = 0.02;
  const int64_t run_bytes = phases * row.step_weight_bytes;
  const int64_t fit = std::min<int64_t>(kMostWeightBytes / run_bytes, Launch::kBlockThreads);
  if (fit == 0) return;
  const int64_t chunks = ceil_divide(row.period_runs, fit), chunk_runs = ceil_divide(row.period_runs, chunks);
  const int64_t room = Launch::kMaxSharedBytes - chunk_runs * run_bytes;
  const int64_t all_quads = column_quads(g, phases);
  const int64_t least_tiles = ceil_divide(row.periods, Launch::kBlockThreads / chunk_runs);
  for (int64_t tiles = least_tiles; tiles <= std::min(least_tiles + kMoreTiles, row.periods); ++tiles) {
    const int64_t tile_periods = ceil_divide(row.periods, tiles), threads = tile_periods * chunk_runs;
    const int64_t groups =
        std::min({Launch::kBlockThreads / threads, room / row.input_bytes(tile_periods, chunk_runs, 1),
                  g.samples * tiles * all_quads});
    if (groups == 0) continue;
    const int64_t launched = round_up(groups * threads, Launch::kWarpThreads);
    const double busy = static_cast<double>(groups * row.periods * chunk_runs) / (tiles * launched);
    const double use = busy * std::min(1.0, launched / kFullThreads) * (1 - kTileCost * (tiles - least_tiles));
    try_division(RowDivision{phases, chunks, chunk_runs, tiles, tile_periods, groups}, use);
  }
}

// Nothing if nothing fits.
std::optional<RowDivision> divide_row(const Upsampling& g, const SliceRow& row) {
  // What halving the phases of a block leaves of a division's worth. It makes room for more periods, but the input is
  // then copied for twice as many groups of phases.
  constexpr double kHalfPhases = 0.9;
  std::optional<RowDivision> best;
  double best_worth = 0;
  // No worth exceeds `most`, the worth of full use.
  int64_t phase_groups = ceil_divide(g.stride_h, kMostPhases);
  for (double most = 1; phase_groups <= g.stride_h && best_worth < most; most *= kHalfPhases, phase_groups *= 2) {
    for_divisions(g, row, ceil_divide(g.stride_h, phase_groups), [&](const RowDivision& division, double use) {
      if (most * use <= best_worth) return;
      best_worth = most * use;
      best = division;
    });
  }
  return best;
}

// Chooses the quads of a strip, and the waves. Returns false if int32_t cannot number blocks or strips. Many waves let
// multiprocessors that are done sooner take more blocks; every block begins with staging its weights.
bool divide_among_blocks(const Upsampling& g, const SliceRow& row, const RowDivision& division, int64_t most_blocks,
                         CellDivision* d) {
  // What a block takes to stage its weights, and to begin a round, in the time of a thread's steps; and the share of
  // the time for which multiprocessors idle at the end of one wave, because blocks do not end together. More waves
  // share it.
  constexpr double kSetUpSteps = 4, kRoundSteps = 2, kUneven = 0.2;
  const DeviceLimits device = DeviceLimits::current();
  const int64_t weights = g.channels / row.slice * division.chunks * ceil_divide(g.stride_h, division.phases);
  const int64_t weight_bytes = division.phases * division.chunk_runs * row.step_weight_bytes;
  const int64_t all_quads = column_quads(g, division.phases);
  double least = std::numeric_limits<double>::infinity();
  for (int64_t quads = 1; quads <= all_quads && (quads == 1 || quads * division.phases <= kMostSteps); ++quads) {
    const int64_t bytes =
        weight_bytes + division.groups * row.input_bytes(division.tile_periods, division.chunk_runs, quads);
    if (bytes > Launch::kMaxSharedBytes) break;
    const int64_t places = device.resident_blocks(most_blocks * Launch::kBlockThreads / division.threads(), bytes);
    const int64_t column_strips = ceil_divide(all_quads, quads), strips = g.samples * division.tiles * column_strips;
    const int64_t parts = std::clamp(places / weights, int64_t{1}, ceil_divide(strips, division.groups));
    if (strips > kMostNumber || weights > kMostNumber / parts) continue;
    for (int64_t waves = 1; waves <= kMostWaves; ++waves) {
      const int64_t divisions = std::max(waves * places / (weights * parts), int64_t{1});
      const int64_t wave_strips = ceil_divide(strips, divisions),
                    rounds = ceil_divide(wave_strips, parts * division.groups);
      const int64_t blocks = weights * parts * ceil_divide(strips, wave_strips);
      const double block_steps = kSetUpSteps + rounds * (quads * division.phases + kRoundSteps);
      const double steps = ceil_divide(blocks, places) * block_steps * (1 + kUneven / waves);
      if (steps >= least || blocks > kMostNumber) continue;
      least = steps;
      d->blocks = blocks;
      d->shared_bytes = bytes;
      d->by_column_strips = Divisor<int32_t>(column_strips);
      d->by_parts = Divisor<int32_t>(parts);
      d->parts = static_cast<int32_t>(parts);
      d->strips = static_cast<int32_t>(strips);
      d->wave_strips = static_cast<int32_t>(wave_strips);
      d->rounds = static_cast<int32_t>(rounds);
      d->strip_quads = static_cast<int32_t>(quads);
    }
  }
  d->by_weights = Divisor<int32_t>(weights);
  d->column_quads = static_cast<int32_t>(all_quads);
  return least < std::numeric_limits<double>::infinity();
}

void divide_copies(const Upsampling& g, const SliceRow& row, const RowDivision& division, CellDivision* d) {
  const int64_t piece = row.piece, tile_runs = division.tile_runs();
  const int64_t position = row.is_contiguous ? piece : row.input_slice;
  d->pitch = static_cast<int32_t>(row.pitch(division.tile_periods, division.chunk_runs));
  d->row_pieces = static_cast<int32_t>(d->pitch / piece);
  d->piece_elements = static_cast<int32_t>(piece);
  d->step_rows = static_cast<int32_t>(tile_runs / d->row_pieces);
  d->step_pieces = static_cast<int32_t>(tile_runs % d->row_pieces);
  d->positions = static_cast<int32_t>(row.is_contiguous ? g.width * row.input_slice / piece : g.width);
  d->position_elements = static_cast<int32_t>(position);
  d->position_step = static_cast<int32_t>(row.is_contiguous ? piece : input_channels(g));
  d->positions_before = static_cast<int32_t>(ceil_divide(row.input_slice, position));
  d->by_row_pieces = Divisor<int32_t>(d->row_pieces);
  d->by_position_pieces = Divisor<int32_t>(position / piece);
  d->by_position_elements = Divisor<int32_t>(position);
}

void divide_staging(const SliceRow& row, const RowDivision& division, CellDivision* d) {
  // A chunk that is smaller than a pixel has part of one column.
  const int64_t elements = division.chunk_runs * row.lanes, channels = std::min(row.slice, elements);
  const int64_t columns = ceil_divide(elements, channels);
  // Of one channel, a warp stages 32 columns; lanes without a column idle. Of several, it stages columns whose weights
  // fill a sector, of as many channels as there are lanes for.
  const int most_bits = row.slice == 1 ? 5 : row.element_bytes == 2 ? 4 : 3;
  while (d->column_bits < most_bits && columns > int64_t{1} << d->column_bits) ++d->column_bits;
  const int64_t channel_tiles = ceil_divide(channels, Launch::kWarpThreads >> d->column_bits);
  d->by_channel_tiles = Divisor<int32_t>(channel_tiles);
  d->by_batches = Divisor<int32_t>(ceil_divide(division.phases, CellDivision::kBatch));
  d->weight_tiles = static_cast<int32_t>(channel_tiles * ceil_divide(columns, int64_t{1} << d->column_bits));
}

}  // namespace

std::optional<CellDivision> divide_strips(const UpsamplingOperands& operands, const CellTypes& types) {
  const Upsampling& g = operands.geometry;
  // A column of input beyond the last one, which only the output reaches, has a number too.
  if ((g.origin_w + g.output_width) * g.channels >= kMostNumber) return std::nullopt;
  const SliceRow row(operands, types);
  const auto division = divide_row(g, row);
  if (!division) return std::nullopt;
  const int64_t tile_runs = division->tile_runs();
  CellDivision d{};
  d.threads = static_cast<int32_t>(division->threads());
  d.by_phase_groups = Divisor<int32_t>(ceil_divide(g.stride_h, division->phases));
  d.by_chunks = Divisor<int32_t>(division->chunks);
  d.phases = static_cast<int32_t>(division->phases);
  d.groups = static_cast<int32_t>(division->groups);
  d.slice = static_cast<int32_t>(row.slice);
  d.input_slice = static_cast<int32_t>(row.input_slice);
  d.by_slice = Divisor<int32_t>(row.slice);
  d.every_tap = g.kernel_h == 2 * g.stride_h && g.kernel_w == 2 * g.stride_w && g.dilation_h == 1 && g.dilation_w == 1;
  d.by_tile_runs = Divisor<int32_t>(tile_runs);
  d.by_chunk_runs = Divisor<int32_t>(division->chunk_runs);
  d.by_tiles = Divisor<int32_t>(division->tiles);
  d.row_runs = static_cast<int32_t>(row.runs);
  d.period_runs = static_cast<int32_t>(row.period_runs);
  d.chunk_runs = static_cast<int32_t>(division->chunk_runs);
  d.tile_periods = static_cast<int32_t>(division->tile_periods);
  d.whole_warps = division->groups == 1 || tile_runs % Launch::kWarpThreads == 0;
  if (!divide_among_blocks(g, row, *division, types.most_blocks, &d)) return std::nullopt;
  divide_copies(g, row, *division, &d);
  divide_staging(row, *division, &d);
  return d;
}

}  // namespace segext
