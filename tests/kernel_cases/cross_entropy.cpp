// The cross-entropy of upsampled scores, and its gradients.
#include <initializer_list>

#include "cases.h"
#include "upsampling_cases.h"

namespace kernel_cases {

namespace {

// `weighted`: class weights, one of which is zero. `special`: NaN and infinities here and there in the input, or an
// infinite gradient where no pixel counts. What the gradients need comes from the loss kernel.
void cross_entropy(Tester* tester, const Upsampling& g, ElementType type, double smoothing, bool weighted, bool special,
                   Wanted wanted = Wanted::kSome) {
  const int64_t pixels = g.samples * g.output_height * g.output_width;
  if (pixels == 0 || !backend::takes(g) || !tester->takes_next()) return;  // ops do not call kernels for empty outputs
  const bool has_bias = tester->random() % 2 == 0, reduces = tester->random() % 2 == 0;
  const int size = element_size(type);
  const ElementType sum_type = type == ElementType::kFloat64 ? type : ElementType::kFloat32;
  const int sum_size = element_size(sum_type);
  const int64_t inputs = g.samples * input_channels(g) * g.height * g.width;
  const int64_t weights = g.channels * g.kernel_h * g.kernel_w;
  Array input(inputs, size, false), weight(weights, size, false), bias(g.channels, size, false),
      class_weight(g.channels, sum_size, false), target(pixels, 8, false);
  for (Array* array : {&input, &weight, &bias}) tester->fill(array, type, false);
  for (int64_t k = 0; special && k < inputs; ++k) {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    constexpr double kSpecial[] = {std::numeric_limits<double>::quiet_NaN(), kInfinity, -kInfinity, -kInfinity};
    if (tester->random() % 16 == 0) host_model::store(input.data(), type, k, kSpecial[tester->random() % 4]);
  }
  for (int64_t c = 0; c < g.channels; ++c) {
    host_model::store(class_weight.data(), sum_type, c, static_cast<double>(c + 2 * g.channels / 3) * 0.25);
  }
  host_model::store(class_weight.data(), sum_type, g.channels / 2, 0);
  const int64_t ignored = g.channels > 255 ? 7 : 255, no_class[] = {ignored, ignored, -1, int64_t{1} << 40};
  const bool nothing_counts = special && tester->random() % 4 == 0;
  for (int64_t k = 0; k < pixels; ++k) {
    const bool counts = !nothing_counts && tester->random() % 4 != 0;
    target.int64s()[k] = counts ? static_cast<int64_t>(tester->random() % static_cast<uint64_t>(g.channels))
                                : no_class[tester->random() % 4];
  }
  const UpsamplingOperands scores{input.data(), weight.data(), has_bias ? bias.data() : nullptr, g, type};
  const CrossEntropy criterion{weighted ? class_weight.data() : nullptr, smoothing};
  const std::string what = describe(g, type) + (has_bias ? ", bias" : "") + (weighted ? ", weighted" : "") +
                           (special ? ", special" : "") + ", smoothing " + std::to_string(smoothing);
  const double tolerance = type == ElementType::kFloat64 ? 1e-12 : 1e-5;
  Array normalizers(2 * pixels, sum_size, false), labels(pixels, g.channels > 255 ? 4 : 1, false);
  DepthwiseCrossEntropyParams params{scores,  criterion, target.int64s(), ignored, nullptr,
                                     nullptr, nullptr,   nullptr,         {}};
  std::vector<double> expected(pixels);
  std::vector<int64_t> expected_labels(pixels);
  double expected_loss, expected_weight;
  host_model::depthwise_cross_entropy(params, expected.data(), expected_labels.data(), &expected_loss,
                                      &expected_weight);
  for (const bool keeps : {false, true}) {
    if (!keeps && tester->random() % 4 != 0) continue;
    const Array losses(pixels, sum_size, false), loss(1, sum_size, false), total_weight(1, sum_size, false);
    params.losses = reduces ? nullptr : losses.data();
    params.normalizers = keeps ? normalizers.data() : nullptr;
    params.labels = keeps ? labels.data() : nullptr;
    params.totals = {reduces ? loss.data() : nullptr, total_weight.data(), nullptr};
    backend::depthwise_cross_entropy(params, what);
    if (reduces) {
      expect_close(loss, {expected_loss}, sum_type, tolerance, "depthwise_cross_entropy loss", what);
    } else {
      expect_close(losses, expected, sum_type, tolerance, "depthwise_cross_entropy losses", what);
    }
    expect_close(total_weight, {expected_weight}, sum_type, tolerance, "depthwise_cross_entropy weight", what);
  }
  for (int64_t k = 0; k < pixels; ++k) {
    const int64_t expected_label = expected_labels[k];
    const bool same = g.channels > 255
                          ? static_cast<const int32_t*>(labels.data())[k] == expected_label
                          : labels.bytes()[k] == (expected_label < 0 ? 255 : static_cast<uint8_t>(expected_label));
    if (same) continue;
    fail("depthwise_cross_entropy", what, "label %ld is not %ld", k, expected_label);
  }
  Array grad_loss(reduces ? 1 : pixels, sum_size, false);
  tester->fill(&grad_loss, sum_type, false);
  if (nothing_counts) host_model::store(grad_loss.data(), sum_type, 0, std::numeric_limits<double>::infinity());
  DepthwiseCrossEntropyBackwardParams backward{scores,  criterion, normalizers.data(), labels.data(), grad_loss.data(),
                                               reduces, {}};
  const GradientParts counts = backend::depthwise_cross_entropy_backward_parts(g);
  const auto run = [&](double* by_input, double* by_weight, double* by_bias) {
    backend::depthwise_cross_entropy_backward(backward, what);
    host_model::depthwise_cross_entropy_backward(params, backward, by_input, by_weight, by_bias);
  };
  test_gradients_of(tester, g, type, wanted, counts, &backward.gradients, what, run);
}

}  // namespace

void test_cross_entropy(Tester* tester) {
  constexpr double kSmoothings[] = {0, 0.25, 1};
  for (const int64_t classes : {2, 256}) {  // whose labels are of one byte and of four
    for (const Upsample& shape : upsamplings_of_each_kind(classes)) {
      for (const ElementType type : kFloatTypes) {
        cross_entropy(tester, geometry_of(shape, false), type, 0.25, true, false, Wanted::kAll);
      }
    }
  }
  const std::vector<Upsample> shapes = upsamplings_with_gradients();
  for (const bool channels_last : {false, true}) {
    for (size_t k = 0; k < shapes.size(); ++k) {
      const Upsampling g = geometry_of(shapes[k], channels_last);
      if (is_slow(g)) continue;
      cross_entropy(tester, g, kFloatTypes[(k + channels_last) % 4], kSmoothings[k % 3], k % 2 == 0, false);
      cross_entropy(tester, g, kFloatTypes[(k + channels_last + 1) % 2], kSmoothings[(k + 1) % 3], k % 4 < 2, true);
    }
  }
}

}  // namespace kernel_cases
