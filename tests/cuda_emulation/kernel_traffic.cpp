// Runs the kernels that memory bounds on maps as large as those of the benchmarks and prints how their warps touch
// memory, a line per buffer:
//
//   op  case  format  type  kernels  buffer  read|written  requests  bytes  steps  fewest
//
// with tabs between, and counts as in memory_traffic.h. Only a few blocks of each launch run, on a device with as many
// multiprocessors as an H200. Convolutions after unpooling are left out: what tensor cores read is not counted.
#include <cstdio>
#include <memory>
#include <string>

#include "cuda_emulation.h"
#include "depthwise_conv_transpose2d_backward.h"
#include "depthwise_cross_entropy.h"
#include "gather.h"
#include "max_pool2d.h"
#include "memory_traffic.h"
#include "scatter.h"
#include "shapes.h"

namespace {

using namespace segext;  // NOLINT: a main file
using namespace shapes;  // NOLINT: likewise

constexpr unsigned kBlocks = 3, kMultiprocessors = 132;
constexpr int64_t kLabelBytes = 1, kTargetBytes = 8, kNormalizerBytes = 8;

std::string kernels;  // that the last op launched

// A named buffer. Aligned like those of torch, and zero, so that pages that no block touches take no memory.
class Buffer {
 public:
  Buffer(const char* name, int64_t bytes) : block_(std::calloc(bytes + kAlignment, 1), &std::free) {
    memory_traffic::name_buffer(name, data(), bytes);
  }
  void* data() const {
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(block_.get()) / kAlignment + 1) * kAlignment);
  }
  operator void*() const { return data(); }  // NOLINT: reads like the pointer that it stands for

 private:
  static constexpr uintptr_t kAlignment = 512;
  std::unique_ptr<void, decltype(&std::free)> block_;
};

// Calls op(), which makes its buffers and launches its kernels, and prints what they did.
template <typename Op>
void show(const char* name, const std::string& what, const Op& op) {
  kernels.clear();
  memory_traffic::start();
  if (op() != cudaSuccess) {
    std::fprintf(stderr, "%s fails: %s\n", name, what.c_str());
    std::exit(1);
  }
  for (const auto& [place, t] : memory_traffic::counts()) {
    std::printf("%s\t%s\t%s\t%s\t%s\t%ld\t%ld\t%ld\t%ld\n", name, what.c_str(), kernels.c_str(), place.first.c_str(),
                place.second ? "written" : "read", t.requests, t.bytes, t.steps, t.fewest);
  }
}

// The window's size or the factor, "at" the size of the map; then format and type.
std::string describe_case(int64_t factor, int64_t size, bool channels_last, ElementType type) {
  return std::to_string(factor) + " at " + std::to_string(size) + (channels_last ? "\tchannels_last\t" : "\tNCHW\t") +
         kTypeNames[static_cast<int>(type)];
}

void show_pooling(const Shape& shape, bool channels_last, ElementType type) {
  const PoolGeometry g = geometry_of(shape, channels_last);
  const int64_t map_bytes = map_count(g) * element_size(type), pooled_bytes = pooled_count(g) * element_size(type);
  const std::string what = describe_case(g.window.kernel_h, g.height, channels_last, type);
  show("max_pool2d", what, [&] {
    const Buffer map("map", map_bytes), pooled("pooled", pooled_bytes), codes("codes", g.samples * g.sample_bytes);
    return max_pool2d_cuda({map, pooled, static_cast<uint8_t*>(codes.data()), g, type, false}, nullptr);
  });
  for (const Overlap overlap : {Overlap::kKeepLast, Overlap::kAdd}) {
    if (overlap == Overlap::kAdd && windows_are_disjoint(g.window)) continue;
    show(overlap == Overlap::kAdd ? "scatter, add" : "scatter", what, [&] {
      const Buffer map("map", map_bytes), pooled("pooled", pooled_bytes), codes("codes", g.samples * g.sample_bytes);
      const auto* bytes = static_cast<const uint8_t*>(codes.data());
      return scatter_cuda({pooled, nullptr, bytes, map, g, type, overlap, false}, nullptr);
    });
  }
  show("gather", what, [&] {
    const Buffer map("map", map_bytes), pooled("pooled", pooled_bytes), codes("codes", g.samples * g.sample_bytes);
    const auto* bytes = static_cast<const uint8_t*>(codes.data());
    return gather_cuda({map, nullptr, bytes, pooled, g, type, Overlap::kKeepLast}, nullptr);
  });
}

void show_upsampling(const Upsample& shape, bool channels_last, ElementType type) {
  const Upsampling g = geometry_of(shape, channels_last);
  const int64_t size = element_size(type), pixels = g.samples * g.output_height * g.output_width;
  const int64_t output_bytes = pixels * g.channels * size;
  const int64_t input_bytes = g.samples * g.channels * g.height * g.width * size;
  const int64_t weight_bytes = g.channels * g.kernel_h * g.kernel_w * size;
  const std::string what = describe_case(g.stride_h, g.height, channels_last, type);
  const auto operands = [&](const Buffer& input, const Buffer& weight) {
    return UpsamplingOperands{input, weight, nullptr, g, type};
  };
  show("upsample", what, [&] {
    const Buffer input("input", input_bytes), weight("weight", weight_bytes), output("output", output_bytes);
    return depthwise_conv_transpose2d_cuda({operands(input, weight), {}, output}, nullptr);
  });
  show("upsample, add", what, [&] {
    const Buffer input("input", input_bytes), weight("weight", weight_bytes), output("output", output_bytes),
        addend("addend", output_bytes);
    const Addend added{addend, g.output_height, g.output_width, 0, 0};
    return depthwise_conv_transpose2d_cuda({operands(input, weight), added, output}, nullptr);
  });
  show("upsample, argmax", what, [&] {
    const Buffer input("input", input_bytes), weight("weight", weight_bytes), labels("labels", pixels * kLabelBytes);
    return depthwise_argmax_cuda({operands(input, weight), static_cast<uint8_t*>(labels.data()), nullptr}, nullptr);
  });
  show("upsample, loss", what, [&] {
    const Buffer input("input", input_bytes), weight("weight", weight_bytes), labels("labels", pixels * kLabelBytes),
        target("target", pixels * kTargetBytes), normalizers("normalizers", pixels * kNormalizerBytes),
        parts("parts", 2 * depthwise_cross_entropy_cuda_parts(g, type) * sizeof(double)), totals("totals", 16);
    DepthwiseCrossEntropyParams params{};
    params.scores = operands(input, weight);
    params.target = static_cast<const int64_t*>(target.data());
    params.ignored = g.channels;
    params.normalizers = normalizers;
    params.labels = labels;
    params.totals = {totals, static_cast<char*>(totals.data()) + 8, static_cast<double*>(parts.data())};
    return depthwise_cross_entropy_cuda(params, nullptr);
  });
  show("upsample, input gradient", what, [&] {
    const Buffer input("input", input_bytes), weight("weight", weight_bytes), grad_output("output", output_bytes),
        grad_input("input gradient", input_bytes);
    const UpsamplingGradients gradients{grad_input, nullptr, nullptr};
    return depthwise_conv_transpose2d_backward_cuda({grad_output, operands(input, weight), gradients}, nullptr);
  });
}

// Bilinear upsampling of a batch of 16 maps of 21 scores, as FCN does it.
Upsample bilinear(int64_t factor, int64_t size) {
  const int64_t crop = factor / 2;
  return {16,
          21,
          1,
          size,
          size,
          {2 * factor, 2 * factor},
          {factor, factor},
          {crop, crop},
          {1, 1},
          {factor * size, factor * size}};
}

}  // namespace

int main() {
  cuda_emulation::set_block_sample(kBlocks);
  cuda_emulation::set_multiprocessors(kMultiprocessors);
  cuda_emulation::set_launch_observer([](const void* kernel, int64_t, int64_t) {
    if (!kernels.empty()) kernels += ", ";
    kernels += kernel_name(kernel);
  });
  for (const bool channels_last : {false, true}) {
    for (const ElementType type : {ElementType::kFloat32, ElementType::kBFloat16}) {
      show_pooling({16, 64, 224, 224, square(2, 2)}, channels_last, type);
      show_pooling({16, 128, 175, 175, square(2, 2)}, channels_last, type);
      show_pooling({16, 64, 112, 112, square(3, 2, 1)}, channels_last, type);
      show_upsampling(bilinear(2, 128), channels_last, type);
      show_upsampling(bilinear(8, 64), channels_last, type);
      show_upsampling(bilinear(32, 16), channels_last, type);
    }
  }
  return 0;
}
