// Everything that reads or writes int64 indices: conversions to codes and back, unpooling by them, their extremes; and
// codes in the other memory order.
#include <algorithm>
#include <initializer_list>

#include "cases.h"
#include "pool_shapes.h"
#include "tester.h"

namespace kernel_cases {

namespace {

void extremes(Tester* tester, int64_t count, int64_t ignored) {
  if (!tester->takes_next()) return;
  const std::string what = std::to_string(count) + " values, ignored " + std::to_string(ignored);
  Array values(count, 8, true), parts(2 * extremes_parts(count), 8, false), expected(parts.size() / 8, 8, false);
  for (int64_t k = 0; k < count; ++k) {
    values.int64s()[k] =
        tester->random() % 4 == 0 ? ignored : static_cast<int64_t>(tester->random()) - (int64_t{1} << 30);
  }
  host_model::extremes(values.int64s(), count, ignored, expected.int64s());
  backend::extremes({values.int64s(), count, ignored, parts.int64s()}, what);
  expect_equal(parts, expected, ElementType::kInt64, "extremes", what);
}

void conversions(Tester* tester, const PoolGeometry& g) {
  if (pooled_elements(g) == 0 && !backend::takes_empty_pooled_maps()) return;
  if (!tester->takes_next()) return;
  const std::string what = describe(g, ElementType::kInt64);
  Array codes(g.samples * g.sample_bytes, 1, false), indices(pooled_count(g), 8, false),
      expected_indices(pooled_count(g), 8, false);
  tester->fill_random_bytes(&codes);
  const IndicesFromCodesParams to_indices{codes.bytes(), indices.int64s(), g};
  backend::indices_from_codes(to_indices, what);
  host_model::indices_from_codes(g, codes.copy(), expected_indices.int64s());
  expect_equal(indices, expected_indices, ElementType::kInt64, "indices_from_codes", what);

  for (int64_t k = 0; k < pooled_count(g); ++k) {
    if (tester->random() % 8 == 0) indices.int64s()[k] = static_cast<int64_t>(tester->random() % 1000) - 100;
    if (tester->random() % 64 == 0) indices.int64s()[k] = static_cast<int64_t>(tester->random()) << 32;
  }
  Array back(codes.size(), 1, false);
  int64_t invalid = 0;
  const CodesFromIndicesParams to_codes{indices.int64s(), back.bytes(), &invalid, g};
  backend::codes_from_indices(to_codes, what);
  std::vector<uint8_t> expected_codes(codes.size());
  const int64_t expected_invalid = host_model::codes_from_indices(g, indices.int64s(), &expected_codes);
  expect_equal(back.copy(), expected_codes, "codes_from_indices", what);
  if (invalid != expected_invalid) {
    fail("codes_from_indices", what, "counts %ld instead of %ld", invalid, expected_invalid);
  }

  Array repacked(codes.size(), 1, false);
  const RepackCodesParams repack{codes.bytes(), repacked.bytes(), g};
  backend::repack_codes(repack, what);
  std::fill(expected_codes.begin(), expected_codes.end(), 0);
  host_model::repack_codes(g, codes.copy(), &expected_codes);
  expect_equal(repacked.copy(), expected_codes, "repack_codes", what);
}

void index_unpool(Tester* tester, int64_t samples, int64_t channels, int64_t pixels, int64_t pooled_pixels,
                  bool channels_last, ElementType type) {
  if (!tester->takes_next()) return;
  const int size = element_size(type);
  const int64_t map_count = samples * channels * pixels, pooled_count = samples * channels * pooled_pixels;
  Array values(pooled_count, size, false), map(map_count, size, false), expected_map(map_count, size, false),
      grad(pooled_count, size, false), expected_grad(pooled_count, size, false), indices(pooled_count, 8, false);
  tester->fill(&values, type, false);
  for (int64_t k = 0; k < pooled_count; ++k) {
    // Here and there, an index that names nothing: far away, or a pixel of the plane before or behind.
    const int64_t inside = static_cast<int64_t>(tester->random() % static_cast<uint64_t>(pixels));
    const int64_t far_away = static_cast<int64_t>(tester->random()) - (int64_t{1} << 31);
    const int64_t wild[] = {far_away, inside - pixels, inside + pixels};
    indices.int64s()[k] = tester->random() % 8 == 0 ? wild[tester->random() % 3] : inside;
  }
  char what[128];
  std::snprintf(what, sizeof(what), "(%ld, %ld, %ld from %ld), %s, %s", samples, channels, pixels, pooled_pixels,
                channels_last ? "channels_last" : "NCHW", kTypeNames[static_cast<int>(type)]);
  const IndexedMaps maps{indices.int64s(), samples, channels, pixels, pooled_pixels, channels_last, type};
  const IndexUnpoolParams params{maps, values.data(), map.data(), nullptr};
  backend::index_unpool(params, what);
  host_model::index_unpool(params, expected_map.data());
  expect_equal(map, expected_map, type, "index_unpool", what);
  tester->fill(&map, type, false);
  const IndexUnpoolBackwardParams backward{maps, map.data(), grad.data(), nullptr};
  backend::index_unpool_backward(backward, what);
  host_model::index_unpool_backward(backward, expected_grad.data());
  expect_equal(grad, expected_grad, type, "index_unpool_backward", what);
}

}  // namespace

void test_indices(Tester* tester) {
  for (const int64_t count : {0, 1, 255, 257, 8191, 8192, 8193, 20000}) {
    for (const int64_t ignored : {0, 255, -100}) extremes(tester, count, ignored);
  }
  for (const bool channels_last : {false, true}) {
    for (const Shape& shape : shapes_of_tiles()) conversions(tester, geometry_of(shape, channels_last));
    for (const Shape& shape : shapes_of_any_windows()) conversions(tester, geometry_of(shape, channels_last));
    for (const ElementType type : kFloatTypes) {
      index_unpool(tester, 2, 3, 35, 12, channels_last, type);
      index_unpool(tester, 3, 8, 64, 64, channels_last, type);
      index_unpool(tester, 1, 5, 7, 300, channels_last, type);
      index_unpool(tester, 0, 5, 7, 3, channels_last, type);
      index_unpool(tester, 2, 2, 9, 0, channels_last, type);
    }
  }
}

}  // namespace kernel_cases
