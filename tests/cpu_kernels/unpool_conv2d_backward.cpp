// The gradients of unpooling followed by a convolution.
#include "cpu_backend.h"
#include "cpu_cases.h"
#include "unpool_conv2d_cases.h"

namespace kernel_cases {
namespace {

void unpool_conv2d_backward(Tester* tester, const UnpoolConv& g, ElementType type, bool mirrored, bool strided,
                            bool wants_input, bool wants_weight, bool shifted) {
  if (!tester->takes_next()) return;
  const int size = element_size(type);
  const int64_t results = g.pool.samples * g.outputs * g.output_height * g.output_width;
  const int64_t weights = kPanelTaps * g.pool.channels * g.outputs, inputs = pooled_count(g.pool);
  Array input(inputs, size, shifted), codes(g.pool.samples * g.pool.sample_bytes, 1, shifted),
      weight(weights, size, false), grad(results, size, shifted), grad_input(inputs, size, shifted),
      grad_weight(weights, size, false);
  for (Array* array : {&input, &weight, &grad}) tester->fill(array, type, false);
  tester->fill_random_bytes(&codes);
  const auto view = weight_view<const void>(weight.bytes(), g, size, mirrored, strided);
  auto grad_view = weight_view<void>(grad_weight.bytes(), g, size, mirrored, strided);
  if (!wants_weight) grad_view.data = nullptr;
  const std::string what =
      describe(g, type) + (mirrored ? ", mirrored" : "") + (strided ? ", strided" : "") + (shifted ? ", shifted" : "");
  UnpoolConv2dBackwardParams params{};
  params.grad_output = grad.data();
  params.input = input.data();
  params.codes = codes.bytes();
  params.grad_input = wants_input ? grad_input.data() : nullptr;
  params.geometry = g;
  params.type = type;
  backend::unpool_conv2d_backward(params, view, grad_view, what);
  std::vector<double> by_input(inputs), by_weight(weights);
  host_model::unpool_conv2d_backward(params, view, codes.copy(), &by_input, &by_weight);
  const double tolerance = tolerance_of(type);
  if (wants_input) expect_close(grad_input, by_input, type, tolerance, "unpool_conv2d_backward input", what);
  if (!wants_weight) return;
  // The model's order is [channels, outputs, 9].
  std::vector<double> in_order(weights);
  const int64_t start = (static_cast<const uint8_t*>(view.data) - weight.bytes()) / size;
  for (int64_t c = 0, k = 0; c < g.pool.channels; ++c) {
    for (int64_t o = 0; o < g.outputs; ++o) {
      for (int64_t tap = 0; tap < kPanelTaps; ++tap, ++k) {
        in_order[start + c * view.channel_stride + o * view.output_stride + tap / 3 * view.row_stride +
                 tap % 3 * view.column_stride] = by_weight[k];
      }
    }
  }
  expect_close(grad_weight, in_order, type, tolerance, "unpool_conv2d_backward weight", what);
}

}  // namespace

// Also more cells than a tile has, in one row and in several, and more channels than are swept at once.
void test_unpool_conv2d_backward(Tester* tester) {
  std::vector<UnpoolShape> all = unpool_shapes();
  all.push_back({1, 3, 17, {3, 65}, {6, 130}, {1, 1}});
  all.push_back({1, 66, 5, {9, 8}, {17, 15}, {1, 1}});
  for (const bool channels_last : {false, true}) {
    for (const UnpoolShape& shape : all) {
      const UnpoolConv g = geometry_of(shape, channels_last);
      for (const ElementType type : kFloatTypes) {
        const uint32_t chance = tester->random();
        const bool wants_input = chance % 3 != 0, wants_weight = chance % 3 != 1;
        unpool_conv2d_backward(tester, g, type, chance / 4 % 2 == 0, chance / 8 % 2 == 0, wants_input, wants_weight,
                               chance / 16 % 4 == 0);
      }
    }
  }
}

}  // namespace kernel_cases
