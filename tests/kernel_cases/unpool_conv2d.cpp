// Unpooling followed by a convolution.
#include "cases.h"
#include "unpool_conv2d_cases.h"

namespace kernel_cases {

namespace {

// `mirrored`: the weight of a plain convolution. `strided`: the taps of a weight are not adjacent in memory.
// `special`: NaN and infinities among the values; pixels without a value take no part.
void unpool_conv2d(Tester* tester, const UnpoolConv& g, ElementType type, bool mirrored, bool strided, bool has_bias,
                   bool special, bool shifts) {
  if (!tester->takes_next()) return;
  const int size = element_size(type);
  const int64_t results = g.pool.samples * g.outputs * g.output_height * g.output_width;
  const int64_t weights = 9 * g.pool.channels * g.outputs;
  const Shifted shifted = tester->next_shifted(shifts, 3);
  Array input(pooled_count(g.pool), size, shifted[0]), codes(g.pool.samples * g.pool.sample_bytes, 1, shifted[1]),
      weight(weights, size, false), bias(g.outputs, size, false), output(results, size, shifted[2]);
  tester->fill(&input, type, special);
  tester->fill_random_bytes(&codes);
  for (Array* array : {&weight, &bias}) tester->fill(array, type, false);
  const auto view = weight_view<const void>(weight.bytes(), g, size, mirrored, strided);
  const std::string what = describe(g, type) + (has_bias ? ", bias" : "") + (mirrored ? ", mirrored" : "") +
                           (strided ? ", strided" : "") + (special ? ", special" : "") + shifted.text();
  const UnpoolConv2dParams params{input.data(),  codes.bytes(), view, nullptr, has_bias ? bias.data() : nullptr,
                                  output.data(), nullptr,       g,    type};
  backend::unpool_conv2d(params, what);
  std::vector<double> expected(results);
  host_model::unpool_conv2d(params, view, codes.copy(), &expected);
  expect_close(output, expected, type, tolerance_of(type), "unpool_conv2d", what);
}

}  // namespace

UnpoolConv geometry_of(const UnpoolShape& s, bool channels_last) {
  UnpoolConv g{};
  g.pool = geometry_of(Shape{s.samples, s.channels, 2 * s.pooled[0], 2 * s.pooled[1], square(2, 2)}, channels_last);
  g.pool.height = s.size[0];
  g.pool.width = s.size[1];
  g.outputs = s.outputs;
  g.padding_h = s.padding[0];
  g.padding_w = s.padding[1];
  g.output_height = s.size[0] + 2 - 2 * s.padding[0];
  g.output_width = s.size[1] + 2 - 2 * s.padding[1];
  return g;
}

// Sizes around the tiles of both kernels. One has tiles of 16x16 pixels of 64 outputs, and steps of 16 channels. The
// other has strips of 30 columns and 6 rows, with two more of each where they begin the map, of 64 outputs (32 for
// float64), and steps of 8 channels. Where there are enough blocks, its strips have 14 or 30 rows.
std::vector<UnpoolShape> unpool_shapes() {
  std::vector<UnpoolShape> shapes;
  shapes.push_back({1, 16, 64, {8, 8}, {16, 16}, {1, 1}});
  shapes.push_back({2, 8, 32, {7, 8}, {14, 16}, {1, 1}});
  shapes.push_back({1, 24, 8, {8, 9}, {16, 17}, {1, 1}});   // one pixel more than a tile; windows are cut off
  shapes.push_back({1, 17, 65, {8, 9}, {15, 17}, {1, 0}});  // one channel and one output more
  shapes.push_back({2, 7, 33, {9, 8}, {17, 15}, {0, 2}});
  shapes.push_back({1, 3, 31, {9, 1}, {18, 2}, {2, 0}});
  shapes.push_back({1, 9, 5, {15, 16}, {29, 31}, {1, 1}});
  shapes.push_back({1, 40, 72, {2, 3}, {5, 7}, {0, 1}});  // larger than the windows reach
  shapes.push_back({2, 5, 4, {4, 4}, {3, 5}, {1, 1}});    // smaller than any map pooled to 4x4
  shapes.push_back({3, 1, 1, {1, 1}, {2, 1}, {0, 0}});
  shapes.push_back({1, 8, 8, {16, 8}, {33, 16}, {2, 2}});
  shapes.push_back({1, 24, 16, {9, 17}, {17, 33}, {1, 1}});
  shapes.push_back({1, 24, 21, {4, 5}, {8, 10}, {1, 1}});  // vectors for values only, then for results only
  shapes.push_back({1, 20, 24, {5, 4}, {10, 8}, {1, 1}});
  shapes.push_back({2, 72, 9, {9, 8}, {18, 16}, {1, 1}});  // around the tiles that are converted to channels_last
  shapes.push_back({1, 10, 63, {4, 16}, {7, 32}, {1, 1}});
  shapes.push_back({1, 5, 3, {5, 31}, {9, 62}, {0, 2}});
  shapes.push_back({1, 2, 34, {6, 31}, {12, 62}, {2, 0}});
  shapes.push_back({0, 8, 8, {4, 4}, {8, 8}, {1, 1}});
  return shapes;
}

void test_unpool_conv2d(Tester* tester) {
  const UnpoolShape long_strips[] = {{128, 1, 1, {15, 1}, {29, 2}, {1, 1}},
                                     {128, 9, 1, {17, 1}, {33, 1}, {1, 1}},
                                     {256, 1, 2, {5, 2}, {10, 4}, {0, 1}}};
  for (const bool channels_last : {false, true}) {
    for (const UnpoolShape& shape : long_strips) {
      unpool_conv2d(tester, geometry_of(shape, channels_last), ElementType::kFloat32, false, false, true, true, false);
    }
    for (const UnpoolShape& shape : unpool_shapes()) {
      const UnpoolConv g = geometry_of(shape, channels_last);
      for (const ElementType type : kFloatTypes) {
        const uint32_t chance = tester->random();
        const bool mirrored = chance % 2 != 0, strided = chance / 2 % 2 != 0, has_bias = chance / 4 % 2 != 0;
        unpool_conv2d(tester, g, type, mirrored, strided, has_bias, false, chance / 8 % 4 == 0);
        unpool_conv2d(tester, g, type, !mirrored, strided, !has_bias, true, false);
        if (element_size(type) != 2) continue;
        backend::use_older_device(true);
        unpool_conv2d(tester, g, type, mirrored, !strided, has_bias, true, false);
        backend::use_older_device(false);
      }
    }
  }
}

}  // namespace kernel_cases
