// Max-pooling, plain and after a ReLU: every window and type, ties, NaN, and windows of nothing but the lowest value.
#include "cases.h"
#include "pool_shapes.h"
#include "tester.h"

namespace kernel_cases {

namespace {

void max_pool2d(Tester* tester, const PoolGeometry& g, ElementType type, bool relu, bool special, bool shifts,
                bool all_lowest = false) {
  if (!tester->takes_next()) return;
  const Shifted shifted = tester->next_shifted(shifts, 3);
  Array input(map_count(g), element_size(type), shifted[0]), output(pooled_count(g), element_size(type), shifted[1]),
      expected(pooled_count(g), element_size(type), false), codes(g.samples * g.sample_bytes, 1, shifted[2]);
  if (all_lowest) {
    tester->fill_lowest(&input, type);
  } else {
    tester->fill(&input, type, special);
  }
  const MaxPool2dParams params{input.data(), output.data(), codes.bytes(), g, type, relu};
  const std::string what = describe(g, type) + (relu ? ", relu" : "") + shifted.text();
  backend::max_pool2d(params, what);
  std::vector<uint8_t> expected_codes(codes.size());
  host_model::max_pool2d(params, expected.data(), &expected_codes);
  expect_equal(output, expected, type, "max_pool2d", what);
  expect_equal(codes.copy(), expected_codes, "max_pool2d codes", what);
}

}  // namespace

void test_max_pool2d(Tester* tester) {
  for (const bool channels_last : {false, true}) {
    for (const Shape& shape : shapes_of_tiles()) {
      const PoolGeometry g = geometry_of(shape, channels_last);
      for (const ElementType type : kVectorTypes) {
        max_pool2d(tester, g, type, false, false, false);
        max_pool2d(tester, g, type, true, true, false);
        max_pool2d(tester, g, type, false, true, true);
      }
    }
    for (const Shape& shape : shapes_of_3x3_overlaps()) {
      const PoolGeometry g = geometry_of(shape, channels_last);
      for (const ElementType type : kVectorTypes) {
        max_pool2d(tester, g, type, false, true, false);
        max_pool2d(tester, g, type, true, true, tester->random() % 4 == 0);
        max_pool2d(tester, g, type, true, false, false, true);
        max_pool2d(tester, g, type, false, false, false, true);
      }
    }
    for (const Shape& shape : shapes_of_any_windows()) {
      const PoolGeometry g = geometry_of(shape, channels_last);
      for (const ElementType type : kAllTypes) max_pool2d(tester, g, type, tester->random() % 2 == 0, true, false);
      max_pool2d(tester, g, ElementType::kFloat32, true, true, true);
      max_pool2d(tester, g, ElementType::kBFloat16, false, false, false, true);
      max_pool2d(tester, g, ElementType::kInt8, false, false, false, true);
    }
  }
}

}  // namespace kernel_cases
