// Chooses how upsampling by cells divides its work: what fits in shared memory, what keeps threads busy, and what lets
// all blocks end at about the same time.
#include <algorithm>
#include <limits>
#include <numeric>

#include "cell_division.cuh"

namespace segext {
namespace {

// Blocks stage the weights of at most so many phases, and in at most this part of their shared memory.
constexpr int64_t kMostPhases = 8, kMostWeightBytes = 32 * 1024;
// The rows that a thread writes in a strip are at most so many, unless even one quad has more; each of its cells counts
// once. More would take shared memory for input and gain nothing.
constexpr int64_t kMostRows = 16;
// Of channels in a slice, if they can be split: the input of a tile consists of whole pixels of the slice.
constexpr int64_t kFewestSlice = 32, kMostSlice = 128;
// More tiles in a row than necessary, of those that are tried.
constexpr int64_t kMoreTiles = 7;
constexpr int64_t kMostWaves = 4;
// Of strips, and of blocks: kernels number a few more in int32_t.
constexpr int64_t kMostNumber = int64_t{1} << 30;
constexpr int64_t kCopyAlignment = 16;

int64_t round_up(int64_t number, int64_t multiple) { return ceil_divide(number, multiple) * multiple; }

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

// The division of a row of the output, and of weights among blocks.
class RowDivision {
 public:
  RowDivision(const DepthwiseConvTranspose2dParams& params, const CellTypes& types)
      : g_(params.geometry),
        types_(types),
        slice(slice_of(g_, types.lanes)),
        input_slice(g_.channels_last ? slice / g_.multiplier : 1),
        is_contiguous(!g_.channels_last || slice == g_.channels),
        class_runs(std::lcm(g_.stride_w * slice, types.lanes) / types.lanes),
        row_runs(g_.output_width * slice / types.lanes),
        classes(ceil_divide(row_runs, class_runs)) {
    const int64_t input_channels = g_.channels / g_.multiplier;
    const int64_t unit = is_contiguous ? g_.width * input_slice : std::gcd(input_slice, input_channels);
    piece_bytes = types.element_bytes;
    for (const int64_t bytes : {int64_t{4}, kCopyAlignment}) {
      const bool fits = unit * types.element_bytes % bytes == 0 && is_aligned(params.input, bytes);
      if (fits && bytes > types.element_bytes) piece_bytes = bytes;
    }
    // Fewer phases leave room for more classes, but have their input read more often. No use exceeds the worth.
    int64_t phase_groups = ceil_divide(g_.stride_h, kMostPhases);
    for (double worth = 1; phase_groups <= g_.stride_h && best_use_ < worth; worth *= 0.9, phase_groups *= 2) {
      try_phases(ceil_divide(g_.stride_h, phase_groups), worth);
    }
  }

  int64_t run_bytes(int64_t some_phases) const {
    return some_phases * CellDivision::kWeights * types_.lanes * types_.weight_bytes;
  }
  int64_t weight_bytes() const { return chunk_runs * run_bytes(phases); }
  int64_t piece() const { return piece_bytes / types_.element_bytes; }
  int64_t quads() const { return ceil_divide(most_cells(g_, phases), CellDivision::kTogether); }

  // The elements of a copied row of input, for a tile of `some_classes` classes with `some_runs` runs of each.
  int64_t pitch(int64_t some_classes, int64_t some_runs) const {
    const int64_t elements = ((some_classes - 1) * class_runs + some_runs) * types_.lanes;
    const int64_t columns = ceil_divide(ceil_divide(elements - 1, slice), g_.stride_w) + 2;
    const int64_t most_before = is_contiguous ? piece() - 1 : 0;
    return round_up((columns * input_slice + most_before) * types_.element_bytes, kCopyAlignment) /
           types_.element_bytes;
  }
  // The bytes of the input of two strips, of which one is copied while the other is in use.
  int64_t input_bytes(int64_t some_classes, int64_t some_runs, int64_t strip_quads) const {
    return 2 * (CellDivision::kTogether * strip_quads + 1) * pitch(some_classes, some_runs) * types_.element_bytes;
  }

 private:
  void try_phases(int64_t some_phases, double worth) {
    const int64_t fit = std::min<int64_t>(kMostWeightBytes / run_bytes(some_phases), Launch::kBlockThreads);
    if (fit == 0) return;
    const int64_t some_chunks = ceil_divide(class_runs, fit), some_runs = ceil_divide(class_runs, some_chunks);
    const int64_t room = Launch::kMaxSharedBytes - some_runs * run_bytes(some_phases);
    const int64_t column_quads = ceil_divide(most_cells(g_, some_phases), CellDivision::kTogether);
    const int64_t least_tiles = ceil_divide(classes, Launch::kBlockThreads / some_runs);
    for (int64_t some_tiles = least_tiles; some_tiles <= std::min(least_tiles + kMoreTiles, classes); ++some_tiles) {
      const int64_t some_classes = ceil_divide(classes, some_tiles), some_threads = some_classes * some_runs;
      const int64_t some_groups =
          std::min({Launch::kBlockThreads / some_threads, room / input_bytes(some_classes, some_runs, 1),
                    g_.samples * some_tiles * column_quads});
      if (some_groups == 0) continue;
      // The share of busy threads in a warp, less for very small blocks; more tiles copy some input twice.
      const int64_t launched = round_up(some_groups * some_threads, Launch::kWarpThreads);
      const double busy = static_cast<double>(some_groups * classes * some_runs) / (some_tiles * launched);
      const double use = worth * busy * std::min(1.0, launched / 128.0) * (1 - 0.02 * (some_tiles - least_tiles));
      if (use <= best_use_) continue;
      best_use_ = use;
      phases = some_phases;
      chunks = some_chunks;
      chunk_runs = some_runs;
      tiles = some_tiles;
      tile_classes = some_classes;
      groups = some_groups;
    }
  }

  const Upsampling& g_;
  const CellTypes types_;
  double best_use_ = 0;

 public:
  const int64_t slice, input_slice;
  const bool is_contiguous;
  const int64_t class_runs, row_runs, classes;
  int64_t piece_bytes, phases = 0, chunks = 0, chunk_runs = 0, tiles = 0, tile_classes = 0;
  int64_t groups = 0;  // 0: nothing fits
};

// Chooses the quads of a strip, and the waves; leaves d->blocks 0 if int32_t cannot number blocks or strips. Many waves
// let multiprocessors that are done sooner take more blocks; every block begins with staging its weights.
void divide_among_blocks(const Upsampling& g, const RowDivision& row, const CellTypes& types, CellDivision* d) {
  constexpr double kSetUpRows = 4, kRoundRows = 2, kUneven = 0.2;
  const int64_t weights = g.channels / row.slice * row.chunks * ceil_divide(g.stride_h, row.phases);
  const int64_t column_quads = row.quads();
  double least = std::numeric_limits<double>::infinity();
  for (int64_t quads = 1; quads <= column_quads && (quads == 1 || quads * row.phases <= kMostRows); ++quads) {
    const int64_t bytes = row.weight_bytes() + row.groups * row.input_bytes(row.tile_classes, row.chunk_runs, quads);
    if (bytes > Launch::kMaxSharedBytes) break;
    const int64_t places = resident_blocks(types.most_blocks * Launch::kBlockThreads / d->threads, bytes);
    const int64_t column_strips = ceil_divide(column_quads, quads), strips = g.samples * row.tiles * column_strips;
    const int64_t parts = std::clamp(places / weights, int64_t{1}, ceil_divide(strips, row.groups));
    if (strips > kMostNumber || weights > kMostNumber / parts) continue;
    for (int64_t waves = 1; waves <= kMostWaves; ++waves) {
      const int64_t divisions = std::max(waves * places / (weights * parts), int64_t{1});
      const int64_t wave_strips = ceil_divide(strips, divisions), rounds = ceil_divide(wave_strips, parts * row.groups);
      const int64_t blocks = weights * parts * ceil_divide(strips, wave_strips);
      const double block_rows = kSetUpRows + rounds * (quads * row.phases + kRoundRows);
      const double rows = ceil_divide(blocks, places) * block_rows * (1 + kUneven / waves);
      if (rows >= least || blocks > kMostNumber) continue;
      least = rows;
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
  d->column_quads = static_cast<int32_t>(column_quads);
}

void divide_copies(const Upsampling& g, const RowDivision& row, CellDivision* d) {
  const int64_t piece = row.piece(), tile_runs = row.tile_classes * row.chunk_runs;
  const int64_t position = row.is_contiguous ? piece : row.input_slice;
  d->pitch = static_cast<int32_t>(row.pitch(row.tile_classes, row.chunk_runs));
  d->row_pieces = static_cast<int32_t>(d->pitch / piece);
  d->piece_elements = static_cast<int32_t>(piece);
  d->step_rows = static_cast<int32_t>(tile_runs / d->row_pieces);
  d->step_pieces = static_cast<int32_t>(tile_runs % d->row_pieces);
  d->positions = static_cast<int32_t>(row.is_contiguous ? g.width * row.input_slice / piece : g.width);
  d->position_elements = static_cast<int32_t>(position);
  d->position_step = static_cast<int32_t>(row.is_contiguous ? piece : g.channels / g.multiplier);
  d->positions_before = static_cast<int32_t>(ceil_divide(row.input_slice, position));
  d->by_row_pieces = Divisor<int32_t>(d->row_pieces);
  d->by_position_pieces = Divisor<int32_t>(position / piece);
  d->by_position_elements = Divisor<int32_t>(position);
}

void divide_staging(const RowDivision& row, const CellTypes& types, CellDivision* d) {
  // A chunk that is smaller than a pixel has part of one column.
  const int64_t elements = row.chunk_runs * types.lanes, channels = std::min(row.slice, elements);
  const int64_t columns = ceil_divide(elements, channels);
  // Of one channel, a warp stages 32 columns; lanes without a column idle. Of several, it stages columns whose weights
  // fill a sector, of as many channels as there are lanes for.
  const int most_bits = row.slice == 1 ? 5 : types.element_bytes == 2 ? 4 : 3;
  while (d->column_bits < most_bits && columns > int64_t{1} << d->column_bits) ++d->column_bits;
  const int64_t channel_tiles = ceil_divide(channels, Launch::kWarpThreads >> d->column_bits);
  d->by_channel_tiles = Divisor<int32_t>(channel_tiles);
  d->by_batches = Divisor<int32_t>(ceil_divide(row.phases, CellDivision::kBatch));
  d->weight_tiles = static_cast<int32_t>(channel_tiles * ceil_divide(columns, int64_t{1} << d->column_bits));
}

}  // namespace

std::optional<CellDivision> divide_strips(const DepthwiseConvTranspose2dParams& params, const CellTypes& types) {
  const Upsampling& g = params.geometry;
  // A column of input beyond the last one, which only the output reaches, has a number too.
  if ((g.origin_w + g.output_width) * g.channels >= kMostNumber) return std::nullopt;
  const RowDivision row(params, types);
  if (row.groups == 0) return std::nullopt;
  const int64_t tile_runs = row.tile_classes * row.chunk_runs;
  CellDivision d{};
  d.threads = static_cast<int32_t>(round_up(row.groups * tile_runs, Launch::kWarpThreads));
  d.by_phase_groups = Divisor<int32_t>(ceil_divide(g.stride_h, row.phases));
  d.by_chunks = Divisor<int32_t>(row.chunks);
  d.phases = static_cast<int32_t>(row.phases);
  d.groups = static_cast<int32_t>(row.groups);
  d.slice = static_cast<int32_t>(row.slice);
  d.input_slice = static_cast<int32_t>(row.input_slice);
  d.by_slice = Divisor<int32_t>(row.slice);
  d.output_pixel = static_cast<int32_t>(g.channels_last ? g.channels : 1);
  d.every_tap = g.kernel_h == 2 * g.stride_h && g.kernel_w == 2 * g.stride_w && g.dilation_h == 1 && g.dilation_w == 1;
  d.by_tile_runs = Divisor<int32_t>(tile_runs);
  d.by_chunk_runs = Divisor<int32_t>(row.chunk_runs);
  d.by_tiles = Divisor<int32_t>(row.tiles);
  d.row_runs = static_cast<int32_t>(row.row_runs);
  d.class_runs = static_cast<int32_t>(row.class_runs);
  d.chunk_runs = static_cast<int32_t>(row.chunk_runs);
  d.tile_classes = static_cast<int32_t>(row.tile_classes);
  d.whole_warps = row.groups == 1 || tile_runs % Launch::kWarpThreads == 0;
  divide_among_blocks(g, row, types, &d);
  if (d.blocks == 0) return std::nullopt;
  divide_copies(g, row, &d);
  divide_staging(row, types, &d);
  return d;
}

}  // namespace segext
