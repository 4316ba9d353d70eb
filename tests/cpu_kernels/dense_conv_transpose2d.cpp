// Transposed convolutions whose channels mix.
#include <initializer_list>
#include <utility>

#include "cpu_backend.h"
#include "cpu_cases.h"

namespace kernel_cases {
namespace {

// One call. Kernels, strides, paddings and dilations are (vertical, horizontal); `extra` is the output_padding.
struct Dense {
  int64_t samples, channels, outputs, height, width;
  int64_t kernel[2], stride[2], padding[2] = {0, 0}, dilation[2] = {1, 1}, extra[2] = {0, 0};
};

ConvTranspose geometry_of(const Dense& d, bool channels_last) {
  const auto output = [&](int k, int64_t size) {
    return (size - 1) * d.stride[k] + (d.kernel[k] - 1) * d.dilation[k] + 1 - 2 * d.padding[k] + d.extra[k];
  };
  return {d.samples,          d.channels,    d.outputs,     d.height,     d.width,     output(0, d.height),
          output(1, d.width), d.kernel[0],   d.kernel[1],   d.stride[0],  d.stride[1], d.padding[0],
          d.padding[1],       d.dilation[0], d.dilation[1], channels_last};
}

std::string describe(const ConvTranspose& g, ElementType type) {
  char text[256];
  std::snprintf(text, sizeof(text),
                "(%ld, %ld, %ld, %ld) -> (%ld, %ld, %ld), kernel %ldx%ld stride %ld,%ld padding %ld,%ld dilation "
                "%ld,%ld, %s, %s",
                g.samples, g.channels, g.height, g.width, g.outputs, g.output_height, g.output_width, g.kernel_h,
                g.kernel_w, g.stride_h, g.stride_w, g.padding_h, g.padding_w, g.dilation_h, g.dilation_w,
                g.channels_last ? "channels_last" : "NCHW", kTypeNames[static_cast<int>(type)]);
  return text;
}

// `special`: NaN and infinities in the input.
void dense_conv_transpose2d(Tester* tester, const ConvTranspose& g, ElementType type, bool has_bias, bool special,
                            bool shifted) {
  if (!tester->takes_next()) return;
  const int size = element_size(type);
  const int64_t outputs = g.samples * g.outputs * g.output_height * g.output_width;
  Array input(g.samples * g.channels * g.height * g.width, size, shifted),
      weight(g.channels * g.outputs * g.kernel_h * g.kernel_w, size, shifted), bias(g.outputs, size, shifted),
      output(outputs, size, shifted);
  tester->fill(&input, type, special);
  for (Array* array : {&weight, &bias}) tester->fill(array, type, false);
  const std::string what =
      describe(g, type) + (has_bias ? ", bias" : "") + (special ? ", special" : "") + (shifted ? ", shifted" : "");
  const TapPanelParams packing{weight.data(), g.channels, g.outputs, g.kernel_h * g.kernel_w, nullptr, type};
  const DenseConvTranspose2dParams params{input.data(),  nullptr, has_bias ? bias.data() : nullptr,
                                          output.data(), g,       type};
  backend::dense_conv_transpose2d(params, packing, what);
  std::vector<double> expected(outputs);
  host_model::dense_conv_transpose2d(params, weight.data(), &expected);
  expect_close(output, expected, type, tolerance_of(type), "dense_conv_transpose2d", what);
}

}  // namespace

// Sizes around panels of 16 outputs, groups of four panels, vectors and bands of 192 cells.
void test_dense_conv_transpose2d(Tester* tester) {
  const Dense calls[] = {
      {1, 3, 16, 4, 5, {4, 4}, {2, 2}, {1, 1}},
      {2, 5, 17, 3, 7, {3, 3}, {2, 2}, {1, 1}, {1, 1}, {1, 1}},
      {1, 1, 1, 1, 1, {1, 1}, {1, 1}},
      {1, 2, 15, 5, 4, {3, 3}, {1, 1}, {1, 1}},
      {1, 7, 33, 6, 3, {2, 2}, {2, 2}},
      {2, 4, 64, 3, 3, {4, 4}, {2, 2}, {1, 1}},
      {1, 3, 65, 2, 9, {5, 5}, {3, 3}, {2, 1}},
      {1, 9, 8, 14, 16, {2, 2}, {2, 2}},
      {1, 2, 5, 3, 200, {3, 3}, {1, 1}, {1, 1}},
      {1, 2, 5, 2, 97, {4, 4}, {2, 2}, {1, 1}},
      {1, 16, 4, 5, 6, {1, 1}, {2, 3}},
      {1, 3, 6, 4, 4, {2, 3}, {3, 1}, {0, 1}},
      {1, 3, 6, 4, 5, {3, 2}, {2, 2}, {2, 1}, {2, 3}},
      {1, 2, 3, 3, 3, {3, 3}, {4, 5}, {0, 0}, {1, 1}, {3, 4}},
      {1, 31, 18, 2, 2, {8, 8}, {4, 4}, {2, 2}},
      {2, 3, 4, 4, 6, {7, 5}, {1, 2}, {5, 3}},
      {0, 3, 4, 4, 4, {2, 2}, {2, 2}},
  };
  for (const bool channels_last : {false, true}) {
    for (const Dense& call : calls) {
      const ConvTranspose g = geometry_of(call, channels_last);
      for (const ElementType type : kFloatTypes) {
        const uint32_t chance = tester->random();
        dense_conv_transpose2d(tester, g, type, chance % 2 == 0, false, chance / 2 % 4 == 0);
      }
      dense_conv_transpose2d(tester, g, kFloatTypes[tester->random() % 4], true, true, false);
    }
  }
}

}  // namespace kernel_cases
