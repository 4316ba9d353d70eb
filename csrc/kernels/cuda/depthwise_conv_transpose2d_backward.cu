// Launches the requested gradients of upsampling, and the summation of their parts. Chooses the kernels by memory
// order, convolution kernel, stride and size.
#include <algorithm>
#include <limits>
#include <optional>

#include "depthwise_conv_transpose2d_backward.cuh"
#include "upsampling_gradients_launch.cuh"

namespace segext {
namespace {

// ---- In channels_last -----------------------------------------------------------------------------------------------

// With fewer channels, a sector spans several pixels. Kernels with one channel per block then read each sector no more
// often than these would, and their warps touch fewer sectors at once.
constexpr int64_t kFewestChannels = 4;

// The number of threads that is enough for a large GPU if each has several loads in flight. The GPU can hold slightly
// more at once. If hardly more than that are launched, no blocks are left to start when the first ones end.
constexpr int64_t kEnoughThreads = int64_t{3} << 15;

// Whether the kernels for gradients in channels_last can be used. By the last condition, int32_t can hold the number of
// elements from a pixel's first tap to its last, with a margin.
bool channels_last_fits(const Upsampling& g) {
  constexpr int64_t kLimit = int64_t{1} << 30;
  return g.channels_last && g.multiplier == 1 && g.channels >= kFewestChannels && fits_int32(g, Addend{}) &&
         spans_two_strides(g) && g.stride_w <= kMaxCellStride && 2 * (g.stride_w + g.dilation_w) < kLimit / g.channels;
}

// The division of an input, and the launch parameters for it.
struct GatherLaunch {
  InputGathers gathers;
  int64_t threads, shared_bytes;
};

// Returns nothing if the convolution kernel or the sizes rule it out.
template <typename T>
std::optional<GatherLaunch> divide_gathers(const Upsampling& g) {
  constexpr int64_t kWideBytes = sizeof(WideOf<T>), kMostParts = 8, kMostGroups = 4;
  constexpr int64_t kSums = kCellsGathered * Launch::kBlockThreads;
  // The most elements that weights may take in shared memory, and the most that they take if one phase's weights are
  // that small, so that there is room for more blocks.
  constexpr int64_t kRoom = Launch::kMaxSharedBytes / kWideBytes - kSums, kEnoughRoom = 24 * 1024 / kWideBytes;
  if (!channels_last_fits(g)) return std::nullopt;
  const int64_t pitches = kRoom / (2 * g.kernel_w);
  if (pitches < kFewestChannels) return std::nullopt;
  const int64_t chunks = ceil_divide(g.channels, (pitches - 1) | 1), channels = ceil_divide(g.channels, chunks);
  const int64_t fit = std::clamp<int64_t>(kEnoughRoom / (2 * g.kernel_w * (channels | 1)), 1, g.stride_h);
  const int64_t phases = ceil_divide(g.stride_h, ceil_divide(g.stride_h, fit));
  const Staging staging(2 * phases, g.kernel_w, channels);

  // The cells that a thread goes through: as many as leave twice the threads that are enough, so that blocks that start
  // later fill in where others end. Where there are still too few threads, several of them share an element.
  const int64_t half = std::min(ceil_divide(g.stride_w, g.dilation_w), g.kernel_w);
  const auto rows_of = [](int64_t groups) { return groups * kCellsGathered - 1; };
  const auto threads_of = [&](int64_t groups) {
    return g.samples * ceil_divide(g.height, rows_of(groups)) * g.width * g.channels;
  };
  int64_t groups = kMostGroups, parts = 1;
  while (groups > 1 && threads_of(groups) < 2 * kEnoughThreads) --groups;
  const int64_t rows = rows_of(groups), segments = ceil_divide(g.height, rows), threads = threads_of(groups);
  while (threads * parts < kEnoughThreads && parts < kMostParts && 4 * parts <= half) parts *= 2;

  const int64_t part_threads = Launch::kBlockThreads / parts, runs = ceil_divide(g.width * channels, part_threads);
  const int64_t blocks = g.samples * chunks * segments * runs, sums = staging.elements();
  if (blocks > std::numeric_limits<int32_t>::max()) return std::nullopt;
  InputGathers gathers{};
  gathers.staging = staging;
  gathers.phases = static_cast<int32_t>(phases);
  gathers.channels = static_cast<int32_t>(channels);
  gathers.rows = static_cast<int32_t>(rows);
  gathers.half = static_cast<int32_t>(half);
  gathers.parts = static_cast<int32_t>(parts);
  gathers.part_taps = static_cast<int32_t>(ceil_divide(half, parts));
  gathers.sums = static_cast<int32_t>(sums);
  gathers.by_part_threads = Divisor<int32_t>(part_threads);
  gathers.by_channels = Divisor<int32_t>(channels);
  gathers.by_runs = Divisor<int32_t>(runs);
  gathers.by_segments = Divisor<int32_t>(segments);
  gathers.by_chunks = Divisor<int32_t>(chunks);
  return GatherLaunch{gathers, blocks * Launch::kBlockThreads, (sums + (parts > 1 ? kSums : 0)) * kWideBytes};
}

// The walks, and the blocks to launch: `unit_blocks` for each of `units`.
struct WalkLaunch {
  PartWalks walks;
  int64_t units, unit_blocks;
};

// Returns nothing if the convolution kernel or the sizes rule it out.
std::optional<WalkLaunch> divide_walks(const Upsampling& g) {
  // The fewest columns of a segment of a row; and the most steps of a walk, because its float32 sums lose bits with
  // each step.
  constexpr int64_t kFewestColumns = 16, kMostSteps = 4096;
  if (!channels_last_fits(g)) return std::nullopt;
  const int64_t places = g.stride_w * g.channels, ranges = ceil_divide(places, Launch::kBlockThreads);
  const int64_t units = units_of(g) * ranges, range_places = ceil_divide(places, ranges);
  const int64_t first_column = g.origin_w / g.stride_w;
  const int64_t end_column = (g.origin_w + g.output_width - 1) / g.stride_w + 1, columns = end_column - first_column;
  const int64_t cell_rows = end_cell(g) - first_cell(g), all_rows = g.samples * cell_rows;
  // Rows per walk and segments per row are rounded to the nearest integer.
  const int64_t wanted = std::max<int64_t>(kEnoughThreads / (units * range_places), 1);
  const int64_t most_rows = std::max<int64_t>(kMostSteps / columns, 1);
  const int64_t rows = std::clamp<int64_t>((all_rows + wanted / 2) / wanted, 1, most_rows);
  const int64_t most_segments = std::max<int64_t>(columns / kFewestColumns, 1);
  const int64_t segments = std::clamp<int64_t>((wanted + all_rows / 2) / all_rows, 1, most_segments);
  const int64_t walks = ceil_divide(all_rows, rows) * segments, unit_blocks = blocks_for(walks * range_places);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / Launch::kBlockThreads;
  if (all_rows > kMost || units * unit_blocks > kMost) return std::nullopt;
  PartWalks parts{};
  parts.by_ranges = Divisor<int32_t>(ranges);
  parts.by_range_places = Divisor<int32_t>(range_places);
  parts.by_segments = Divisor<int32_t>(segments);
  parts.by_cell_rows = Divisor<int32_t>(cell_rows);
  parts.range_places = static_cast<int32_t>(range_places);
  parts.places = static_cast<int32_t>(places);
  parts.walks = static_cast<int32_t>(walks);
  parts.first_row = static_cast<int32_t>(first_cell(g));
  parts.rows = static_cast<int32_t>(rows);
  parts.all_rows = static_cast<int32_t>(all_rows);
  parts.first_column = static_cast<int32_t>(first_column);
  parts.columns = static_cast<int32_t>(ceil_divide(columns, segments));
  parts.end_column = static_cast<int32_t>(end_column);
  return WalkLaunch{parts, units, unit_blocks};
}

// Computes those gradients in `out` that these kernels can handle, and sets their pointers to null. The others stay in
// `out`.
template <typename T>
CudaStatus launch_channels_last(const UpsamplingOperands& operands, const T* grad_output, UpsamplingGradients* out,
                                CudaStream stream) {
  using Wide = WideOf<T>;
  const Upsampling& g = operands.geometry;
  CudaStatus status = cudaSuccess;
  if (const auto division = divide_gathers<T>(g); division && out->input != nullptr) {
    status =
        launch_with_shared_memory(depthwise_input_gradient_channels_last_kernel<T>, division->threads,
                                  division->shared_bytes, stream, static_cast<const T*>(operands.weight), grad_output,
                                  static_cast<T*>(out->input), UpsamplingShape<int32_t>(g), division->gathers);
    out->input = nullptr;
  }
  const auto division = divide_walks(g);
  if (status != cudaSuccess || !division || (out->weight == nullptr && out->bias == nullptr)) return status;
  const int64_t blocks = division->unit_blocks;
  const int64_t shared_bytes = (kPhases * 4 + 1) * Launch::kBlockThreads * static_cast<int64_t>(sizeof(Wide));
  const PartArrays<Wide> parts{static_cast<Wide*>(out->weight), static_cast<Wide*>(out->bias), Divisor<int32_t>(blocks),
                               static_cast<int32_t>(blocks), static_cast<int32_t>(division->units)};
  out->weight = out->bias = nullptr;
  return launch_with_shared_memory(
      depthwise_weight_gradient_channels_last_kernel<T>, division->units * blocks * Launch::kBlockThreads, shared_bytes,
      stream, static_cast<const T*>(operands.input), grad_output, parts, UpsamplingShape<int32_t>(g), division->walks);
}

// ---- By two, in NCHW ------------------------------------------------------------------------------------------------

// Returns nothing if the sizes rule the kernel out.
template <typename Wide>
std::optional<ColumnSegments> divide_columns(const Upsampling& g) {
  constexpr int64_t kTogether = kGradientCells<Wide>, kMostCells = 64, kSetUpCells = 8;
  if (g.channels_last || g.multiplier != 1 || !is_doubling(g) || !fits_int32(g, Addend{})) return std::nullopt;
  const int64_t all_columns = g.samples * g.channels * g.width;
  const auto threads_of = [&](int64_t cells) { return all_columns * ceil_divide(g.height, cells - 1); };
  const int64_t places = DeviceLimits::current().resident_blocks(kSumBlocks<Wide>, 0);
  const int64_t cells = choose_soonest(kTogether, kMostCells, kTogether, g.height + 1, places, [&](int64_t some) {
    return BlockWork{blocks_for(threads_of(some)), kSetUpCells + some};
  });
  const int64_t rows = cells - 1, threads = threads_of(cells);
  if (!threads_fit_int32(threads)) return std::nullopt;
  return ColumnSegments{Divisor<int32_t>(g.width), Divisor<int32_t>(ceil_divide(g.height, rows)),
                        static_cast<int32_t>(rows), static_cast<int32_t>(threads)};
}

// Computes the input's gradient if it is wanted and this kernel can, and then sets its pointer to null in `out`.
template <typename T>
CudaStatus launch_input_x2(const UpsamplingOperands& operands, const T* grad_output, UpsamplingGradients* out,
                           CudaStream stream) {
  if (out->input == nullptr) return cudaSuccess;
  const Upsampling& g = operands.geometry;
  const auto segments = divide_columns<WideOf<T>>(g);
  if (!segments) return cudaSuccess;
  auto* grad_input = static_cast<T*>(out->input);
  out->input = nullptr;
  return launch(depthwise_input_gradient_x2_kernel<T>, segments->threads, stream,
                static_cast<const T*>(operands.weight), grad_output, grad_input, UpsamplingShape<int32_t>(g),
                *segments);
}

}  // namespace

GradientParts depthwise_conv_transpose2d_backward_cuda_parts(const Upsampling& g) {
  const auto division = divide_walks(g);
  return division ? GradientParts{division->unit_blocks, division->unit_blocks * division->units} : count_parts(g);
}

CudaStatus depthwise_conv_transpose2d_backward_cuda(const DepthwiseConvTranspose2dBackwardParams& params,
                                                    CudaStream stream) {
  return for_float(params.operands.type, [&](auto type) {
    using T = typename decltype(type)::Type;
    const StoredGradients<T> gradients{static_cast<const T*>(params.grad_output)};
    UpsamplingGradients out = params.gradients;
    CudaStatus status = launch_channels_last(params.operands, gradients.data, &out, stream);
    if (status == cudaSuccess) status = launch_input_x2(params.operands, gradients.data, &out, stream);
    return status == cudaSuccess ? launch_gradients<T>(params.operands, out, gradients, stream) : status;
  });
}

CudaStatus sum_parts_cuda(const SumPartsParams& params, CudaStream stream) {
  return for_float(params.type, [&](auto type) {
    using T = typename decltype(type)::Type;
    const int64_t blocks = ceil_divide(params.size, Launch::kWarpThreads);
    return launch_with_shared_memory(sum_parts_kernel<T>, blocks * Launch::kBlockThreads,
                                     Launch::kBlockThreads * static_cast<int64_t>(sizeof(double)), stream,
                                     static_cast<const WideOf<T>*>(params.parts), static_cast<T*>(params.total),
                                     params.count, params.size);
  });
}

}  // namespace segext
