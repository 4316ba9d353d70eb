// Runs the launchers of csrc/kernels/cuda in the emulation, and expects as many launches as an op should have.
#include "cuda_backend.h"

#include <random>

#include "cuda_emulation.h"
#include "tester.h"

namespace backend {
namespace {

using kernel_cases::Array;
using kernel_cases::fail;

std::map<const void*, int64_t> launch_counts;
int64_t launches_in_all = 0;
int64_t last_threads = 0;
bool expects_long_threads = false;

// Runs a launcher and expects it to launch this many kernels.
template <typename Params>
void launch(CudaStatus (*launcher)(const Params&, CudaStream), const Params& params, int64_t count, const char* op,
            const std::string& what) {
  const int64_t before = launches_in_all;
  const CudaStatus status = launcher(params, nullptr);
  if (status != cudaSuccess) fail(op, what, "returns %d", status);
  if (count >= 0 && launches_in_all - before != count) fail(op, what, "launches %ld kernels", launches_in_all - before);
}

constexpr int64_t kAnyLaunches = -1;

int64_t one_unless_empty(int64_t outputs) { return outputs > 0 ? 1 : 0; }

// With few multiprocessors, threads go through many cells; with many, through few.
void set_multiprocessors() {
  static std::mt19937 random(54321);
  cuda_emulation::set_multiprocessors(expects_long_threads || random() % 2 == 0 ? 1 : 200);
}

// Expects that the threads of the last launch have more than `each` of the elements on average.
void expect_each(int64_t elements, int64_t each, const char* op, const std::string& what) {
  if (elements <= each * last_threads) fail(op, what, "has %ld threads for %ld elements", last_threads, elements);
}

int64_t output_elements(const Upsampling& g) { return g.samples * g.channels * g.output_height * g.output_width; }

Array winners_for(const IndexedMaps& maps) {
  return Array(maps.samples * maps.channels * maps.pixels, sizeof(uint32_t), false);
}

}  // namespace

void observe_launches() {
  cuda_emulation::set_launch_observer([](const void* kernel, int64_t threads, int64_t) {
    ++launch_counts[kernel];
    ++launches_in_all;
    last_threads = threads;
  });
}

const std::map<const void*, int64_t>& launches() { return launch_counts; }
void expect_long_threads(bool expected) { expects_long_threads = expected; }

std::string manner() { return ", " + std::to_string(cuda_emulation::multiprocessors()) + " multiprocessors"; }

bool takes_empty_pooled_maps() { return true; }
bool takes(const Upsampling&) { return true; }

void use_older_device(bool older) { cuda_emulation::set_compute_capability(older ? 7 : 9); }

void max_pool2d(const MaxPool2dParams& params, const std::string& what) {
  launch(max_pool2d_cuda, params, kAnyLaunches, "max_pool2d", what);
}

void scatter(const ScatterParams& params, const std::string& what) {
  launch(scatter_cuda, params, kAnyLaunches, "scatter", what);
}

void gather(const GatherParams& params, const std::string& what) {
  launch(gather_cuda, params, kAnyLaunches, "gather", what);
}

void extremes(const ExtremesParams& params, const std::string& what) {
  launch(extremes_cuda, params, kAnyLaunches, "extremes", what);
}

void indices_from_codes(const IndicesFromCodesParams& params, const std::string& what) {
  launch(indices_from_codes_cuda, params, kAnyLaunches, "indices_from_codes", what);
}

void codes_from_indices(const CodesFromIndicesParams& params, const std::string& what) {
  launch(codes_from_indices_cuda, params, kAnyLaunches, "codes_from_indices", what);
}

void repack_codes(const RepackCodesParams& params, const std::string& what) {
  launch(repack_codes_cuda, params, kAnyLaunches, "repack_codes", what);
}

void index_unpool(const IndexUnpoolParams& params, const std::string& what) {
  const Array winners = winners_for(params.maps);
  IndexUnpoolParams with_winners = params;
  with_winners.winners = static_cast<uint32_t*>(winners.data());
  launch(index_unpool_cuda, with_winners, kAnyLaunches, "index_unpool", what);
}

void index_unpool_backward(const IndexUnpoolBackwardParams& params, const std::string& what) {
  const Array winners = winners_for(params.maps);
  IndexUnpoolBackwardParams with_winners = params;
  with_winners.winners = static_cast<uint32_t*>(winners.data());
  launch(index_unpool_backward_cuda, with_winners, kAnyLaunches, "index_unpool_backward", what);
}

void depthwise_conv_transpose2d(const DepthwiseConvTranspose2dParams& params, const std::string& what) {
  constexpr const char* op = "depthwise_conv_transpose2d";
  set_multiprocessors();
  const int64_t outputs = output_elements(params.operands.geometry);
  launch(depthwise_conv_transpose2d_cuda, params, one_unless_empty(outputs), op, what);
  // Four lanes in the rows of the four cells of a batch are 16 elements per phase; fewer lanes take more batches.
  if (expects_long_threads) expect_each(outputs, 16 * params.operands.geometry.stride_h, op, what);
}

void depthwise_argmax(const DepthwiseArgmaxParams& params, const std::string& what) {
  const int64_t outputs = output_elements(params.scores.geometry);
  launch(depthwise_argmax_cuda, params, one_unless_empty(outputs), "depthwise_argmax", what);
}

void depthwise_conv_transpose2d_backward(const DepthwiseConvTranspose2dBackwardParams& params,
                                         const std::string& what) {
  constexpr const char* op = "depthwise_conv_transpose2d_backward";
  set_multiprocessors();
  launch(depthwise_conv_transpose2d_backward_cuda, params, kAnyLaunches, op, what);
  // Of upsampling by two in NCHW; a batch of cells completes no more than four rows.
  const Upsampling& g = params.operands.geometry;
  if (expects_long_threads) expect_each(g.samples * g.channels * g.height * g.width, 4, op, what);
}

void sum_parts(const SumPartsParams& params, const std::string& what) {
  launch(sum_parts_cuda, params, kAnyLaunches, "sum_parts", what);
}

void depthwise_cross_entropy(const DepthwiseCrossEntropyParams& params, const std::string& what) {
  const UpsamplingOperands& scores = params.scores;
  const Array parts(2 * depthwise_cross_entropy_cuda_parts(scores.geometry, scores.type), sizeof(double), false);
  DepthwiseCrossEntropyParams with_parts = params;
  with_parts.totals.parts = static_cast<double*>(parts.data());
  launch(depthwise_cross_entropy_cuda, with_parts, 2, "depthwise_cross_entropy", what);
}

void depthwise_cross_entropy_backward(const DepthwiseCrossEntropyBackwardParams& params, const std::string& what) {
  launch(depthwise_cross_entropy_backward_cuda, params, kAnyLaunches, "depthwise_cross_entropy_backward", what);
}

GradientParts depthwise_conv_transpose2d_backward_parts(const Upsampling& geometry) {
  return depthwise_conv_transpose2d_backward_cuda_parts(geometry);
}

GradientParts depthwise_cross_entropy_backward_parts(const Upsampling& geometry) {
  return depthwise_cross_entropy_backward_cuda_parts(geometry);
}

void unpool_conv2d(const UnpoolConv2dParams& params, const std::string& what) {
  const UnpoolConv& g = params.geometry;
  const int sum_size = params.type == ElementType::kFloat64 ? 8 : 4;
  const Array panels(cuda_panel_elements(g.pool.channels, g.outputs), sum_size, false);
  const PackWeightPanelsParams packing{params.weight, g.pool.channels, g.outputs, panels.data(), params.type};
  launch(pack_weight_panels_cuda, packing, kAnyLaunches, "pack_weight_panels", what);
  const int64_t scratch_bytes = cuda_channels_last_bytes(g, params.type);
  const Array scratch(scratch_bytes, 1, false);
  UnpoolConv2dParams packed = params;
  packed.weight = {};
  packed.panels = panels.data();
  packed.channels_last_scratch = scratch_bytes > 0 ? scratch.data() : nullptr;
  const bool converts = scratch_bytes > 0 && cuda_emulation::compute_capability() >= 8;
  const int64_t results = g.pool.samples * g.outputs * g.output_height * g.output_width;
  launch(unpool_conv2d_cuda, packed, results == 0 ? 0 : converts ? 2 : 1, "unpool_conv2d", what);
}

}  // namespace backend
