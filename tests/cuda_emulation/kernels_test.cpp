// Runs the launchers of csrc/kernels/cuda in the emulation and compares every element and every byte with the host
// model.
//
//   kernels_test [ascending|descending|random] [share] [part]
//
// The first argument is the order of threads. With `share`, only every share-th case runs, starting with case `part`.
//
// Arrays are heap blocks of exactly their size, so that AddressSanitizer catches an access one element past the end.
// Prints each kernel that ran and its number of launches; the first mismatch ends the program.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "cuda/cell_division.cuh"
#include "host_model.h"
#include "shapes.h"

namespace {

using namespace segext;  // NOLINT: a test's main file
using namespace shapes;  // NOLINT: likewise

constexpr ElementType kAllTypes[] = {ElementType::kFloat32,  ElementType::kFloat64, ElementType::kFloat16,
                                     ElementType::kBFloat16, ElementType::kInt8,    ElementType::kUInt8,
                                     ElementType::kInt16,    ElementType::kInt32,   ElementType::kInt64};
constexpr ElementType kFloatTypes[] = {ElementType::kFloat32, ElementType::kFloat64, ElementType::kFloat16,
                                       ElementType::kBFloat16};
constexpr ElementType kVectorTypes[] = {ElementType::kFloat32, ElementType::kFloat16, ElementType::kBFloat16};

// A heap block of exactly this size, aligned for vectors or, if `shifted`, only for an element.
class Array {
 public:
  Array(int64_t count, int64_t element_bytes, bool shifted)
      : bytes_(count * element_bytes), shift_(shifted ? element_bytes : 0), block_(std::malloc(bytes_ + shift_)) {
    std::memset(data(), 0xa5, bytes_);
  }
  ~Array() { std::free(block_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  void* data() const { return static_cast<char*>(block_) + shift_; }
  uint8_t* bytes() const { return static_cast<uint8_t*>(data()); }
  int64_t* int64s() const { return static_cast<int64_t*>(data()); }
  std::vector<uint8_t> copy() const { return std::vector<uint8_t>(bytes(), bytes() + bytes_); }
  int64_t size() const { return bytes_; }

 private:
  int64_t bytes_, shift_;
  void* block_;
};

std::map<const void*, int64_t>& launches() {
  static std::map<const void*, int64_t> counts;
  return counts;
}

// The kernel and the threads of the last launch.
const void*& launched_kernel() {
  static const void* kernel = nullptr;
  return kernel;
}

int64_t& launched_threads() {
  static int64_t threads = 0;
  return threads;
}

int64_t launches_in_all() {
  int64_t sum = 0;
  for (const auto& [kernel, count] : launches()) sum += count;
  return sum;
}

class Tester {
 public:
  Tester(int64_t share, int64_t part) : share_(share), part_(part) {}

  int64_t cases() const { return cases_; }

  // Whether upsampling runs on one multiprocessor and has so much work that its threads take several batches of cells.
  void expect_long_threads(bool expected) { long_threads_ = expected; }

  // Whether this run executes the next case.
  bool takes_next() { return counter_++ % share_ == part_; }

  // Fills an input with few different numbers, so that ties are common. With `special`, floating-point types also get
  // NaN, infinities and -0.
  void fill(Array* array, ElementType type, bool special) {
    const int64_t count = array->size() / element_size(type);
    for (int64_t k = 0; k < count; ++k) {
      double value = static_cast<double>(random_() % 9) - 4;
      if (type == ElementType::kUInt8) value += 4;
      if (host_model::is_integer(type)) {
        if (random_() % 16 == 0) value = host_model::lowest(type);
      } else {
        value *= 0.375;
        if (special) {
          switch (random_() % 8) {
            case 0:
              value = std::numeric_limits<double>::quiet_NaN();
              break;
            case 1:
              value = -std::numeric_limits<double>::infinity();
              break;
            case 2:
              value = -0.0;
              break;
            case 3:
              value = std::numeric_limits<double>::infinity();
              break;
          }
        }
      }
      host_model::store(array->data(), type, k, value);
    }
  }

  void fill_lowest(Array* array, ElementType type) {
    for (int64_t k = 0; k < array->size() / element_size(type); ++k) {
      host_model::store(array->data(), type, k, host_model::lowest(type));
    }
  }

  void fill_random_bytes(Array* array) {
    for (int64_t k = 0; k < array->size(); ++k) array->bytes()[k] = static_cast<uint8_t>(random_());
  }

  uint32_t random() { return static_cast<uint32_t>(random_()); }

  void expect_success(CudaStatus status, const char* op, const std::string& what) {
    if (status == cudaSuccess) return;
    std::fprintf(stderr, "%s returns %d: %s\n", op, status, what.c_str());
    std::exit(1);
  }

  // Expects that the threads of the last launch have more than `each` of the elements on average.
  void expect_each(int64_t elements, int64_t each, const char* op, const std::string& what) {
    if (elements > each * launched_threads()) return;
    std::fprintf(stderr, "%s has %ld threads for %ld elements: %s\n", op, launched_threads(), elements, what.c_str());
    std::exit(1);
  }

  // Expects one launch since there were `before`, or none for an empty output.
  void expect_one_launch(int64_t before, int64_t outputs, const char* op, const std::string& what) {
    expect_launches(before, outputs > 0 ? 1 : 0, op, what);
  }

  void expect_launches(int64_t before, int64_t count, const char* op, const std::string& what) {
    const int64_t launched = launches_in_all() - before;
    if (launched == count) return;
    std::fprintf(stderr, "%s launches %ld kernels: %s\n", op, launched, what.c_str());
    std::exit(1);
  }

  void expect_equal(const Array& got, const Array& expected, ElementType type, const char* op,
                    const std::string& what) {
    for (int64_t k = 0; k < got.size() / element_size(type); ++k) {
      const double a = host_model::load(got.data(), type, k), b = host_model::load(expected.data(), type, k);
      if ((a == b && std::signbit(a) == std::signbit(b)) || (std::isnan(a) && std::isnan(b))) continue;
      std::fprintf(stderr, "%s: element %ld is %g instead of %g: %s\n", op, k, a, b, what.c_str());
      std::exit(1);
    }
  }

  void expect_equal(const std::vector<uint8_t>& got, const std::vector<uint8_t>& expected, const char* op,
                    const std::string& what) {
    for (size_t k = 0; k < expected.size(); ++k) {
      if (got[k] == expected[k]) continue;
      std::fprintf(stderr, "%s: byte %zu is %02x instead of %02x: %s\n", op, k, got[k], expected[k], what.c_str());
      std::exit(1);
    }
  }

  // Each number may be off by `tolerance` times (1 + its magnitude). NaN and infinities must match exactly.
  void expect_close(const Array& got, const std::vector<double>& expected, ElementType type, double tolerance,
                    const char* op, const std::string& what) {
    for (int64_t k = 0; k < static_cast<int64_t>(expected.size()); ++k) {
      const double a = host_model::load(got.data(), type, k), b = expected[k];
      if (a == b || (std::isnan(a) && std::isnan(b))) continue;
      if (std::isfinite(b) && std::abs(a - b) <= tolerance * (1 + std::abs(b))) continue;
      std::fprintf(stderr, "%s: element %ld is %g instead of %g: %s\n", op, k, a, b, what.c_str());
      std::exit(1);
    }
  }

  void max_pool2d(const PoolGeometry& g, ElementType type, bool relu, bool special, bool shifted,
                  bool all_lowest = false) {
    if (!takes_next()) return;
    ++cases_;
    Array input(map_count(g), element_size(type), shifted), output(pooled_count(g), element_size(type), shifted),
        expected(pooled_count(g), element_size(type), false), codes(g.samples * g.sample_bytes, 1, shifted);
    if (all_lowest) {
      fill_lowest(&input, type);
    } else {
      fill(&input, type, special);
    }
    const MaxPool2dParams params{input.data(), output.data(), codes.bytes(), g, type, relu};
    const std::string what = describe(g, type) + (relu ? ", relu" : "") + (shifted ? ", shifted" : "");
    expect_success(max_pool2d_cuda(params, nullptr), "max_pool2d", what);
    std::vector<uint8_t> expected_codes(codes.size());
    host_model::max_pool2d(params, expected.data(), &expected_codes);
    expect_equal(output, expected, type, "max_pool2d", what);
    expect_equal(codes.copy(), expected_codes, "max_pool2d codes", what);
  }

  void scatter_and_gather(const PoolGeometry& g, ElementType type, Overlap overlap, bool relu, bool shifted) {
    if (!takes_next()) return;
    ++cases_;
    const int size = element_size(type);
    Array values(pooled_count(g), size, shifted), relu_output(pooled_count(g), size, shifted),
        map(map_count(g), size, shifted), codes(g.samples * g.sample_bytes, 1, shifted);
    fill(&values, type, false);
    fill(&relu_output, type, true);
    fill_random_bytes(&codes);
    const std::string what = describe(g, type) + (overlap == Overlap::kAdd ? ", add" : ", keep last") +
                             (relu ? ", relu" : "") + (shifted ? ", shifted" : "");
    const void* mask = relu ? relu_output.data() : nullptr;
    {
      Array expected(map_count(g), size, false);
      const ScatterParams params{values.data(), mask, codes.bytes(), map.data(), g, type, overlap, false};
      expect_success(scatter_cuda(params, nullptr), "scatter", what);
      host_model::scatter(params, codes.copy(), expected.data());
      expect_equal(map, expected, type, "scatter", what);
    }
    fill(&map, type, false);
    {
      Array gathered(pooled_count(g), size, shifted), expected(pooled_count(g), size, false);
      const GatherParams params{map.data(), mask, codes.bytes(), gathered.data(), g, type, overlap};
      expect_success(gather_cuda(params, nullptr), "gather", what);
      host_model::gather(params, codes.copy(), expected.data());
      expect_equal(gathered, expected, type, "gather", what);
    }
  }

  void extremes(int64_t count, int64_t ignored) {
    if (!takes_next()) return;
    ++cases_;
    const std::string what = std::to_string(count) + " values, ignored " + std::to_string(ignored);
    Array values(count, 8, true), parts(2 * extremes_parts(count), 8, false), expected(parts.size() / 8, 8, false);
    for (int64_t k = 0; k < count; ++k) {
      values.int64s()[k] = random_() % 4 == 0 ? ignored : static_cast<int64_t>(random_()) - (int64_t{1} << 30);
    }
    host_model::extremes(values.int64s(), count, ignored, expected.int64s());
    expect_success(extremes_cuda({values.int64s(), count, ignored, parts.int64s()}, nullptr), "extremes", what);
    expect_equal(parts, expected, ElementType::kInt64, "extremes", what);
  }

  void conversions(const PoolGeometry& g) {
    if (!takes_next()) return;
    ++cases_;
    const std::string what = describe(g, ElementType::kInt64);
    Array codes(g.samples * g.sample_bytes, 1, false), indices(pooled_count(g), 8, false),
        expected_indices(pooled_count(g), 8, false);
    fill_random_bytes(&codes);
    const IndicesFromCodesParams to_indices{codes.bytes(), indices.int64s(), g};
    expect_success(indices_from_codes_cuda(to_indices, nullptr), "indices_from_codes", what);
    host_model::indices_from_codes(g, codes.copy(), expected_indices.int64s());
    expect_equal(indices, expected_indices, ElementType::kInt64, "indices_from_codes", what);

    for (int64_t k = 0; k < pooled_count(g); ++k) {
      if (random_() % 8 == 0) indices.int64s()[k] = static_cast<int64_t>(random_() % 1000) - 100;
      if (random_() % 64 == 0) indices.int64s()[k] = static_cast<int64_t>(random_()) << 32;
    }
    Array back(codes.size(), 1, false);
    int64_t invalid = 0;
    const CodesFromIndicesParams to_codes{indices.int64s(), back.bytes(), &invalid, g};
    expect_success(codes_from_indices_cuda(to_codes, nullptr), "codes_from_indices", what);
    std::vector<uint8_t> expected_codes(codes.size());
    const int64_t expected_invalid = host_model::codes_from_indices(g, indices.int64s(), &expected_codes);
    expect_equal(back.copy(), expected_codes, "codes_from_indices", what);
    if (invalid != expected_invalid) {
      std::fprintf(stderr, "codes_from_indices counts %ld instead of %ld: %s\n", invalid, expected_invalid,
                   what.c_str());
      std::exit(1);
    }

    Array repacked(codes.size(), 1, false);
    const RepackCodesParams repack{codes.bytes(), repacked.bytes(), g};
    expect_success(repack_codes_cuda(repack, nullptr), "repack_codes", what);
    std::fill(expected_codes.begin(), expected_codes.end(), 0);
    host_model::repack_codes(g, codes.copy(), &expected_codes);
    expect_equal(repacked.copy(), expected_codes, "repack_codes", what);
  }

  void index_unpool(int64_t samples, int64_t channels, int64_t pixels, int64_t pooled_pixels, bool channels_last,
                    ElementType type) {
    if (!takes_next()) return;
    ++cases_;
    const int size = element_size(type);
    const int64_t map_count = samples * channels * pixels, pooled_count = samples * channels * pooled_pixels;
    Array values(pooled_count, size, false), map(map_count, size, false), expected_map(map_count, size, false),
        grad(pooled_count, size, false), expected_grad(pooled_count, size, false), indices(pooled_count, 8, false),
        winners(map_count, 4, false);
    fill(&values, type, false);
    for (int64_t k = 0; k < pooled_count; ++k) {
      const bool wild = random_() % 8 == 0;
      indices.int64s()[k] = wild ? static_cast<int64_t>(random_()) - (int64_t{1} << 31)
                                 : static_cast<int64_t>(random_() % static_cast<uint64_t>(pixels));
    }
    char what[128];
    std::snprintf(what, sizeof(what), "(%ld, %ld, %ld from %ld), %s, %s", samples, channels, pixels, pooled_pixels,
                  channels_last ? "channels_last" : "NCHW", kTypeNames[static_cast<int>(type)]);
    IndexUnpoolParams params{};
    params.indices = indices.int64s();
    params.winners = static_cast<uint32_t*>(winners.data());
    params.samples = samples;
    params.channels = channels;
    params.pixels = pixels;
    params.pooled_pixels = pooled_pixels;
    params.channels_last = channels_last;
    params.type = type;
    params.values = values.data();
    params.map = map.data();
    expect_success(index_unpool_cuda(params, nullptr), "index_unpool", what);
    host_model::index_unpool(params, expected_map.data());
    expect_equal(map, expected_map, type, "index_unpool", what);
    fill(&map, type, false);
    params.grad_map = map.data();
    params.grad_values = grad.data();
    expect_success(index_unpool_backward_cuda(params, nullptr), "index_unpool_backward", what);
    host_model::index_unpool_backward(params, expected_grad.data());
    expect_equal(grad, expected_grad, type, "index_unpool_backward", what);
  }

  // `special`: NaN and infinities in the input. `addend_origin`: where the addend is read from; negative for no addend.
  void upsample(const Upsampling& g, ElementType type, bool has_bias, int64_t addend_origin, bool special,
                bool shifted) {
    if (!takes_next()) return;
    ++cases_;
    const int size = element_size(type);
    const int64_t outputs = g.samples * g.channels * g.output_height * g.output_width;
    const int64_t margin = addend_origin < 0 ? 0 : 2 * addend_origin, extra = random_() % 2;
    const bool shifts_weight = shifted || (!long_threads_ && random_() % 4 == 0);
    Array input(g.samples * g.channels / g.multiplier * g.height * g.width, size, shifted),
        weight(g.channels * g.kernel_h * g.kernel_w, size, shifts_weight), bias(g.channels, size, shifted),
        addend(g.samples * g.channels * (g.output_height + margin) * (g.output_width + margin + extra), size, shifted),
        output(outputs, size, shifted), expected(outputs, size, false);
    fill(&input, type, special);
    for (Array* array : {&weight, &bias, &addend}) fill(array, type, false);
    DepthwiseConvTranspose2dParams params{};
    params.input = input.data();
    params.weight = weight.data();
    params.bias = has_bias ? bias.data() : nullptr;
    params.output = output.data();
    params.geometry = g;
    params.type = type;
    if (addend_origin >= 0) {
      params.addend = {addend.data(), g.output_height + margin, g.output_width + margin + extra, addend_origin,
                       addend_origin};
    }
    const std::string what = describe(g, type) + (has_bias ? ", bias" : "") + ", addend from " +
                             std::to_string(addend_origin) +
                             (shifted         ? ", shifted"
                              : shifts_weight ? ", shifted weight"
                                              : "") +
                             set_multiprocessors();
    const int64_t before = launches_in_all();
    expect_success(depthwise_conv_transpose2d_cuda(params, nullptr), "depthwise_conv_transpose2d", what);
    expect_one_launch(before, outputs, "depthwise_conv_transpose2d", what);
    // Four lanes in the rows of the four cells of a batch are 16 elements per phase; fewer lanes take more batches.
    if (long_threads_) expect_each(outputs, 16 * g.stride_h, "depthwise_conv_transpose2d", what);
    host_model::depthwise_conv_transpose2d(params, expected.data());
    expect_equal(output, expected, type, "depthwise_conv_transpose2d", what);
  }

  void argmax(const Upsampling& g, ElementType type, bool has_bias, bool wants_best, bool special) {
    if (!takes_next()) return;
    ++cases_;
    const int size = element_size(type);
    const int64_t pixels = g.samples * g.output_height * g.output_width;
    Array input(g.samples * g.channels / g.multiplier * g.height * g.width, size, false),
        weight(g.channels * g.kernel_h * g.kernel_w, size, false), bias(g.channels, size, false),
        labels(pixels, 1, false), best(pixels, size, false), expected(pixels, size, false);
    fill(&input, type, special);
    for (Array* array : {&weight, &bias}) fill(array, type, false);
    DepthwiseArgmaxParams params{};
    params.scores.input = input.data();
    params.scores.weight = weight.data();
    params.scores.bias = has_bias ? bias.data() : nullptr;
    params.scores.geometry = g;
    params.scores.type = type;
    params.labels = labels.bytes();
    params.best = wants_best ? best.data() : nullptr;
    const std::string what = describe(g, type) + (has_bias ? ", bias" : "") + (special ? ", special" : "");
    const int64_t before = launches_in_all();
    expect_success(depthwise_argmax_cuda(params, nullptr), "depthwise_argmax", what);
    expect_one_launch(before, pixels, "depthwise_argmax", what);
    std::vector<uint8_t> expected_labels(pixels);
    host_model::depthwise_argmax(params, expected_labels.data(), expected.data());
    expect_equal(labels.copy(), expected_labels, "depthwise_argmax", what);
    if (wants_best) expect_equal(best, expected, type, "depthwise_argmax scores", what);
  }

  // `mirrored`: the weight of a plain convolution. `strided`: the taps of a weight are not adjacent in memory.
  // `special`: NaN and infinities among the values; pixels without a value take no part.
  void unpool_conv2d(const UnpoolConv& g, ElementType type, bool mirrored, bool strided, bool has_bias, bool special,
                     bool shifted) {
    if (!takes_next()) return;
    ++cases_;
    const int size = element_size(type), sum_size = type == ElementType::kFloat64 ? 8 : 4;
    const int64_t results = g.pool.samples * g.outputs * g.output_height * g.output_width;
    const int64_t weights = 9 * g.pool.channels * g.outputs;
    Array input(pooled_count(g.pool), size, shifted), codes(g.pool.samples * g.pool.sample_bytes, 1, shifted),
        weight(weights, size, false), bias(g.outputs, size, false), output(results, size, shifted),
        panels(cuda_panel_elements(g.pool.channels, g.outputs), sum_size, false);
    fill(&input, type, special);
    fill_random_bytes(&codes);
    for (Array* array : {&weight, &bias}) fill(array, type, false);
    // [outputs, channels, 9] or, strided, [9, channels, outputs].
    WeightView view{weight.data(), 9, 9 * g.pool.channels, 3, 1};
    if (strided) view = {weight.data(), g.outputs, 1, 3 * g.pool.channels * g.outputs, g.pool.channels * g.outputs};
    if (mirrored) {
      const int64_t last = 2 * view.row_stride + 2 * view.column_stride;
      view = {weight.bytes() + last * size, view.channel_stride, view.output_stride, -view.row_stride,
              -view.column_stride};
    }
    char sizes[96];
    std::snprintf(sizes, sizeof(sizes), "%ld outputs of (%ld, %ld), padding %ld,%ld: ", g.outputs, g.output_height,
                  g.output_width, g.padding_h, g.padding_w);
    const std::string what = sizes + describe(g.pool, type) + (has_bias ? ", bias" : "") +
                             (mirrored ? ", mirrored" : "") + (special ? ", special" : "");
    const PackWeightPanelsParams packing{view, g.pool.channels, g.outputs, panels.data(), type};
    expect_success(pack_weight_panels_cuda(packing, nullptr), "pack_weight_panels", what);
    const int64_t turned_bytes = cuda_channels_last_bytes(g, type);
    Array turned(turned_bytes, 1, false);
    const UnpoolConv2dParams params{input.data(),
                                    codes.bytes(),
                                    {},
                                    panels.data(),
                                    has_bias ? bias.data() : nullptr,
                                    output.data(),
                                    turned_bytes > 0 ? turned.data() : nullptr,
                                    g,
                                    type};
    const int64_t before = launches_in_all();
    expect_success(unpool_conv2d_cuda(params, nullptr), "unpool_conv2d", what);
    const bool turns = turned_bytes > 0 && cuda_emulation::compute_capability() >= 8;
    expect_launches(before, results == 0 ? 0 : turns ? 2 : 1, "unpool_conv2d", what);
    std::vector<double> expected(results);
    host_model::unpool_conv2d(params, view, codes.copy(), &expected);
    const double tolerance = type == ElementType::kFloat16    ? 1e-3
                             : type == ElementType::kBFloat16 ? 8e-3
                             : type == ElementType::kFloat64  ? 1e-12
                                                              : 1e-5;
    expect_close(output, expected, type, tolerance, "unpool_conv2d", what);
  }

  // `weighted`: class weights, one of which is zero. `special`: NaN and infinities here and there in the input, or an
  // infinite gradient where no pixel counts. What the gradients need comes from the loss kernel.
  void cross_entropy(const Upsampling& g, ElementType type, double smoothing, bool weighted, bool special) {
    const int64_t pixels = g.samples * g.output_height * g.output_width;
    if (pixels == 0 || !takes_next()) return;  // ops do not call the launchers for empty outputs
    ++cases_;
    const bool has_bias = random_() % 2 == 0, reduces = random_() % 2 == 0;
    const int size = element_size(type);
    const ElementType sum_type = type == ElementType::kFloat64 ? type : ElementType::kFloat32;
    const int sum_size = element_size(sum_type);
    const int64_t inputs = g.samples * g.channels / g.multiplier * g.height * g.width;
    const int64_t weights = g.channels * g.kernel_h * g.kernel_w;
    Array input(inputs, size, false), weight(weights, size, false), bias(g.channels, size, false),
        class_weight(g.channels, sum_size, false), target(pixels, 8, false);
    for (Array* array : {&input, &weight, &bias}) fill(array, type, false);
    for (int64_t k = 0; special && k < inputs; ++k) {
      constexpr double kInfinity = std::numeric_limits<double>::infinity();
      constexpr double kSpecial[] = {std::numeric_limits<double>::quiet_NaN(), kInfinity, -kInfinity, -kInfinity};
      if (random_() % 16 == 0) host_model::store(input.data(), type, k, kSpecial[random_() % 4]);
    }
    for (int64_t c = 0; c < g.channels; ++c) {
      host_model::store(class_weight.data(), sum_type, c, static_cast<double>(c + 2 * g.channels / 3) * 0.25);
    }
    host_model::store(class_weight.data(), sum_type, g.channels / 2, 0);
    const int64_t ignored = g.channels > 255 ? 7 : 255, no_class[] = {ignored, ignored, -1, int64_t{1} << 40};
    const bool nothing_counts = special && random_() % 4 == 0;
    for (int64_t k = 0; k < pixels; ++k) {
      const bool counts = !nothing_counts && random_() % 4 != 0;
      target.int64s()[k] =
          counts ? static_cast<int64_t>(random_() % static_cast<uint64_t>(g.channels)) : no_class[random_() % 4];
    }
    DepthwiseConvTranspose2dParams scores{};
    scores.input = input.data();
    scores.weight = weight.data();
    scores.bias = has_bias ? bias.data() : nullptr;
    scores.geometry = g;
    scores.type = type;
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
      if (!keeps && random_() % 4 != 0) continue;
      Array losses(pixels, sum_size, false), loss(1, sum_size, false), total_weight(1, sum_size, false),
          parts(2 * depthwise_cross_entropy_cuda_parts(g, type), 8, false);
      params.losses = reduces ? nullptr : losses.data();
      params.normalizers = keeps ? normalizers.data() : nullptr;
      params.labels = keeps ? labels.data() : nullptr;
      params.totals = {reduces ? loss.data() : nullptr, total_weight.data(), static_cast<double*>(parts.data())};
      const int64_t before = launches_in_all();
      expect_success(depthwise_cross_entropy_cuda(params, nullptr), "depthwise_cross_entropy", what);
      expect_launches(before, 2, "depthwise_cross_entropy", what);
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
      std::fprintf(stderr, "depthwise_cross_entropy: label %ld is not %ld: %s\n", k, expected_label, what.c_str());
      std::exit(1);
    }
    Array grad_loss(reduces ? 1 : pixels, sum_size, false);
    fill(&grad_loss, sum_type, false);
    if (nothing_counts) host_model::store(grad_loss.data(), sum_type, 0, std::numeric_limits<double>::infinity());
    DepthwiseCrossEntropyBackwardParams backward{
        scores, criterion, normalizers.data(), labels.data(), grad_loss.data(), reduces, {}};
    const GradientParts counts = depthwise_cross_entropy_backward_cuda_parts(g);
    gradients(g, type, counts, &backward.gradients, what, [&](double* by_input, double* by_weight, double* by_bias) {
      expect_success(depthwise_cross_entropy_backward_cuda(backward, nullptr), "depthwise_cross_entropy_backward",
                     what);
      host_model::depthwise_cross_entropy_backward(params, backward, by_input, by_weight, by_bias);
    });
  }

  // `special`: infinities here and there in the output's gradient, the weights or the input.
  void upsample_backward(const Upsampling& g, ElementType type, bool special) {
    const int64_t outputs = g.samples * g.channels * g.output_height * g.output_width;
    if (outputs == 0 || !takes_next()) return;  // ops do not call the launchers for empty outputs
    ++cases_;
    const int size = element_size(type);
    Array input(g.samples * g.channels / g.multiplier * g.height * g.width, size, false),
        weight(g.channels * g.kernel_h * g.kernel_w, size, false), grad(outputs, size, false);
    for (Array* array : {&input, &weight, &grad}) fill(array, type, false);
    const Array& infinite = *std::array<Array*, 4>{&grad, &grad, &weight, &input}[random_() % 4];
    for (int64_t k = 0; special && k < infinite.size() / size; k += 1 + static_cast<int64_t>(random_() % 64)) {
      host_model::store(infinite.data(), type, k, std::numeric_limits<double>::infinity());
    }
    DepthwiseConvTranspose2dBackwardParams params{};
    params.grad_output = grad.data();
    params.call.input = input.data();
    params.call.weight = weight.data();
    params.call.geometry = g;
    params.call.type = type;
    const std::string what = describe(g, type) + (special ? ", special" : "") + set_multiprocessors();
    const GradientParts counts = depthwise_conv_transpose2d_backward_cuda_parts(g);
    gradients(g, type, counts, &params.gradients, what, [&](double* by_input, double* by_weight, double* by_bias) {
      expect_success(depthwise_conv_transpose2d_backward_cuda(params, nullptr), "depthwise_conv_transpose2d_backward",
                     what);
      // Of upsampling by two in NCHW; a batch of cells completes no more than four rows.
      if (long_threads_) {
        expect_each(g.samples * g.channels * g.height * g.width, 4, "depthwise_conv_transpose2d_backward", what);
      }
      host_model::depthwise_conv_transpose2d_backward(params, by_input, by_weight, by_bias);
    });
  }

 private:
  // With few multiprocessors, threads go through many cells; with many, through few.
  std::string set_multiprocessors() {
    const int count = long_threads_ || random_() % 2 == 0 ? 1 : 200;
    cuda_emulation::set_multiprocessors(count);
    return ", " + std::to_string(count) + " multiprocessors";
  }

  // Allocates some of the gradients of an upsampling. `run` computes them, and their expected values.
  template <class Run>
  void gradients(const Upsampling& g, ElementType type, const GradientParts& parts, UpsamplingGradients* out,
                 const std::string& what, const Run& run) {
    const int size = element_size(type), sum_size = type == ElementType::kFloat64 ? 8 : 4;
    const int64_t inputs = g.samples * g.channels / g.multiplier * g.height * g.width;
    const int64_t weights = g.channels * g.kernel_h * g.kernel_w;
    const bool wants_input = long_threads_ || random_() % 4 != 0;
    const bool wants_weight = !long_threads_ && random_() % 4 != 0, wants_bias = !long_threads_ && random_() % 4 != 0;
    Array grad_input(inputs, size, false), grad_weight(weights, size, false), grad_bias(g.channels, size, false),
        weight_parts(parts.weight * weights, sum_size, false), bias_parts(parts.bias * g.channels, sum_size, false);
    if (wants_input) out->input = grad_input.data();
    if (wants_weight) out->weight = weight_parts.data();
    if (wants_bias) out->bias = bias_parts.data();
    std::vector<double> by_input(inputs), by_weight(weights), by_bias(g.channels);
    run(by_input.data(), by_weight.data(), by_bias.data());
    const SumPartsParams sums[] = {{weight_parts.data(), grad_weight.data(), parts.weight, weights, type},
                                   {bias_parts.data(), grad_bias.data(), parts.bias, g.channels, type}};
    for (const SumPartsParams& sum : sums) expect_success(sum_parts_cuda(sum, nullptr), "sum_parts", what);
    const double tolerance = type == ElementType::kFloat64    ? 1e-12
                             : type == ElementType::kFloat16  ? 1e-3
                             : type == ElementType::kBFloat16 ? 8e-3
                                                              : 1e-5;
    if (wants_input) expect_close(grad_input, by_input, type, tolerance, "gradient of the input", what);
    if (wants_weight) expect_close(grad_weight, by_weight, type, tolerance, "gradient of the weight", what);
    if (wants_bias) expect_close(grad_bias, by_bias, type, tolerance, "gradient of the bias", what);
  }

  int64_t share_, part_, counter_ = 0, cases_ = 0;
  bool long_threads_ = false;
  std::mt19937 random_{12345};
};

// Sizes around every vector, warp and block boundary, for the windows that have their own kernels.
std::vector<Shape> shapes_of_2x2_blocks() {
  std::vector<Shape> shapes;
  for (const int64_t width : {2, 3, 4, 6, 7, 8, 9, 14, 15, 16, 17, 24, 31, 32, 33, 48, 60, 64}) {
    for (const int64_t height : {2, 3, 6, 7}) shapes.push_back({2, 3, height, width, square(2, 2)});
  }
  for (const int64_t channels : {1, 3, 4, 7, 8, 9, 12, 16, 21, 24, 32}) {
    shapes.push_back({2, channels, 4, 4, square(2, 2)});
    shapes.push_back({3, channels, 5, 7, square(2, 2)});
    shapes.push_back({2, channels, 5, 7, square(2, 2), true});
  }
  shapes.push_back({1, 1, 2, 2, square(2, 2)});
  shapes.push_back({1, 5, 1, 2, square(2, 2), true});
  shapes.push_back({5, 1, 14, 14, square(2, 2)});
  shapes.push_back({2, 4, 45, 60, square(2, 2)});
  shapes.push_back({1, 2, 113, 113, square(2, 2)});
  shapes.push_back({1, 8, 33, 35, square(2, 2), true});
  return shapes;
}

// The same for 3x3 windows with stride 2.
std::vector<Shape> shapes_of_3x3_overlaps() {
  std::vector<Shape> shapes;
  for (const int64_t width : {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 30, 32, 48}) {
    for (const int64_t height : {1, 2, 5, 8}) {
      shapes.push_back({2, 3, height, width, square(3, 2, 1)});
      shapes.push_back({3, 1, height, width, {3, 3, 2, 2, height % 2, 1 - height % 2, 1, 1}, width % 2 == 0});
    }
  }
  for (const int64_t channels : {4, 8, 12, 16, 24}) {
    shapes.push_back({2, channels, 4, 6, square(3, 2, 1)});
    shapes.push_back({2, channels, 5, 7, square(3, 2), true});
    shapes.push_back({1, channels, 8, 8, square(3, 2), true});
  }
  shapes.push_back({1, 2, 57, 64, square(3, 2, 1)});
  return shapes;
}

std::vector<Shape> shapes_of_any_windows() {
  std::vector<Shape> shapes;
  const Window windows[] = {
      square(1, 1),
      square(1, 2),
      square(2, 1),
      square(2, 3),
      square(2, 2, 1),
      square(2, 2, 1, 2),
      square(2, 2, 0, 3),
      square(2, 1, 1, 3),
      square(3, 1, 1),
      square(3, 2),
      square(3, 2, 1),
      square(3, 3),
      square(3, 3, 1),
      square(3, 2, 1, 2),
      square(3, 5, 1),
      square(4, 4, 2),
      square(5, 2, 2),
      square(2, 9),
      square(2, 2000000000),
      square(2, 3000000000),
      {1, 2, 1, 2, 0, 0, 1, 1},
      {2, 1, 2, 1, 0, 0, 1, 1},
      {2, 1, 1, 1, 1, 0, 1, 1},
      {1, 3, 1, 3, 0, 1, 1, 1},
      {3, 2, 2, 3, 1, 1, 1, 2},
      {2, 3, 3, 1, 1, 1, 2, 1},
      {2, 4, 2, 4, 1, 2, 1, 1},
  };
  for (const Window& window : windows) {
    for (const bool ceil_mode : {false, true}) {
      shapes.push_back({2, 3, 9, 11, window, ceil_mode});
      shapes.push_back({2, 8, 8, 6, window, ceil_mode});
      shapes.push_back({1, 16, 5, 5, window, ceil_mode});
    }
  }
  shapes.push_back({1, 2, 18, 17, {17, 16, 3, 2, 8, 3, 1, 1}});  // 16-bit codes
  shapes.push_back({1, 8, 17, 20, {17, 16, 3, 2, 8, 3, 1, 1}});
  shapes.push_back({1, 1, 260, 258, {257, 257, 2, 1, 0, 0, 1, 1}});  // 32-bit codes
  shapes.push_back({1, 8, 1, 1, square(2, 2, 1, 4)});                // windows wholly in the padding
  shapes.push_back({2, 3, 1, 2, square(2, 1, 2, 4)});
  shapes.push_back({0, 8, 8, 8, square(2, 2)});
  return shapes;
}

void test_max_pool2d(Tester* tester) {
  for (const bool channels_last : {false, true}) {
    for (const Shape& shape : shapes_of_2x2_blocks()) {
      const PoolGeometry g = geometry_of(shape, channels_last);
      for (const ElementType type : kVectorTypes) {
        tester->max_pool2d(g, type, false, false, false);
        tester->max_pool2d(g, type, true, true, false);
        tester->max_pool2d(g, type, false, true, true);
      }
    }
    for (const Shape& shape : shapes_of_3x3_overlaps()) {
      const PoolGeometry g = geometry_of(shape, channels_last);
      for (const ElementType type : kVectorTypes) {
        tester->max_pool2d(g, type, false, true, false);
        tester->max_pool2d(g, type, true, true, tester->random() % 4 == 0);
        tester->max_pool2d(g, type, true, false, false, true);
        tester->max_pool2d(g, type, false, false, false, true);
      }
    }
    for (const Shape& shape : shapes_of_any_windows()) {
      const PoolGeometry g = geometry_of(shape, channels_last);
      for (const ElementType type : kAllTypes) tester->max_pool2d(g, type, tester->random() % 2 == 0, true, false);
      tester->max_pool2d(g, ElementType::kFloat32, true, true, true);
      tester->max_pool2d(g, ElementType::kBFloat16, false, false, false, true);
      tester->max_pool2d(g, ElementType::kInt8, false, false, false, true);
    }
  }
}

void test_scatter_and_gather(Tester* tester) {
  for (const bool channels_last : {false, true}) {
    for (const Shape& shape : shapes_of_2x2_blocks()) {
      const PoolGeometry g = geometry_of(shape, channels_last);
      for (const ElementType type : kVectorTypes) {
        tester->scatter_and_gather(g, type, Overlap::kKeepLast, false, false);
        tester->scatter_and_gather(g, type, Overlap::kAdd, true, false);
        tester->scatter_and_gather(g, type, Overlap::kAdd, true, true);
      }
      tester->scatter_and_gather(g, ElementType::kFloat64, Overlap::kKeepLast, false, false);
    }
    for (const Shape& shape : shapes_of_3x3_overlaps()) {
      const PoolGeometry g = geometry_of(shape, channels_last);
      for (const ElementType type : kVectorTypes) {
        tester->scatter_and_gather(g, type, Overlap::kAdd, false, false);
        tester->scatter_and_gather(g, type, Overlap::kAdd, true, tester->random() % 4 == 0);
      }
      tester->scatter_and_gather(g, ElementType::kFloat64, Overlap::kAdd, true, false);
      tester->scatter_and_gather(g, ElementType::kBFloat16, Overlap::kKeepLast, true, false);
    }
    for (const Shape& shape : shapes_of_any_windows()) {
      const PoolGeometry g = geometry_of(shape, channels_last);
      for (const ElementType type : kFloatTypes) {
        for (const Overlap overlap : {Overlap::kKeepLast, Overlap::kAdd}) {
          tester->scatter_and_gather(g, type, overlap, tester->random() % 2 == 0, false);
        }
      }
      tester->scatter_and_gather(g, ElementType::kFloat32, Overlap::kAdd, true, true);
      tester->scatter_and_gather(g, ElementType::kFloat16, Overlap::kKeepLast, false, true);
    }
    // Unpooling to more pixels than the windows reach, and to fewer.
    for (const ElementType type : kVectorTypes) {
      for (const int64_t size : {5, 8, 16, 24}) {
        PoolGeometry g = geometry_of({2, 8, 12, 16, square(2, 2)}, channels_last);
        g.height = size + 1;
        g.width = size;
        tester->scatter_and_gather(g, type, Overlap::kKeepLast, false, false);
        g = geometry_of({2, 8, 12, 16, square(3, 2, 1)}, channels_last);
        g.height = size + 1;
        g.width = size;
        tester->scatter_and_gather(g, type, Overlap::kAdd, true, false);
      }
    }
  }
}

void test_indices(Tester* tester) {
  for (const int64_t count : {0, 1, 255, 257, 8191, 8192, 8193, 20000}) {
    for (const int64_t ignored : {0, 255, -100}) tester->extremes(count, ignored);
  }
  for (const bool channels_last : {false, true}) {
    for (const Shape& shape : shapes_of_2x2_blocks()) tester->conversions(geometry_of(shape, channels_last));
    for (const Shape& shape : shapes_of_any_windows()) tester->conversions(geometry_of(shape, channels_last));
    for (const ElementType type : kFloatTypes) {
      tester->index_unpool(2, 3, 35, 12, channels_last, type);
      tester->index_unpool(3, 8, 64, 64, channels_last, type);
      tester->index_unpool(1, 5, 7, 300, channels_last, type);
      tester->index_unpool(0, 5, 7, 3, channels_last, type);
      tester->index_unpool(2, 2, 9, 0, channels_last, type);
    }
  }
}

// Kernels that span one or two strides, with sizes around lanes, phases and the cells of a thread; then all others.
std::vector<Upsample> upsamplings() {
  std::vector<Upsample> all;
  for (const int64_t width : {1, 2, 3, 4, 6, 9, 17}) {
    for (const int64_t height : {1, 4, 5, 9})
      all.push_back({2, 3, 1, height, width, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {2 * height, 2 * width}});
  }
  const Upsample more[] = {
      {1, 21, 1, 3, 5, {16, 16}, {8, 8}, {4, 4}},
      {1, 5, 1, 4, 4, {16, 16}, {8, 8}, {9, 9}, {1, 1}, {20, 20}},
      {1, 2, 1, 2, 1, {64, 64}, {32, 32}, {16, 16}},
      {2, 3, 1, 5, 4, {5, 5}, {3, 3}, {2, 2}},
      {1, 4, 1, 6, 3, {2, 2}, {2, 2}},
      {1, 3, 2, 3, 4, {3, 3}, {2, 2}, {1, 1}},
      {2, 2, 3, 4, 5, {4, 4}, {2, 2}, {1, 1}},
      {1, 3, 1, 9, 5, {3, 4}, {2, 2}},
      {1, 3, 1, 5, 5, {2, 2}, {1, 1}},
      {1, 3, 1, 4, 3, {1, 1}, {3, 3}},
      {2, 3, 1, 3, 4, {2, 3}, {5, 1}, {1, 0}},
      {1, 2, 2, 3, 3, {2, 2}, {3, 4}, {0, 0}, {4, 3}},
      {1, 3, 1, 3, 3, {4, 4}, {2, 2}, {0, 0}, {1, 1}, {13, 11}},      // a larger output than the taps reach
      {1, 3, 1, 3, 3, {4, 4}, {2, 2}, {40, 1}, {1, 1}, {3, 8}},       // nothing but the bias
      {1, 8, 1, 3, 3, {2, 2}, {1, 1}, {0, 1 << 29}, {1, 1}, {4, 4}},  // likewise, and a column beyond int32_t
      {1, 8, 1, 3, 3, {4, 4}, {2, 2}, {0, 1 << 29}, {1, 1}, {4, 4}},
      {1, 70, 1, 2, 2, {64, 64}, {32, 32}, {30, 30}, {1, 1}, {4, 6}},  // blocks stage the weights of a part of a period
      {1, 21, 1, 3, 4, {64, 64}, {32, 32}, {16, 16}},
      {1, 200, 1, 1, 2, {64, 64}, {32, 32}, {30, 30}, {1, 1}, {3, 5}},  // parts of a period that are parts of a pixel
      {1, 300, 1, 3, 3, {6, 5}, {3, 3}, {1, 1}},
      {1, 256, 1, 2, 2, {4, 4}, {2, 2}, {2, 1}, {1, 1}, {2, 3}},
      {1, 2, 1, 1, 2, {4, 4}, {300, 2}},
      {1, 64, 1, 8, 1, {4, 4}, {2, 1 << 28}, {0, 0}, {1, 1}, {18, 4}},  // a period of weights beyond int32_t
      {0, 3, 1, 3, 3, {4, 4}, {2, 2}},
      // Wide enough for blocks to stage their weights; lanes take four elements, two or one.
      {1, 2, 1, 20, 70, {4, 4}, {2, 2}, {1, 1}},
      {2, 1, 1, 9, 40, {16, 16}, {8, 8}, {4, 4}},
      {1, 1, 1, 3, 17, {64, 64}, {32, 32}, {16, 16}},
      {1, 21, 1, 9, 8, {4, 4}, {2, 2}, {1, 1}},
      {1, 3, 1, 10, 66, {4, 4}, {2, 2}, {0, 0}, {1, 1}, {22, 130}},
      {1, 1, 2, 9, 65, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {18, 129}},
      {1, 2, 2, 9, 60, {5, 6}, {3, 3}, {2, 2}},
      {1, 2, 1, 7, 50, {6, 7}, {3, 5}, {7, 4}, {1, 1}, {11, 248}},
      // Stride 2, with all parities of the first row and column, and rows that divide into pairs and that do not.
      {1, 2, 1, 9, 9, {4, 4}, {2, 2}, {2, 4}, {1, 1}, {13, 12}},
      {2, 6, 1, 9, 9, {4, 4}, {2, 2}, {3, 5}, {1, 1}, {9, 8}},
      {1, 4, 1, 12, 7, {4, 4}, {2, 2}, {0, 3}, {1, 1}, {26, 14}},
      {2, 4, 1, 11, 6, {4, 4}, {2, 2}, {1, 2}, {1, 1}, {21, 7}},
      {1, 4, 2, 10, 6, {4, 4}, {2, 2}, {1, 0}, {1, 1}, {20, 14}},
      {1, 3, 1, 20, 33, {4, 3}, {2, 2}, {1, 1}, {1, 1}, {40, 66}},
      // Threads whose cells take more than one batch.
      {1, 2, 1, 21, 8, {2, 2}, {1, 1}, {0, 0}, {1, 1}, {22, 8}},
      {2, 3, 1, 19, 6, {2, 2}, {1, 1}, {1, 0}, {1, 1}, {18, 6}},
      {1, 3, 1, 26, 4, {2, 2}, {1, 1}, {2, 1}, {1, 1}, {23, 3}},
      {8, 1, 1, 2, 128, {16, 16}, {8, 8}, {6, 4}, {1, 1}, {4, 1024}},  // fewer rows than the stride, in two cells
      // Strips of input that are copied in pieces of 16, of 4 and of 2 bytes, for several tiles; channels in slices.
      {2, 24, 1, 9, 16, {16, 16}, {8, 8}, {4, 4}, {1, 1}, {72, 128}},
      {1, 22, 1, 10, 7, {8, 8}, {4, 4}, {2, 2}, {1, 1}, {40, 28}},
      {1, 21, 1, 6, 35, {8, 8}, {4, 4}, {1, 3}, {1, 1}, {24, 138}},
      {1, 150, 1, 5, 6, {16, 16}, {8, 8}, {4, 4}, {1, 1}, {40, 48}},
      {1, 256, 1, 6, 5, {8, 8}, {4, 4}, {2, 2}, {1, 1}, {24, 20}},
      {1, 264, 2, 3, 4, {6, 6}, {3, 3}, {0, 1}, {1, 1}, {10, 12}},
      {2, 192, 1, 4, 3, {3, 3}, {2, 2}, {1, 1}, {1, 1}, {8, 6}},
      // Kernels of any span.
      {2, 3, 1, 4, 5, {3, 3}, {1, 1}, {1, 1}},
      {1, 2, 2, 4, 3, {5, 5}, {2, 2}, {2, 2}},
      {1, 3, 1, 5, 4, {3, 4}, {2, 1}, {1, 3}, {3, 2}},
      {1, 9, 1, 3, 3, {40, 40}, {2, 2}, {20, 20}, {1, 1}, {4, 5}},
      {1, 2, 1, 2, 3, {2, 2}, {2000000000, 1}, {0, 0}, {1, 1}, {5, 4}},  // needs 64-bit numbers
      {2, 3, 1, 3, 2, {4, 4}, {2, 2}, {3000000000, 0}, {1, 1}, {3, 4}},
  };
  all.insert(all.end(), std::begin(more), std::end(more));
  return all;
}

// Upsamplings that give the threads of one multiprocessor several batches of cells: by two, with four lanes and with
// two, beyond a cell and beyond the taps; and by eight.
std::vector<Upsample> long_upsamplings() {
  return {
      {2, 8, 1, 33, 34, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {66, 68}},
      {2, 9, 1, 33, 35, {4, 4}, {2, 2}, {0, 2}, {1, 1}, {67, 70}},
      {2, 9, 1, 37, 30, {4, 4}, {2, 2}, {4, 3}, {1, 1}, {81, 60}},
      {2, 12, 1, 40, 32, {16, 16}, {8, 8}, {4, 4}, {1, 1}, {320, 256}},
  };
}

void test_long_threads(Tester* tester) {
  tester->expect_long_threads(true);
  for (const bool channels_last : {false, true}) {
    for (const Upsample& shape : long_upsamplings()) {
      const Upsampling g = geometry_of(shape, channels_last);
      for (const ElementType type :
           {ElementType::kFloat32, tester->random() % 2 == 0 ? ElementType::kFloat16 : ElementType::kBFloat16}) {
        tester->upsample(g, type, true, -1, false, false);
        tester->upsample(g, type, false, 1, true, false);
        if (g.stride_h == 2 && !channels_last) tester->upsample_backward(g, type, tester->random() % 2 == 0);
      }
    }
  }
  tester->expect_long_threads(false);
}

// Upsampling by two in channels_last goes by strips where the map is large.
void test_large_upsampling(Tester* tester) {
  const Upsample shape{1, 64, 1, 129, 128, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {258, 256}};
  tester->upsample(geometry_of(shape, true), ElementType::kBFloat16, true, -1, false, false);
}

// Samples so many that int32_t does not number their strips are left to the kernel for any geometry.
void test_strips_are_numbered() {
  for (const bool channels_last : {false, true}) {
    for (const auto& [samples, fit] : {std::pair(int64_t{1} << 20, true), std::pair(int64_t{1} << 29, false)}) {
      DepthwiseConvTranspose2dParams params{};
      params.geometry =
          geometry_of({samples, 2, 1, 16, 16, {16, 16}, {8, 8}, {4, 4}, {1, 1}, {128, 128}}, channels_last);
      if (divide_strips(params, {4, 4, 4, 2}).has_value() == fit) continue;
      std::fprintf(stderr, "strips of %ld samples: %s\n", samples, fit ? "none" : "some");
      std::exit(1);
    }
  }
}

// Channels so many that no strip with four lanes fits in shared memory take fewer lanes. Where those do not fit either,
// upsampling by two has another kernel.
void test_choice_of_kernels() {
  struct Choice {
    Upsample shape;
    const char* kernel;
  };
  const Choice choices[] = {
      {{1, 218, 1, 8, 4, {8, 8}, {4, 4}, {2, 2}, {1, 1}, {32, 16}}, "_cells_kernel<float, 4, false>"},
      {{1, 330, 1, 8, 4, {8, 8}, {4, 4}, {2, 2}, {1, 1}, {32, 16}}, "_cells_kernel<float, 2, false>"},
      {{1, 365, 1, 8, 4, {8, 8}, {4, 4}, {2, 2}, {1, 1}, {32, 16}}, "_cells_kernel<float, 1, false>"},
      {{1, 219, 1, 80, 64, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {160, 128}}, "_cells_kernel<float, 2, false>"},
      {{1, 383, 1, 48, 64, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {96, 128}}, "_x2_kernel<float, 2, true, false>"},
  };
  cuda_emulation::set_block_sample(1);  // one block shows which kernel it is
  for (const auto& [shape, kernel] : choices) {
    const Upsampling g = geometry_of(shape, true);
    const Array input(g.samples * g.channels * g.height * g.width, sizeof(float), false),
        weight(g.channels * g.kernel_h * g.kernel_w, sizeof(float), false),
        output(g.samples * g.channels * g.output_height * g.output_width, sizeof(float), false);
    DepthwiseConvTranspose2dParams params{};
    params.input = input.data();
    params.weight = weight.data();
    params.output = output.data();
    params.geometry = g;
    params.type = ElementType::kFloat32;
    const CudaStatus status = depthwise_conv_transpose2d_cuda(params, nullptr);
    const std::string name = kernel_name(launched_kernel());
    if (status == cudaSuccess && name.find(kernel) != std::string::npos) continue;
    std::fprintf(stderr, "upsampling of %ld channels runs %s\n", g.channels, name.c_str());
    std::exit(1);
  }
  cuda_emulation::set_block_sample(0);
}

// Output element k in float32, of a kernel that spans two strides: the products of the last row of input first, and
// from left to right within a row.
float ordered_sum(const Upsampling& g, const float* input, const float* weight, int64_t k) {
  const int64_t pixels = g.output_height * g.output_width, in_sample = k % (g.channels * pixels);
  const int64_t c = g.channels_last ? k % g.channels : in_sample / pixels;
  const int64_t pixel = g.channels_last ? in_sample / g.channels : in_sample % pixels;
  const int64_t y = pixel / g.output_width + g.origin_h, x = pixel % g.output_width + g.origin_w;
  float sum = 0;
  for (int64_t h = y / g.stride_h; h >= y / g.stride_h - 1; --h) {
    for (int64_t w = x / g.stride_w - 1; w <= x / g.stride_w; ++w) {
      if (h < 0 || h >= g.height || w < 0 || w >= g.width) continue;
      const int64_t n = k / (g.channels * pixels), i = y - h * g.stride_h, j = x - w * g.stride_w;
      const int64_t from = host_model::element(g.channels_last, g.channels, g.height, g.width, n, c, h, w);
      sum = std::fma(input[from], weight[(c * g.kernel_h + i) * g.kernel_w + j], sum);
    }
  }
  return sum;
}

// The numbers of the other tests have few bits, so that their sums are exact in any order.
void test_order_of_sums() {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const auto fill = [&](const Array& array) {
    auto* numbers = static_cast<float*>(array.data());
    std::generate_n(numbers, array.size() / sizeof(float), [&] { return normal(random); });
    return numbers;
  };
  for (const int64_t number : {2, 3, 8, 12, -2, -3, -8, -12}) {
    const int64_t s = std::abs(number);
    const Upsampling g =
        geometry_of({2, 5, 1, 9, 12, {2 * s, 2 * s}, {s, s}, {1, 1}, {1, 1}, {9 * s, 12 * s}}, number < 0);
    const int64_t outputs = g.samples * g.channels * g.output_height * g.output_width;
    const Array inputs(g.samples * g.channels * g.height * g.width, sizeof(float), false),
        weights(g.channels * g.kernel_h * g.kernel_w, sizeof(float), false), addends(outputs, sizeof(float), false),
        output(outputs, sizeof(float), false);
    const float *input = fill(inputs), *weight = fill(weights), *addend = fill(addends);
    for (const bool adds : {false, true}) {
      DepthwiseConvTranspose2dParams params{};
      params.input = input;
      params.weight = weight;
      params.output = output.data();
      params.geometry = g;
      params.type = ElementType::kFloat32;
      if (adds) params.addend = {addend, g.output_height, g.output_width, 0, 0};
      bool same = depthwise_conv_transpose2d_cuda(params, nullptr) == cudaSuccess;
      for (int64_t k = 0; k < outputs && same; ++k) {
        const float sum = ordered_sum(g, input, weight, k) + (adds ? addend[k] : 0);
        same = static_cast<const float*>(output.data())[k] == sum;
      }
      if (same) continue;
      std::fprintf(stderr, "depthwise_conv_transpose2d sums in another order: stride %ld%s\n", number,
                   adds ? ", add" : "");
      std::exit(1);
    }
  }
}

void test_upsampling(Tester* tester) {
  for (const bool channels_last : {false, true}) {
    for (const Upsample& shape : upsamplings()) {
      const Upsampling g = geometry_of(shape, channels_last);
      for (const ElementType type : kFloatTypes) {
        const int64_t addend_origin = 4 >> tester->random() % 4;
        tester->upsample(g, type, true, -1, false, false);
        tester->upsample(g, type, false, addend_origin, true, false);
        tester->argmax(g, type, tester->random() % 2 == 0, tester->random() % 2 == 0, true);
      }
      tester->upsample(g, ElementType::kFloat32, true, 1, true, true);
      tester->upsample(g, ElementType::kFloat16, false, -1, false, true);
      tester->argmax(g, ElementType::kFloat32, true, true, false);
    }
  }
}

// Upsamplings that have their own kernels in channels_last, with at least as many channels as those need. Sizes are
// around the elements of a block, the rows and taps of a thread, and the phases and channels whose weights a block
// holds at once.
std::vector<Upsample> deep_upsamplings() {
  return {
      {2, 21, 1, 5, 9, {4, 4}, {2, 2}, {1, 1}},
      {1, 64, 1, 4, 5, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {7, 9}},
      {1, 4, 1, 7, 40, {4, 4}, {2, 2}, {1, 1}},
      {2, 5, 1, 3, 51, {4, 4}, {2, 2}},  // one element fewer than a block takes in two goes; then two more
      {1, 6, 1, 3, 43, {4, 4}, {2, 2}, {1, 1}},
      {1, 21, 1, 3, 4, {16, 16}, {8, 8}, {4, 4}},
      {1, 8, 1, 4, 3, {16, 16}, {8, 8}, {21, 13}, {1, 1}, {20, 11}},
      {1, 40, 1, 2, 2, {16, 16}, {8, 8}, {4, 4}},  // four phases at once
      {1, 255, 1, 4, 2, {6, 6}, {3, 3}, {2, 1}},   // two at once, then one
      {1, 22, 1, 2, 2, {1, 256}, {1, 128}, {0, 64}},
      {1, 23, 1, 2, 1, {2, 256}, {1, 128}, {0, 64}},
      {1, 6, 1, 5, 4, {5, 6}, {3, 3}, {2, 2}},
      {1, 6, 1, 9, 4, {3, 4}, {2, 2}},
      {1, 7, 1, 4, 5, {2, 2}, {3, 4}, {0, 0}, {4, 3}},
      {1, 7, 1, 4, 5, {3, 3}, {5, 4}, {1, 2}, {4, 3}},
      {1, 9, 1, 4, 3, {1, 1}, {3, 3}},
      {1, 9, 1, 6, 5, {2, 2}, {1, 1}, {1, 0}},
      {1, 9, 1, 3, 3, {4, 4}, {2, 2}, {0, 0}, {1, 1}, {13, 11}},
      {1, 9, 1, 3, 3, {4, 4}, {2, 2}, {40, 1}, {1, 1}, {3, 8}},
      {1, 300, 1, 3, 2, {2, 2}, {1, 1}},  // more channels than one block takes
      {1, 70, 1, 3, 3, {8, 8}, {4, 4}, {2, 2}},
      {2, 4, 1, 2, 1, {64, 64}, {32, 32}, {16, 16}},
      {8, 21, 1, 1, 1, {64, 64}, {32, 32}, {16, 16}},                // walks of several rows
      {128, 64, 1, 8, 12, {2, 2}, {1, 1}, {1, 0}, {1, 1}, {7, 12}},  // eight cells per thread
  };
}

// Also sizes around the tiles whose gradients a block computes: four to sixteen rows of input, columns of input whose
// output has 256 columns or somewhat more, and more columns than one block takes. Strides cover how many columns form a
// group, and rows that are taken four and two at a time. There are as many classes as byte labels can hold, and one
// more.
void test_gradients(Tester* tester) {
  std::vector<Upsample> shapes = upsamplings();
  const Upsample around_tiles[] = {
      {1, 2, 1, 2, 127, {4, 4}, {2, 2}, {1, 1}},
      {1, 1, 1, 9, 128, {4, 4}, {2, 2}, {1, 1}},
      {1, 2, 1, 8, 31, {16, 16}, {8, 8}, {4, 4}},
      {1, 1, 1, 17, 32, {16, 16}, {8, 8}, {4, 4}},
      {1, 1, 1, 2, 8, {64, 64}, {32, 32}, {16, 16}},
      {1, 2, 1, 3, 3, {2, 256}, {1, 128}, {0, 64}},
      {1, 1, 1, 2, 3, {2, 1024}, {1, 512}, {0, 256}},  // the widest stride with tiles
      {1, 1, 1, 2, 3, {2, 200}, {1, 513}},
      {1, 1, 1, 5, 600, {4, 4}, {2, 2}, {1, 1}},
      {1, 2, 1, 6, 100, {6, 6}, {3, 3}, {1, 1}},
      {16, 8, 1, 64, 2, {4, 2}, {2, 1}, {1, 0}},  // eight rows
      {1, 2, 1, 5, 9, {6, 12}, {3, 6}, {1, 2}},
      {1, 2, 1, 5, 5, {10, 24}, {5, 12}, {2, 5}},
      {1, 2, 1, 7, 3, {12, 8}, {6, 4}, {3, 2}},
      {2, 2, 2, 17, 5, {3, 3}, {2, 2}, {1, 1}},
  };
  shapes.insert(shapes.end(), std::begin(around_tiles), std::end(around_tiles));
  // The most classes whose labels are bytes, and one more.
  for (const int64_t classes : {255, 256}) shapes.push_back({1, classes, 1, 2, 3, {4, 4}, {2, 2}, {1, 1}});
  shapes.push_back({1, 256, 1, 1, 3, {1, 3}, {1, 1}});
  for (const Upsample& shape : deep_upsamplings()) {
    const Upsampling g = geometry_of(shape, true);
    const uint32_t chance = tester->random();
    for (int k = 0; k < (shape.samples < 64 ? 4 : 1); ++k) {
      tester->upsample_backward(g, kFloatTypes[(k + chance) % 4], (k + chance / 4) % 2 == 0);
    }
  }
  constexpr double kSmoothings[] = {0, 0.25, 1};
  for (const bool channels_last : {false, true}) {
    for (size_t k = 0; k < shapes.size(); ++k) {
      const Upsampling g = geometry_of(shapes[k], channels_last);
      if (g.channels * g.kernel_h * g.kernel_w > 8192) continue;  // one block per weight is slow in the emulation
      tester->upsample_backward(g, kFloatTypes[(k + channels_last) % 4], false);
      tester->upsample_backward(g, kFloatTypes[(k + channels_last + 2) % 4], true);
      tester->cross_entropy(g, kFloatTypes[(k + channels_last) % 4], kSmoothings[k % 3], k % 2 == 0, false);
      tester->cross_entropy(g, kFloatTypes[(k + channels_last + 1) % 2], kSmoothings[(k + 1) % 3], k % 4 < 2, true);
    }
  }
}

// One unpooling and convolution; the padding is that of a transposed convolution.
struct UnpoolShape {
  int64_t samples, channels, outputs, pooled[2], size[2], padding[2];
};

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
void test_unpool_conv2d(Tester* tester) {
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
  const UnpoolShape long_strips[] = {{128, 1, 1, {15, 1}, {29, 2}, {1, 1}},
                                     {128, 9, 1, {17, 1}, {33, 1}, {1, 1}},
                                     {256, 1, 2, {5, 2}, {10, 4}, {0, 1}}};
  for (const bool channels_last : {false, true}) {
    for (const UnpoolShape& shape : long_strips) {
      tester->unpool_conv2d(geometry_of(shape, channels_last), ElementType::kFloat32, false, false, true, true, false);
    }
    for (const UnpoolShape& shape : shapes) {
      const UnpoolConv g = geometry_of(shape, channels_last);
      for (const ElementType type : kFloatTypes) {
        const uint32_t chance = tester->random();
        const bool mirrored = chance % 2 != 0, strided = chance / 2 % 2 != 0, has_bias = chance / 4 % 2 != 0;
        tester->unpool_conv2d(g, type, mirrored, strided, has_bias, false, chance / 8 % 4 == 0);
        tester->unpool_conv2d(g, type, !mirrored, strided, !has_bias, true, false);
        if (element_size(type) != 2) continue;
        cuda_emulation::set_compute_capability(7);
        tester->unpool_conv2d(g, type, mirrored, !strided, has_bias, true, false);
        cuda_emulation::set_compute_capability(9);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  using cuda_emulation::ThreadOrder;
  const std::string order = argc > 1 ? argv[1] : "ascending";
  const int64_t share = argc > 2 ? std::atoll(argv[2]) : 1;
  const int64_t part = argc > 3 ? std::atoll(argv[3]) : 0;
  cuda_emulation::set_thread_order(order == "descending" ? ThreadOrder::kDescending
                                   : order == "random"   ? ThreadOrder::kRandom
                                                         : ThreadOrder::kAscending,
                                   99);
  cuda_emulation::set_launch_observer([](const void* kernel, int64_t threads) {
    ++launches()[kernel];
    launched_kernel() = kernel;
    launched_threads() = threads;
  });
  Tester tester(share, part);
  test_max_pool2d(&tester);
  test_scatter_and_gather(&tester);
  test_indices(&tester);
  test_upsampling(&tester);
  if (order == "random") test_large_upsampling(&tester);  // takes seconds
  test_strips_are_numbered();
  test_choice_of_kernels();
  test_order_of_sums();
  test_long_threads(&tester);
  test_gradients(&tester);
  test_unpool_conv2d(&tester);
  for (const auto& [kernel, count] : launches()) std::printf("%s: %ld launches\n", kernel_name(kernel).c_str(), count);
  std::printf("%ld cases, %s order\n", tester.cases(), order.c_str());
  return 0;
}
