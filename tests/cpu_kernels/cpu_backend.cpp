// Runs the CPU kernels over their units of work, as threads could: whole, or in ranges that begin and end anywhere.
#include "cpu_backend.h"

#include <algorithm>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "tester.h"

namespace backend {
namespace {

using kernel_cases::Array;
using kernel_cases::fail;

Division current_division = Division::kWhole;
bool skips_last_unit = false;
std::mt19937 random_numbers(54321);
std::string last_manner;

using Range = std::pair<int64_t, int64_t>;

// Consecutive ranges of a few units or of many, some of them of a single unit, in random order.
std::vector<Range> ranges_of(int64_t units) {
  if (current_division == Division::kWhole) return {{0, units}};
  const int64_t most = random_numbers() % 2 == 0 ? 3 : units;
  std::vector<Range> ranges;
  for (int64_t begin = 0; begin < units;) {
    const int64_t end = std::min(units, begin + 1 + static_cast<int64_t>(random_numbers() % most));
    ranges.push_back({begin, end});
    begin = end;
  }
  std::shuffle(ranges.begin(), ranges.end(), random_numbers);
  return ranges;
}

template <typename Params>
void run(Work (*work)(const Params&), void (*kernel)(const Params&, int64_t begin, int64_t end), const Params& params) {
  const int64_t units = work(params).units - (skips_last_unit ? 1 : 0);
  if (units <= 0) return;
  const std::vector<Range> ranges = ranges_of(units);
  last_manner = ", in ranges";
  for (size_t k = 0; k < ranges.size() && k < 8; ++k) {
    last_manner += " [" + std::to_string(ranges[k].first) + ", " + std::to_string(ranges[k].second) + ")";
  }
  if (ranges.size() > 8) last_manner += " ...";
  for (const auto& [begin, end] : ranges) kernel(params, begin, end);
}

int sum_size(ElementType type) { return type == ElementType::kFloat64 ? 8 : 4; }

}  // namespace

void divide(Division division) { current_division = division; }
void skip_last_unit() { skips_last_unit = true; }
std::string manner() { return last_manner; }
bool takes_empty_pooled_maps() { return false; }

// Kernels spread a row of input over the columns from the origin on, a stride apart: gigabytes for the widest.
bool takes(const Upsampling& g) {
  constexpr int64_t kWidest = 4096;
  return g.stride_w <= kWidest && g.origin_w <= kWidest && g.origin_h <= std::numeric_limits<int32_t>::max();
}

void use_older_device(bool) {}

void max_pool2d(const MaxPool2dParams& params, const std::string&) { run(max_pool2d_work, max_pool2d_cpu, params); }

void scatter(const ScatterParams& params, const std::string&) {
  ScatterParams stored = params;
  stored.bypass_caches = random_numbers() % 2 == 0;  // whatever the size
  run(scatter_work, scatter_cpu, stored);
}

void gather(const GatherParams& params, const std::string&) { run(gather_work, gather_cpu, params); }
void extremes(const ExtremesParams& params, const std::string&) { run(extremes_work, extremes_cpu, params); }

void indices_from_codes(const IndicesFromCodesParams& params, const std::string&) {
  run(indices_from_codes_work, indices_from_codes_cpu, params);
}

void codes_from_indices(const CodesFromIndicesParams& params, const std::string&) {
  run(codes_from_indices_work, codes_from_indices_cpu, params);
}

void repack_codes(const RepackCodesParams& params, const std::string&) {
  run(repack_codes_work, repack_codes_cpu, params);
}

void index_unpool(const IndexUnpoolParams& params, const std::string&) {
  run(index_unpool_work, index_unpool_cpu, params);
}

void index_unpool_backward(const IndexUnpoolBackwardParams& params, const std::string&) {
  run(index_unpool_backward_work, index_unpool_backward_cpu, params);
}

void depthwise_conv_transpose2d(const DepthwiseConvTranspose2dParams& params, const std::string&) {
  run(depthwise_conv_transpose2d_work, depthwise_conv_transpose2d_cpu, params);
}

void depthwise_argmax(const DepthwiseArgmaxParams& params, const std::string&) {
  run(depthwise_argmax_work, depthwise_argmax_cpu, params);
}

void depthwise_conv_transpose2d_backward(const DepthwiseConvTranspose2dBackwardParams& params, const std::string&) {
  run(depthwise_conv_transpose2d_backward_work, depthwise_conv_transpose2d_backward_cpu, params);
}

void sum_parts(const SumPartsParams& params, const std::string&) { run(sum_parts_work, sum_parts_cpu, params); }

// Adds up the rows, and expects each to name the first target in it that is neither a class nor ignored.
void depthwise_cross_entropy(const DepthwiseCrossEntropyParams& params, const std::string& what) {
  const Upsampling& g = params.scores.geometry;
  const Array rows(g.samples * g.output_height, sizeof(LossRow), false);
  DepthwiseCrossEntropyParams with_rows = params;
  with_rows.rows = static_cast<LossRow*>(rows.data());
  with_rows.totals = {};
  run(depthwise_cross_entropy_work, depthwise_cross_entropy_cpu, with_rows);
  double loss = 0, weight = 0;
  for (int64_t r = 0; r < g.samples * g.output_height; ++r) {
    const LossRow& row = with_rows.rows[r];
    const int64_t* targets = params.target + r * g.output_width;
    const int64_t* invalid = std::find_if(targets, targets + g.output_width, [&](int64_t target) {
      return target != params.ignored && (target < 0 || target >= g.channels);
    });
    const int64_t expected = invalid == targets + g.output_width ? -1 : invalid - targets;
    if (row.invalid != expected) {
      fail("depthwise_cross_entropy", what, "row %ld has invalid target %ld instead of %ld", r, row.invalid, expected);
    }
    loss += row.loss;
    weight += row.weight;
  }
  const ElementType sum = params.scores.type == ElementType::kFloat64 ? ElementType::kFloat64 : ElementType::kFloat32;
  if (params.totals.loss != nullptr) host_model::store(params.totals.loss, sum, 0, loss);
  host_model::store(params.totals.weight, sum, 0, weight);
}

void depthwise_cross_entropy_backward(const DepthwiseCrossEntropyBackwardParams& params, const std::string&) {
  run(depthwise_cross_entropy_backward_work, depthwise_cross_entropy_backward_cpu, params);
}

GradientParts depthwise_conv_transpose2d_backward_parts(const Upsampling& geometry) {
  return depthwise_conv_transpose2d_backward_cpu_parts(geometry);
}

GradientParts depthwise_cross_entropy_backward_parts(const Upsampling& geometry) {
  return depthwise_cross_entropy_backward_cpu_parts(geometry);
}

// With the weight packed beforehand, or by the kernel itself.
void unpool_conv2d(const UnpoolConv2dParams& params, const std::string&) {
  const UnpoolConv& g = params.geometry;
  if (random_numbers() % 2 == 0) return run(unpool_conv2d_work, unpool_conv2d_cpu, params);
  const Array panels(panel_elements(g.pool.channels, g.outputs), sum_size(params.type), false);
  const PackWeightPanelsParams packing{params.weight, g.pool.channels, g.outputs, panels.data(), params.type};
  run(pack_weight_panels_work, pack_weight_panels_cpu, packing);
  UnpoolConv2dParams packed = params;
  packed.panels = panels.data();
  run(unpool_conv2d_work, unpool_conv2d_cpu, packed);
}

void unpool_conv2d_backward(const UnpoolConv2dBackwardParams& params, const WeightView& weight,
                            const StridedWeight<void>& grad_weight, const std::string&) {
  const UnpoolConv& g = params.geometry;
  const int64_t channels = g.pool.channels, elements = panel_elements(channels, g.outputs);
  const int size = sum_size(params.type);
  const Array panels(elements, size, false), sums(elements, size, false),
      grad_panels(grad_panel_elements(g), size, false);
  UnpoolConv2dBackwardParams call = params;
  call.grad_panels = grad_panels.data();
  if (params.grad_input != nullptr) {
    run(pack_weight_panels_work, pack_weight_panels_cpu,
        PackWeightPanelsParams{weight, channels, g.outputs, panels.data(), params.type});
    call.panels = panels.data();
  }
  if (grad_weight.data != nullptr) {
    std::memset(sums.data(), 0, sums.size());
    call.grad_weight_panels = sums.data();
  }
  for (call.sample = 0; call.sample < g.pool.samples; ++call.sample) {
    run(pack_grad_panels_work, pack_grad_panels_cpu, call);
    run(unpool_conv2d_backward_work, unpool_conv2d_backward_cpu, call);
  }
  if (grad_weight.data == nullptr) return;
  run(unpack_weight_panels_work, unpack_weight_panels_cpu,
      UnpackWeightPanelsParams{grad_weight, channels, g.outputs, sums.data(), params.type});
}

void dense_conv_transpose2d(const DenseConvTranspose2dParams& params, const TapPanelParams& weight,
                            const std::string&) {
  const Array panels(panels_of(weight.outputs) * kPanel * weight.channels * weight.taps, sum_size(params.type), false);
  TapPanelParams packing = weight;
  packing.panels = panels.data();
  run(pack_tap_panels_work, pack_tap_panels_cpu, packing);
  DenseConvTranspose2dParams packed = params;
  packed.panels = panels.data();
  run(dense_conv_transpose2d_work, dense_conv_transpose2d_cpu, packed);
}

}  // namespace backend
