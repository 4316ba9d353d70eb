// Upsampling, with an addend or without, and its label map.
#include "cases.h"
#include "upsampling_cases.h"

namespace kernel_cases {

void upsample(Tester* tester, const Upsampling& g, ElementType type, bool has_bias, int64_t addend_origin, bool special,
              bool shifts, bool may_shift_weight) {
  if (!backend::takes(g) || !tester->takes_next()) return;
  const int size = element_size(type);
  const int64_t outputs = g.samples * g.channels * g.output_height * g.output_width;
  const int64_t margin = addend_origin < 0 ? 0 : 2 * addend_origin, extra = tester->random() % 2;
  Shifted shifted = tester->next_shifted(shifts, 4);
  if (!shifts && may_shift_weight && tester->random() % 4 == 0) shifted = {1};
  Array weight(g.channels * g.kernel_h * g.kernel_w, size, shifted[0]), bias(g.channels, size, shifted[0]),
      input(g.samples * input_channels(g) * g.height * g.width, size, shifted[1]),
      addend(g.samples * g.channels * (g.output_height + margin) * (g.output_width + margin + extra), size, shifted[2]),
      output(outputs, size, shifted[3]), expected(outputs, size, false);
  tester->fill(&input, type, special);
  for (Array* array : {&weight, &bias, &addend}) tester->fill(array, type, false);
  DepthwiseConvTranspose2dParams params{};
  params.operands = {input.data(), weight.data(), has_bias ? bias.data() : nullptr, g, type};
  params.output = output.data();
  if (addend_origin >= 0) {
    params.addend = {addend.data(), g.output_height + margin, g.output_width + margin + extra, addend_origin,
                     addend_origin};
  }
  const std::string what = describe(g, type) + (has_bias ? ", bias" : "") + ", addend from " +
                           std::to_string(addend_origin) + shifted.text();
  backend::depthwise_conv_transpose2d(params, what);
  host_model::depthwise_conv_transpose2d(params, expected.data());
  expect_equal(output, expected, type, "depthwise_conv_transpose2d", what);
}

namespace {

void argmax(Tester* tester, const Upsampling& g, ElementType type, bool has_bias, bool wants_best, bool special) {
  if (g.channels > 256) return;  // outside the contract: labels are bytes
  if (!backend::takes(g) || !tester->takes_next()) return;
  const int size = element_size(type);
  const int64_t pixels = g.samples * g.output_height * g.output_width;
  Array input(g.samples * input_channels(g) * g.height * g.width, size, false),
      weight(g.channels * g.kernel_h * g.kernel_w, size, false), bias(g.channels, size, false),
      labels(pixels, 1, false), best(pixels, size, false), expected(pixels, size, false);
  tester->fill(&input, type, special);
  for (Array* array : {&weight, &bias}) tester->fill(array, type, false);
  const DepthwiseArgmaxParams params{{input.data(), weight.data(), has_bias ? bias.data() : nullptr, g, type},
                                     labels.bytes(),
                                     wants_best ? best.data() : nullptr};
  const std::string what = describe(g, type) + (has_bias ? ", bias" : "") + (special ? ", special" : "");
  backend::depthwise_argmax(params, what);
  std::vector<uint8_t> expected_labels(pixels);
  host_model::depthwise_argmax(params, expected_labels.data(), expected.data());
  expect_equal(labels.copy(), expected_labels, "depthwise_argmax", what);
  if (wants_best) expect_equal(best, expected, type, "depthwise_argmax scores", what);
}

}  // namespace

void test_upsampling(Tester* tester) {
  for (const bool channels_last : {false, true}) {
    for (const Upsample& shape : upsamplings()) {
      const Upsampling g = geometry_of(shape, channels_last);
      for (const ElementType type : kFloatTypes) {
        const int64_t addend_origin = 4 >> tester->random() % 4;
        upsample(tester, g, type, true, -1, false, false);
        upsample(tester, g, type, false, addend_origin, true, false);
        argmax(tester, g, type, tester->random() % 2 == 0, tester->random() % 2 == 0, true);
      }
      upsample(tester, g, ElementType::kFloat32, true, 1, true, true);
      upsample(tester, g, ElementType::kFloat16, false, -1, false, true);
      argmax(tester, g, ElementType::kFloat32, true, true, false);
    }
  }
}

}  // namespace kernel_cases
