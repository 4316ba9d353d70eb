// Launches upsampling without mixing channels. Chooses the CUDA kernel by convolution kernel, stride, alignment, memory
// order and size.
#include <optional>

#include "depthwise_conv_transpose2d.cuh"
#include "depthwise_conv_transpose2d_cells.cuh"
#include "depthwise_conv_transpose2d_x2.cuh"

namespace segext {
namespace {

using Params = DepthwiseConvTranspose2dParams;

// Limits on the cells that a thread goes through when upsampling by two, each of which has two rows. Fewer than the
// minimum do not pay for a thread's set-up, which costs about as much as kSetUpCells cells; the maximum bounds the
// choices.
constexpr int64_t kFewestCells = 4, kMostCells = 64, kSetUpCells = 16;

AddendSteps addend_steps(const Params& params) {
  const int64_t row = params.addend.width * depth_of(params.operands.geometry);
  return {row, row * params.addend.height};
}

template <typename T>
UpsamplingArrays<T> arrays_of(const Params& params) {
  const Upsampling& g = params.operands.geometry;
  const Addend& addend = params.addend;
  const auto* added = static_cast<const T*>(addend.data);
  if (added != nullptr) added += (addend.origin_h * addend.width + addend.origin_w) * depth_of(g);
  return {static_cast<const T*>(params.operands.input), static_cast<const T*>(params.operands.weight),
          static_cast<const T*>(params.operands.bias), added, static_cast<T*>(params.output)};
}

// Whether the rows of the output (in lanes_fit) or of the addend (in lanes_fit_addend) consist of whole, aligned runs
// of `lanes` elements.
template <typename T>
bool lanes_fit(const Params& params, int lanes) {
  const Upsampling& g = params.operands.geometry;
  return g.output_width * depth_of(g) % lanes == 0 && is_aligned(params.output, lanes * sizeof(T));
}

template <typename T>
bool lanes_fit_addend(const Params& params, int lanes) {
  return addend_steps(params).row % lanes == 0 && is_aligned(arrays_of<T>(params).addend, lanes * sizeof(T));
}

// The number of these cells, a multiple of `step`. There are `runs` runs, and the device runs `places` blocks at a
// time.
int64_t cells_per_thread(const Upsampling& g, int64_t runs, int64_t step, int64_t places) {
  const int64_t cells = end_cell(g) - first_cell(g);
  return choose_soonest(kFewestCells, kMostCells, step, cells, places, [&](int64_t some) {
    return BlockWork{blocks_for(ceil_divide(cells, some) * runs), kSetUpCells + some};
  });
}

// Nothing if the work cannot be divided into strips.
template <typename T, int kLanes, bool kAdds>
std::optional<CudaStatus> launch_cells(const Params& params, CudaStream stream) {
  const CellTypes types{kLanes, sizeof(T), sizeof(WideOf<T>), kMinCellBlocks<T, kLanes, kAdds>};
  const auto division = divide_strips(params.operands, types);
  if (!division) return std::nullopt;
  return launch_grid(depthwise_conv_transpose2d_cells_kernel<T, kLanes, kAdds>, division->blocks, division->threads,
                     division->shared_bytes, stream, arrays_of<T>(params),
                     UpsamplingShape<int32_t>(params.operands.geometry), *division, addend_steps(params),
                     lanes_fit_addend<T>(params, kLanes));
}

// With as many lanes as the output allows, or fewer if only then the input of a strip fits in shared memory. Addends
// take registers that four lanes would leave too few of.
template <typename T, bool kAdds>
std::optional<CudaStatus> launch_cells(const Params& params, CudaStream stream) {
  if constexpr (kHasVectorKernels<T>) {
    if constexpr (!kAdds) {
      if (lanes_fit<T>(params, 4)) {
        if (const auto status = launch_cells<T, 4, kAdds>(params, stream)) return status;
      }
    }
    if (lanes_fit<T>(params, 2)) {
      if (const auto status = launch_cells<T, 2, kAdds>(params, stream)) return status;
    }
  }
  return launch_cells<T, 1, kAdds>(params, stream);
}

template <typename T>
std::optional<CudaStatus> launch_cells(const Params& params, CudaStream stream) {
  return params.addend.data != nullptr ? launch_cells<T, true>(params, stream) : launch_cells<T, false>(params, stream);
}

// Nothing if int32_t cannot number the threads.
template <typename T, int kLanes, bool kChannelsLast, bool kAdds>
std::optional<CudaStatus> launch_doubling(const Params& params, CudaStream stream) {
  using Plan = DoubledPlan<T, kLanes, kChannelsLast, kAdds>;
  constexpr int64_t kStep = 4;  // a thread goes through whole groups of two or four cells
  static_assert(kStep % Plan::kTogether == 0 && kFewestCells % kStep == 0, "whole groups");
  const Upsampling& g = params.operands.geometry;
  const int64_t planes = g.samples * (kChannelsLast ? 1 : g.channels);
  const int64_t runs = g.output_width * depth_of(g) / kLanes;
  const int64_t places = DeviceLimits::current().resident_blocks(Plan::kBlocks, 0);
  const int64_t per_thread = cells_per_thread(g, planes * runs, kStep, places);
  const auto cells = divide_cells(g, planes, runs, per_thread, kPhases, 1);
  if (!cells) return std::nullopt;
  return launch(depthwise_conv_transpose2d_x2_kernel<T, kLanes, kChannelsLast, kAdds>, cells->threads, stream,
                arrays_of<T>(params), UpsamplingShape<int32_t>(g), cells->cells, addend_steps(params),
                lanes_fit_addend<T>(params, kLanes));
}

template <typename T, int kLanes, bool kChannelsLast>
std::optional<CudaStatus> launch_doubling(const Params& params, CudaStream stream) {
  return params.addend.data != nullptr ? launch_doubling<T, kLanes, kChannelsLast, true>(params, stream)
                                       : launch_doubling<T, kLanes, kChannelsLast, false>(params, stream);
}

// Upsampling by two. Nothing for other geometries and types, or if int32_t cannot number the threads; in NCHW, nothing
// if the rows of the output are not pairs either.
template <typename T>
std::optional<CudaStatus> launch_doubling(const Params& params, CudaStream stream) {
  if constexpr (kHasVectorKernels<T>) {
    const Upsampling& g = params.operands.geometry;
    if (!is_doubling(g)) return std::nullopt;
    if (g.channels_last) {
      return lanes_fit<T>(params, 2) ? launch_doubling<T, 2, true>(params, stream)
                                     : launch_doubling<T, 1, true>(params, stream);
    }
    if (lanes_fit<T>(params, 4)) return launch_doubling<T, 4, false>(params, stream);
    if (lanes_fit<T>(params, 2)) return launch_doubling<T, 2, false>(params, stream);
  }
  return std::nullopt;
}

// Whether strips are faster than the kernel for upsampling by two, or that is not for this geometry. It loads an
// element of input for each lane that sees it, in channels_last four times; but its blocks need no barriers and no
// copies, and its threads hold their weights in registers, which is better with addends and on small maps.
bool prefers_strips(const Params& params) {
  constexpr int64_t kLargeMap = 1 << 22;
  const Upsampling& g = params.operands.geometry;
  if (!is_doubling(g)) return true;
  return g.channels_last && params.addend.data == nullptr && g.samples * output_elements(g) >= kLargeMap;
}

template <typename T, typename Index, bool kStaged>
CudaStatus launch_elements(const Params& params, CudaStream stream, int64_t shared_bytes) {
  const Upsampling& g = params.operands.geometry;
  return launch_with_shared_memory(depthwise_conv_transpose2d_kernel<T, Index, kStaged>,
                                   warp_run_threads(g.samples, output_elements(g)), shared_bytes, stream,
                                   arrays_of<T>(params), UpsamplingShape<Index>(g),
                                   warp_runs<Index>(g.samples, output_elements(g)),
                                   Staging(g.kernel_h, g.kernel_w, g.channels), addend_steps(params));
}

template <typename T>
CudaStatus launch_type(const Params& params, CudaStream stream) {
  const Upsampling& g = params.operands.geometry;
  if (!fits_int32(g, params.addend)) return launch_elements<T, int64_t, false>(params, stream, 0);
  if (spans_two_strides(g)) {
    const bool strips_first = prefers_strips(params);
    if (strips_first) {
      if (const auto status = launch_cells<T>(params, stream)) return *status;
    }
    if (const auto status = launch_doubling<T>(params, stream)) return *status;
    if (!strips_first) {
      if (const auto status = launch_cells<T>(params, stream)) return *status;
    }
  }
  const int64_t shared_bytes = g.channels_last ? Staging::bytes<T>(g) : 0;
  return shared_bytes > 0 ? launch_elements<T, int32_t, true>(params, stream, shared_bytes)
                          : launch_elements<T, int32_t, false>(params, stream, 0);
}

}  // namespace

CudaStatus depthwise_conv_transpose2d_cuda(const Params& params, CudaStream stream) {
  const Upsampling& g = params.operands.geometry;
  if (g.samples * output_elements(g) == 0) return cudaSuccess;
  return for_float(params.operands.type,
                   [&](auto type) { return launch_type<typename decltype(type)::Type>(params, stream); });
}

}  // namespace segext
