// Scatter and its adjoint gather, with codes of random bytes.
#include <initializer_list>

#include "cases.h"
#include "pool_shapes.h"
#include "tester.h"

namespace kernel_cases {

namespace {

void scatter_and_gather(Tester* tester, const PoolGeometry& g, ElementType type, Overlap overlap, bool relu,
                        bool shifts) {
  if (pooled_elements(g) == 0 && !backend::takes_empty_pooled_maps()) return;
  if (!tester->takes_next()) return;
  const int size = element_size(type);
  const Shifted shifted = tester->next_shifted(shifts, 4);
  Array values(pooled_count(g), size, shifted[0]), relu_output(pooled_count(g), size, shifted[1]),
      map(map_count(g), size, shifted[2]), codes(g.samples * g.sample_bytes, 1, shifted[3]);
  tester->fill(&values, type, false);
  tester->fill(&relu_output, type, true);
  tester->fill_random_bytes(&codes);
  const std::string what = describe(g, type) + (overlap == Overlap::kAdd ? ", add" : ", keep last") +
                           (relu ? ", relu" : "") + shifted.text();
  const void* mask = relu ? relu_output.data() : nullptr;
  {
    Array expected(map_count(g), size, false);
    const ScatterParams params{values.data(), mask, codes.bytes(), map.data(), g, type, overlap, false};
    backend::scatter(params, what);
    host_model::scatter(params, codes.copy(), expected.data());
    expect_equal(map, expected, type, "scatter", what);
  }
  tester->fill(&map, type, false);
  {
    Array gathered(pooled_count(g), size, shifted[0]), expected(pooled_count(g), size, false);
    const GatherParams params{map.data(), mask, codes.bytes(), gathered.data(), g, type, overlap};
    backend::gather(params, what);
    host_model::gather(params, codes.copy(), expected.data());
    expect_equal(gathered, expected, type, "gather", what);
  }
}

}  // namespace

void test_scatter_and_gather(Tester* tester) {
  for (const bool channels_last : {false, true}) {
    for (const Shape& shape : shapes_of_tiles()) {
      const PoolGeometry g = geometry_of(shape, channels_last);
      for (const ElementType type : kVectorTypes) {
        scatter_and_gather(tester, g, type, Overlap::kKeepLast, false, false);
        scatter_and_gather(tester, g, type, Overlap::kAdd, true, false);
        scatter_and_gather(tester, g, type, Overlap::kAdd, true, true);
      }
      scatter_and_gather(tester, g, ElementType::kFloat64, Overlap::kKeepLast, false, false);
    }
    for (const Shape& shape : shapes_of_3x3_overlaps()) {
      const PoolGeometry g = geometry_of(shape, channels_last);
      for (const ElementType type : kVectorTypes) {
        scatter_and_gather(tester, g, type, Overlap::kAdd, false, false);
        scatter_and_gather(tester, g, type, Overlap::kAdd, true, tester->random() % 4 == 0);
      }
      scatter_and_gather(tester, g, ElementType::kFloat64, Overlap::kAdd, true, false);
      scatter_and_gather(tester, g, ElementType::kBFloat16, Overlap::kKeepLast, true, false);
    }
    for (const Shape& shape : shapes_of_any_windows()) {
      const PoolGeometry g = geometry_of(shape, channels_last);
      for (const ElementType type : kFloatTypes) {
        for (const Overlap overlap : {Overlap::kKeepLast, Overlap::kAdd}) {
          scatter_and_gather(tester, g, type, overlap, tester->random() % 2 == 0, false);
        }
      }
      scatter_and_gather(tester, g, ElementType::kFloat32, Overlap::kAdd, true, true);
      scatter_and_gather(tester, g, ElementType::kFloat16, Overlap::kKeepLast, false, true);
    }
    // Unpooling to more pixels than the windows reach, and to fewer.
    for (const ElementType type : kVectorTypes) {
      for (const int64_t size : {5, 8, 16, 24}) {
        PoolGeometry g = geometry_of({2, 8, 12, 16, square(2, 2)}, channels_last);
        g.height = size + 1;
        g.width = size;
        scatter_and_gather(tester, g, type, Overlap::kKeepLast, false, false);
        g = geometry_of({2, 8, 12, 16, square(3, 2, 1)}, channels_last);
        g.height = size + 1;
        g.width = size;
        scatter_and_gather(tester, g, type, Overlap::kAdd, true, false);
      }
    }
  }
}

}  // namespace kernel_cases
