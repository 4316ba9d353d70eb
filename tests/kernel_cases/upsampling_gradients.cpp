// The gradients of upsampling.
#include <array>
#include <initializer_list>

#include "cases.h"
#include "upsampling_cases.h"

namespace kernel_cases {

void test_gradients_of(Tester* tester, const Upsampling& g, ElementType type, Wanted wanted, const GradientParts& parts,
                       UpsamplingGradients* out, const std::string& what,
                       const std::function<void(double*, double*, double*)>& run) {
  const int size = element_size(type), sum_size = type == ElementType::kFloat64 ? 8 : 4;
  const int64_t inputs = g.samples * input_channels(g) * g.height * g.width;
  const int64_t weights = g.channels * g.kernel_h * g.kernel_w;
  const auto draw = [&] { return wanted == Wanted::kAll || (wanted == Wanted::kSome && tester->random() % 4 != 0); };
  const bool wants_input = wanted == Wanted::kInput || draw(), wants_weight = draw(), wants_bias = draw();
  Array grad_input(inputs, size, false), grad_weight(weights, size, false), grad_bias(g.channels, size, false),
      weight_parts(parts.weight * weights, sum_size, false), bias_parts(parts.bias * g.channels, sum_size, false);
  if (wants_input) out->input = grad_input.data();
  if (wants_weight) out->weight = weight_parts.data();
  if (wants_bias) out->bias = bias_parts.data();
  std::vector<double> by_input(inputs), by_weight(weights), by_bias(g.channels);
  run(by_input.data(), by_weight.data(), by_bias.data());
  const SumPartsParams sums[] = {{weight_parts.data(), grad_weight.data(), parts.weight, weights, type},
                                 {bias_parts.data(), grad_bias.data(), parts.bias, g.channels, type}};
  for (const SumPartsParams& sum : sums) backend::sum_parts(sum, what);
  const double tolerance = tolerance_of(type);
  if (wants_input) expect_close(grad_input, by_input, type, tolerance, "gradient of the input", what);
  if (wants_weight) expect_close(grad_weight, by_weight, type, tolerance, "gradient of the weight", what);
  if (wants_bias) expect_close(grad_bias, by_bias, type, tolerance, "gradient of the bias", what);
}

void upsample_backward(Tester* tester, const Upsampling& g, ElementType type, bool special, Wanted wanted) {
  const int64_t outputs = g.samples * g.channels * g.output_height * g.output_width;
  if (outputs == 0 || !backend::takes(g) || !tester->takes_next()) return;  // ops do not call kernels for empty outputs
  const int size = element_size(type);
  Array input(g.samples * input_channels(g) * g.height * g.width, size, false),
      weight(g.channels * g.kernel_h * g.kernel_w, size, false), grad(outputs, size, false);
  for (Array* array : {&input, &weight, &grad}) tester->fill(array, type, false);
  const Array& infinite = *std::array<Array*, 4>{&grad, &grad, &weight, &input}[tester->random() % 4];
  for (int64_t k = 0; special && k < infinite.size() / size; k += 1 + static_cast<int64_t>(tester->random() % 64)) {
    host_model::store(infinite.data(), type, k, std::numeric_limits<double>::infinity());
  }
  DepthwiseConvTranspose2dBackwardParams params{grad.data(), {input.data(), weight.data(), nullptr, g, type}, {}};
  const std::string what = describe(g, type) + (special ? ", special" : "");
  const GradientParts counts = backend::depthwise_conv_transpose2d_backward_parts(g);
  const auto run = [&](double* by_input, double* by_weight, double* by_bias) {
    backend::depthwise_conv_transpose2d_backward(params, what);
    host_model::depthwise_conv_transpose2d_backward(params, by_input, by_weight, by_bias);
  };
  test_gradients_of(tester, g, type, wanted, counts, &params.gradients, what, run);
}

void test_upsampling_gradients(Tester* tester) {
  for (const Upsample& shape : deep_upsamplings()) {
    const Upsampling g = geometry_of(shape, true);
    const uint32_t chance = tester->random();
    for (int k = 0; k < (shape.samples < 64 ? 4 : 1); ++k) {
      upsample_backward(tester, g, kFloatTypes[(k + chance) % 4], (k + chance / 4) % 2 == 0, Wanted::kSome);
    }
  }
  for (const Upsample& shape : upsamplings_of_each_kind(2)) {
    for (const ElementType type : kFloatTypes) {
      upsample_backward(tester, geometry_of(shape, false), type, false, Wanted::kAll);
    }
  }
  const std::vector<Upsample> shapes = upsamplings_with_gradients();
  for (const bool channels_last : {false, true}) {
    for (size_t k = 0; k < shapes.size(); ++k) {
      const Upsampling g = geometry_of(shapes[k], channels_last);
      if (is_slow(g)) continue;
      upsample_backward(tester, g, kFloatTypes[(k + channels_last) % 4], false, Wanted::kSome);
      upsample_backward(tester, g, kFloatTypes[(k + channels_last + 2) % 4], true, Wanted::kSome);
    }
  }
}

}  // namespace kernel_cases
