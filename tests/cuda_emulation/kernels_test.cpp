// Runs the launchers of csrc/kernels/cuda in the emulation on the cases of tests/kernel_cases, and on some of their
// own.
//
//   kernels_test [ascending|descending|random] [share] [part]
//
// The first argument is the order of threads. With `share`, only every share-th case runs, starting with case `part`.
//
// Arrays are heap blocks of exactly their size, so that AddressSanitizer catches an access one element past the end.
// Prints each kernel that ran and its number of launches; the first mismatch ends the program.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <random>
#include <string>
#include <utility>

#include "cases.h"
#include "cuda/cell_division.cuh"
#include "cuda_backend.h"
#include "kernel_choices.h"
#include "upsampling_cases.h"

namespace {

using namespace kernel_cases;  // NOLINT: a test's main file

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
  backend::expect_long_threads(true);
  for (const bool channels_last : {false, true}) {
    for (const Upsample& shape : long_upsamplings()) {
      const Upsampling g = geometry_of(shape, channels_last);
      for (const ElementType type :
           {ElementType::kFloat32, tester->random() % 2 == 0 ? ElementType::kFloat16 : ElementType::kBFloat16}) {
        upsample(tester, g, type, true, -1, false, false, false);
        upsample(tester, g, type, false, 1, true, false, false);
        if (g.stride_h != 2 || channels_last) continue;
        upsample_backward(tester, g, type, tester->random() % 2 == 0, Wanted::kInput);
      }
    }
  }
  backend::expect_long_threads(false);
}

// Upsampling by two in channels_last goes by strips where the map is large.
void test_large_upsampling(Tester* tester) {
  const Upsample shape{1, 64, 1, 129, 128, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {258, 256}};
  upsample(tester, geometry_of(shape, true), ElementType::kBFloat16, true, -1, false, false);
}

// Samples so many that int32_t does not number their strips are left to the kernel for any geometry.
void test_strips_are_numbered() {
  for (const bool channels_last : {false, true}) {
    for (const auto& [samples, fit] : {std::pair(int64_t{1} << 20, true), std::pair(int64_t{1} << 29, false)}) {
      UpsamplingOperands operands{};
      operands.geometry =
          geometry_of({samples, 2, 1, 16, 16, {16, 16}, {8, 8}, {4, 4}, {1, 1}, {128, 128}}, channels_last);
      if (divide_strips(operands, {4, 4, 4, 2}).has_value() == fit) continue;
      std::fprintf(stderr, "strips of %ld samples: %s\n", samples, fit ? "none" : "some");
      std::exit(1);
    }
  }
}

// In the case of benchmarks/gpu/cases.py that is meant for this, racecheck sees a block copy input to a buffer that it
// has read before: in its third round. Which lanes the output allows depends on the memory order.
void test_buffers_are_reused() {
  cuda_emulation::set_multiprocessors(132);
  for (const bool channels_last : {false, true}) {
    for (const bool adds : {false, true}) {
      UpsamplingOperands operands{};
      operands.geometry = geometry_of({16, 200, 1, 2, 255, {2, 2}, {1, 1}, {1, 1}, {1, 1}, {1, 254}}, channels_last);
      const bool many_lanes = channels_last && !adds;
      const auto division = divide_strips(operands, {many_lanes ? 4 : 2, 4, 4, many_lanes || adds ? 2 : 3});
      if (division && division->rounds > 2) continue;
      std::fprintf(stderr, "%s%s: no buffer is used twice\n", channels_last ? "channels_last" : "NCHW",
                   adds ? ", add" : "");
      std::exit(1);
    }
  }
  cuda_emulation::set_multiprocessors(1);
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
      DepthwiseConvTranspose2dParams params{{input, weight, nullptr, g, ElementType::kFloat32}, {}, output.data()};
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
  backend::observe_launches();
  Tester tester(share, part);
  test_all(&tester);
  if (order == "random") test_large_upsampling(&tester);  // takes seconds
  test_strips_are_numbered();
  test_buffers_are_reused();
  test_kernel_choices();
  test_order_of_sums();
  test_long_threads(&tester);
  for (const auto& [kernel, count] : backend::launches())
    std::printf("%s: %ld launches\n", kernel_name(kernel).c_str(), count);
  std::printf("%ld cases, %s order\n", tester.cases(), order.c_str());
  return 0;
}
