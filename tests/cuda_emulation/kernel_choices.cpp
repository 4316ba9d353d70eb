// Which kernels launchers choose: the fast ones wherever these can run, and the general ones, with 64-bit numbers if
// need be, for sizes that the others do not number. Nothing runs, so sizes may exceed any memory.
#include "kernel_choices.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "cuda/depthwise_cross_entropy.cuh"
#include "cuda_backend.h"
#include "cuda_emulation.h"
#include "shapes.h"

namespace {

using namespace segext;  // NOLINT: a test's file
using namespace shapes;  // NOLINT: likewise

// An address aligned like those of tensors, at which nothing lies.
void* nowhere() { return reinterpret_cast<void*>(uintptr_t{4096}); }

// The kernel of the last launch, and the most dynamic shared memory of any.
const void* launched = nullptr;
int64_t most_shared = 0;

void expect_kernel(CudaStatus status, const std::string& kernel, const char* op, const std::string& what) {
  const std::string name = kernel_name(launched);
  if (status == cudaSuccess && name.find(kernel) != std::string::npos) return;
  std::fprintf(stderr, "%s runs %s instead of %s: %s\n", op, name.c_str(), kernel.c_str(), what.c_str());
  std::exit(1);
}

// Null where another choice says it already.
struct PoolChoice {
  Shape shape;
  bool channels_last;
  ElementType type;
  const char *pool, *gather, *scatter, *add;
};

constexpr ElementType kFloat = ElementType::kFloat32, kHalf = ElementType::kFloat16;

void test_pools() {
  // 2^34 elements in all: too many for int32_t to number the threads of a kernel with a thread for each vector of them,
  // though every sample is small enough.
  const int64_t many = 64, side = 1 << 14;
  const PoolChoice choices[] = {
      {{2, 3, 30, 32, square(2, 2)},
       false,
       kFloat,
       "max_pool2d_tile_rows_kernel<float>",
       "gather_tile_rows_kernel<unsigned int, 4>",
       "scatter_tile_rows_kernel<unsigned int>",
       "scatter_tile_rows_kernel<unsigned int>"},
      {{2, 3, 30, 32, square(2, 2)},
       false,
       kHalf,
       "max_pool2d_tile_rows_kernel<segext::Float16>",
       "gather_tile_rows_kernel<unsigned short, 8>",
       "scatter_tile_rows_kernel<unsigned short>",
       nullptr},
      {{2, 4, 32, 40, square(2, 2)},
       false,
       kHalf,
       "max_pool2d_kernel<segext::Float16, int, (segext::Windows)0>",
       "gather_tile_rows_kernel<unsigned short, 4>",
       "scatter_tile_rows_kernel<unsigned short>",
       nullptr},
      {{2, 4, 32, 42, square(2, 2)},
       false,
       kFloat,
       "max_pool2d_kernel<float, int, (segext::Windows)0>",
       "gather_kernel<unsigned int, int>",
       "scatter_tiles_kernel<unsigned int>",
       "scatter_tiles_kernel<unsigned int>"},
      {{2, 4, 31, 32, square(2, 2), true},
       false,
       kFloat,
       "max_pool2d_kernel<float, int, (segext::Windows)1>",
       "gather_kernel<unsigned int, int>",
       "scatter_tile_rows_kernel<unsigned int>",
       nullptr},
      {{2, 8, 9, 7, square(2, 2)},
       true,
       kHalf,
       "max_pool2d_channels_last_kernel<segext::Float16, (segext::Windows)0>",
       "gather_channels_last_tiles_kernel<unsigned short>",
       "scatter_channels_last_tiles_kernel<unsigned short>",
       "scatter_channels_last_tiles_kernel<unsigned short>"},
      {{2, 4, 9, 7, square(2, 3)},
       true,
       kFloat,
       "max_pool2d_channels_last_kernel<float, (segext::Windows)1>",
       "gather_kernel<unsigned int, int>",
       "scatter_channels_last_windows_kernel<unsigned int>",
       nullptr},
      {{2, 4, 32, 32, square(8, 8)},
       true,
       kFloat,
       "max_pool2d_channels_last_kernel<float, (segext::Windows)3>",
       nullptr,
       "scatter_channels_last_windows_kernel<unsigned int>",
       nullptr},
      {{2, 4, 34, 34, square(8, 9)},
       true,
       kFloat,
       nullptr,
       nullptr,
       "scatter_channels_last_kernel<unsigned int, (segext::Overlap)0>",
       nullptr},
      {{2, 3, 30, 32, square(3, 2, 1)},
       false,
       kFloat,
       "max_pool2d_overlaps_kernel<float>",
       "gather_kernel<unsigned int, int>",
       "scatter_kernel<unsigned int, (segext::Overlap)0, int>",
       "scatter_overlaps_kernel<float, 2>"},
      {{2, 4, 32, 36, square(3, 2, 1)},
       false,
       kHalf,
       "max_pool2d_overlap_pairs_kernel<segext::Float16>",
       nullptr,
       nullptr,
       "scatter_overlaps_kernel<segext::Float16, 1>"},
      {{2, 4, 9, 7, square(3, 2)},
       true,
       kFloat,
       "max_pool2d_channels_last_kernel<float, (segext::Windows)2>",
       nullptr,
       "scatter_channels_last_kernel<unsigned int, (segext::Overlap)0>",
       "scatter_channels_last_overlaps_kernel<float>"},
      // Samples that are too large for int32_t with a margin, and too many warps.
      {{1, 1, 1 << 15, 3 << 14, square(2, 2)},
       false,
       kFloat,
       "max_pool2d_kernel<float, long, (segext::Windows)3>",
       "gather_kernel<unsigned int, long>",
       "scatter_kernel<unsigned int, (segext::Overlap)0, long>",
       nullptr},
      {{1, 1, 1 << 15, 3 << 14, square(3, 2, 1)},
       false,
       kFloat,
       "max_pool2d_kernel<float, long, (segext::Windows)3>",
       nullptr,
       nullptr,
       "scatter_kernel<float, (segext::Overlap)1, long>"},
      {{1, 4, 1 << 14, 3 << 13, square(3, 2, 1)},
       true,
       kFloat,
       "max_pool2d_kernel<float, long, (segext::Windows)3>",
       nullptr,
       nullptr,
       "scatter_kernel<float, (segext::Overlap)1, long>"},
      {{4 * many, 1, side, side, square(2, 2)},
       false,
       kHalf,
       "max_pool2d_kernel<segext::Float16, long, (segext::Windows)3>",
       "gather_kernel<unsigned short, long>",
       "scatter_kernel<unsigned short, (segext::Overlap)0, long>",
       nullptr},
      // Too many threads.
      {{many, 1, side, side, square(2, 2)},
       false,
       kFloat,
       "max_pool2d_tile_rows_kernel<float>",
       "gather_tile_rows_kernel<unsigned int, 4>",
       "scatter_kernel<unsigned int, (segext::Overlap)0, int>",
       nullptr},
      {{many + 1, 1, side, side - 4, square(2, 2)},
       false,
       kFloat,
       nullptr,
       "gather_kernel<unsigned int, int>",
       nullptr,
       nullptr},
      {{many, 4, side / 2, side / 2, square(2, 1)},
       true,
       kFloat,
       "max_pool2d_kernel<float, int, (segext::Windows)1>",
       nullptr,
       "scatter_kernel<unsigned int, (segext::Overlap)0, int>",
       nullptr},
      {{many, 1, side, side - 2, square(3, 2, 1)},
       false,
       kFloat,
       "max_pool2d_kernel<float, int, (segext::Windows)2>",
       nullptr,
       nullptr,
       "scatter_kernel<float, (segext::Overlap)1, int>"},
      {{many, 4, side / 2, side / 2, square(3, 2, 1)},
       true,
       kFloat,
       nullptr,
       nullptr,
       nullptr,
       "scatter_kernel<float, (segext::Overlap)1, int>"},
  };
  auto* const codes = static_cast<uint8_t*>(nowhere());
  for (const PoolChoice& choice : choices) {
    const PoolGeometry g = geometry_of(choice.shape, choice.channels_last);
    const ElementType type = choice.type;
    const std::string what = describe(g, type);
    if (choice.pool != nullptr) {
      const MaxPool2dParams params{nowhere(), nowhere(), codes, g, type, false};
      expect_kernel(max_pool2d_cuda(params, nullptr), choice.pool, "max_pool2d", what);
    }
    if (choice.gather != nullptr) {
      const GatherParams params{nowhere(), nullptr, codes, nowhere(), g, type, Overlap::kAdd};
      expect_kernel(gather_cuda(params, nullptr), choice.gather, "gather", what);
    }
    for (const Overlap overlap : {Overlap::kKeepLast, Overlap::kAdd}) {
      const char* kernel = overlap == Overlap::kAdd ? choice.add : choice.scatter;
      if (kernel == nullptr) continue;
      const ScatterParams params{nowhere(), nullptr, codes, nowhere(), g, type, overlap, false};
      expect_kernel(scatter_cuda(params, nullptr), kernel, "scatter", what);
    }
  }
}

struct UpsampleChoice {
  Upsample shape;
  bool channels_last;
  const char* kernel;
  bool adds = false;
};

// Of float32, on one multiprocessor.
void test_upsampling() {
  const UpsampleChoice choices[] = {
      // By two: strips are for large maps in channels_last without addends.
      {{1, 3, 1, 9, 8, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {18, 16}}, false, "_x2_kernel<float, 4, false, false>"},
      {{1, 3, 1, 9, 9, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {18, 18}}, false, "_x2_kernel<float, 2, false, false>"},
      {{1, 3, 1, 9, 9, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {18, 17}}, false, "_cells_kernel<float, 1, false>"},
      {{1, 3, 1, 9, 8, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {18, 16}}, false, "_x2_kernel<float, 4, false, true>", true},
      {{1, 4, 1, 9, 8, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {18, 16}}, true, "_x2_kernel<float, 2, true, false>"},
      {{1, 3, 1, 9, 9, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {17, 17}}, true, "_x2_kernel<float, 1, true, false>"},
      {{1, 64, 1, 128, 128, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {256, 256}}, true, "_cells_kernel<float, 4, false>"},
      {{1, 64, 1, 127, 128, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {255, 256}}, true, "_x2_kernel<float, 2, true, false>"},
      {{1, 64, 1, 128, 128, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {256, 256}},
       true,
       "_x2_kernel<float, 2, true, true>",
       true},
      // Channels so many that no strip with four lanes fits in shared memory take fewer lanes. Where those do not fit
      // either, upsampling by two has another kernel.
      {{1, 218, 1, 8, 4, {8, 8}, {4, 4}, {2, 2}, {1, 1}, {32, 16}}, true, "_cells_kernel<float, 4, false>"},
      {{1, 330, 1, 8, 4, {8, 8}, {4, 4}, {2, 2}, {1, 1}, {32, 16}}, true, "_cells_kernel<float, 2, false>"},
      {{1, 365, 1, 8, 4, {8, 8}, {4, 4}, {2, 2}, {1, 1}, {32, 16}}, true, "_cells_kernel<float, 1, false>"},
      {{1, 219, 1, 80, 64, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {160, 128}}, true, "_cells_kernel<float, 2, false>"},
      {{1, 383, 1, 48, 64, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {96, 128}}, true, "_x2_kernel<float, 2, true, false>"},
      // By others, with and without strips; and one that int32_t does not number.
      {{1, 3, 1, 9, 8, {16, 16}, {8, 8}, {4, 4}, {1, 1}, {72, 64}}, false, "_cells_kernel<float, 4, false>"},
      {{1, 3, 1, 9, 8, {16, 16}, {8, 8}, {4, 4}, {1, 1}, {72, 62}}, false, "_cells_kernel<float, 2, false>"},
      {{1, 3, 1, 9, 8, {16, 16}, {8, 8}, {4, 4}, {1, 1}, {72, 64}}, false, "_cells_kernel<float, 2, true>", true},
      {{1, 3, 1, 9, 8, {5, 5}, {2, 2}, {1, 1}}, false, "_conv_transpose2d_kernel<float, int, false>"},
      {{1, 3, 1, 9, 8, {5, 5}, {2, 2}, {1, 1}}, true, "_conv_transpose2d_kernel<float, int, true>"},
      {{1, 3, 1, 9, 8, {2, 2}, {257, 1}}, false, "_conv_transpose2d_kernel<float, int, false>"},
      {{1, 4, 1, 1 << 13, 1 << 13, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {1 << 14, 1 << 14}},
       false,
       "_conv_transpose2d_kernel<float, long, false>"},
  };
  for (const UpsampleChoice& choice : choices) {
    const Upsampling g = geometry_of(choice.shape, choice.channels_last);
    DepthwiseConvTranspose2dParams params{};
    params.operands = {nowhere(), nowhere(), nullptr, g, kFloat};
    params.output = nowhere();
    if (choice.adds) params.addend = {nowhere(), g.output_height, g.output_width, 0, 0};
    expect_kernel(depthwise_conv_transpose2d_cuda(params, nullptr), choice.kernel, "depthwise_conv_transpose2d",
                  describe(g, kFloat) + (choice.adds ? ", add" : ""));
  }
}

struct GradientChoice {
  Upsample shape;
  bool channels_last;
  const char *input, *weight;
};

void test_upsampling_gradients() {
  const GradientChoice choices[] = {
      {{2, 3, 1, 9, 8, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {18, 16}},
       false,
       "depthwise_input_gradient_x2_kernel<float>",
       "depthwise_weight_gradient_cells_kernel<float,"},
      {{2, 3, 1, 9, 8, {8, 8}, {4, 4}, {2, 2}, {1, 1}, {36, 32}},
       false,
       "depthwise_input_gradient_cells_kernel<float,",
       "depthwise_weight_gradient_cells_kernel<float,"},
      {{2, 4, 1, 9, 8, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {18, 16}},
       true,
       "depthwise_input_gradient_channels_last_kernel<float>",
       "depthwise_weight_gradient_channels_last_kernel<float>"},
      {{2, 3, 1, 9, 8, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {18, 16}},
       true,
       "depthwise_input_gradient_cells_kernel<float,",
       "depthwise_weight_gradient_cells_kernel<float,"},
      {{2, 2, 2, 9, 8, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {18, 16}},
       true,
       "depthwise_input_gradient_cells_kernel<float,",
       "depthwise_weight_gradient_cells_kernel<float,"},
      {{2, 3, 1, 9, 8, {5, 5}, {2, 2}, {1, 1}},
       false,
       "depthwise_input_gradient_kernel<float, int,",
       "depthwise_weight_gradient_kernel<float, int,"},
      // Samples that are too large for int32_t.
      {{1, 4, 1, 1 << 13, 1 << 13, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {1 << 14, 1 << 14}},
       false,
       "depthwise_input_gradient_kernel<float, long,",
       "depthwise_weight_gradient_kernel<float, long,"},
      {{1, 4, 1, 1 << 13, 1 << 13, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {1 << 14, 1 << 14}},
       true,
       "depthwise_input_gradient_kernel<float, long,",
       "depthwise_weight_gradient_kernel<float, long,"},
  };
  for (const GradientChoice& choice : choices) {
    const Upsampling g = geometry_of(choice.shape, choice.channels_last);
    DepthwiseConvTranspose2dBackwardParams params{
        nowhere(), {nowhere(), nowhere(), nullptr, g, kFloat}, {nowhere(), nullptr, nullptr}};
    constexpr const char* op = "depthwise_conv_transpose2d_backward";
    expect_kernel(depthwise_conv_transpose2d_backward_cuda(params, nullptr), choice.input, op, describe(g, kFloat));
    params.gradients = {nullptr, nowhere(), nullptr};
    expect_kernel(depthwise_conv_transpose2d_backward_cuda(params, nullptr), choice.weight, op, describe(g, kFloat));
  }
}

// Of so many classes, a block holds the weights of as many as fit beside what block_sum has of shared memory, which the
// emulation does not count.
void test_room_for_sums() {
  DepthwiseCrossEntropyParams params{};
  const Upsampling g = geometry_of({1, 800, 1, 9, 8, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {18, 16}}, false);
  params.scores.geometry = g;
  params.scores.type = kFloat;
  most_shared = 0;
  const CudaStatus status = depthwise_cross_entropy_cuda(params, nullptr);
  constexpr int64_t kRoom = Launch::kMaxSharedBytes - kBlockReduceBytes;
  const int64_t class_bytes = g.kernel_w * static_cast<int64_t>(sizeof(ColumnWeights<float>));
  if (status == cudaSuccess && most_shared <= kRoom && most_shared + class_bytes > kRoom) return;
  std::fprintf(stderr, "depthwise_cross_entropy takes %ld bytes of %ld\n", most_shared, kRoom);
  std::exit(1);
}

}  // namespace

void test_kernel_choices() {
  cuda_emulation::set_runs(false);
  cuda_emulation::set_multiprocessors(1);
  cuda_emulation::set_launch_observer([](const void* kernel, int64_t, int64_t shared_bytes) {
    launched = kernel;
    most_shared = std::max(most_shared, shared_bytes);
  });
  test_pools();
  test_upsampling();
  test_upsampling_gradients();
  test_room_for_sums();
  backend::observe_launches();
  cuda_emulation::set_runs(true);
}
