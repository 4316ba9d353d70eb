// The shapes that programs give to kernels, and the names that they print of them.
#pragma once

#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "depthwise_conv_transpose2d.h"
#include "switches.h"

namespace shapes {

using namespace segext;  // NOLINT: of the kernels that these are shapes of

inline constexpr const char* kTypeNames[] = {"float32", "float64", "float16", "bfloat16", "int8",
                                             "uint8",   "int16",   "int32",   "int64"};

// One pool, without the sizes that follow from it.
struct Shape {
  int64_t samples, channels, height, width;
  Window window;
  bool ceil_mode = false;
};

inline Window square(int64_t kernel, int64_t stride, int64_t padding = 0, int64_t dilation = 1) {
  return {kernel, kernel, stride, stride, padding, padding, dilation, dilation};
}

inline int64_t pooled_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
                           bool ceil_mode) {
  const int64_t room = size + 2 * padding - dilation * (kernel - 1) - 1;
  if (room < 0) return ceil_mode ? 1 : 0;
  int64_t pooled = room / stride + 1;
  if (ceil_mode && room % stride != 0 && pooled * stride < size + padding) ++pooled;
  return pooled;
}

inline PoolGeometry geometry_of(const Shape& s, bool channels_last) {
  const Window& w = s.window;
  PoolGeometry g{};
  g.window = w;
  g.samples = s.samples;
  g.channels = s.channels;
  g.height = s.height;
  g.width = s.width;
  g.pooled_height = pooled_size(s.height, w.kernel_h, w.stride_h, w.padding_h, w.dilation_h, s.ceil_mode);
  g.pooled_width = pooled_size(s.width, w.kernel_w, w.stride_w, w.padding_w, w.dilation_w, s.ceil_mode);
  g.channels_last = channels_last;
  g.bits = code_bits(w.kernel_h * w.kernel_w);
  g.sample_bytes = code_bytes(pooled_elements(g), g.bits);
  return g;
}

inline int64_t map_count(const PoolGeometry& g) { return g.samples * g.channels * g.height * g.width; }
inline int64_t pooled_count(const PoolGeometry& g) { return g.samples * pooled_elements(g); }

inline std::string describe(const PoolGeometry& g, ElementType type) {
  const Window& w = g.window;
  char text[256];
  std::snprintf(text, sizeof(text),
                "(%ld, %ld, %ld, %ld) -> (%ld, %ld), kernel %ldx%ld stride %ld,%ld padding %ld,%ld dilation %ld,%ld, "
                "%d bits, %s, %s",
                g.samples, g.channels, g.height, g.width, g.pooled_height, g.pooled_width, w.kernel_h, w.kernel_w,
                w.stride_h, w.stride_w, w.padding_h, w.padding_w, w.dilation_h, w.dilation_w, g.bits,
                g.channels_last ? "channels_last" : "NCHW", kTypeNames[static_cast<int>(type)]);
  return text;
}

// One upsampling. Kernels, strides, origins and dilations are (vertical, horizontal).
struct Upsample {
  int64_t samples, inputs, multiplier, height, width;
  int64_t kernel[2], stride[2], origin[2] = {0, 0}, dilation[2] = {1, 1};
  int64_t output_size[2] = {0, 0};  // 0: everything from the origin on
};

inline Upsampling geometry_of(const Upsample& u, bool channels_last) {
  const int64_t sizes[] = {u.height, u.width};
  int64_t output[2];
  for (int k = 0; k < 2; ++k) {
    const int64_t whole = (sizes[k] - 1) * u.stride[k] + (u.kernel[k] - 1) * u.dilation[k] + 1;
    output[k] = u.output_size[k] != 0 ? u.output_size[k] : whole - u.origin[k];
  }
  return {u.samples,     u.inputs * u.multiplier,
          u.multiplier,  u.height,
          u.width,       output[0],
          output[1],     u.kernel[0],
          u.kernel[1],   u.stride[0],
          u.stride[1],   u.origin[0],
          u.origin[1],   u.dilation[0],
          u.dilation[1], channels_last};
}

inline std::string describe(const Upsampling& g, ElementType type) {
  char text[256];
  std::snprintf(text, sizeof(text),
                "(%ld, %ld / %ld, %ld, %ld) -> (%ld, %ld), kernel %ldx%ld stride %ld,%ld origin %ld,%ld dilation "
                "%ld,%ld, %s, %s",
                g.samples, g.channels, g.multiplier, g.height, g.width, g.output_height, g.output_width, g.kernel_h,
                g.kernel_w, g.stride_h, g.stride_w, g.origin_h, g.origin_w, g.dilation_h, g.dilation_w,
                g.channels_last ? "channels_last" : "NCHW", kTypeNames[static_cast<int>(type)]);
  return text;
}

// "segext::name_kernel<arguments>".
inline std::string kernel_name(const void* kernel) {
  Dl_info info{};
  if (dladdr(kernel, &info) == 0 || info.dli_sname == nullptr) return "?";
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> demangled(
      abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status), &std::free);
  const std::string name = status == 0 ? demangled.get() : info.dli_sname;
  const size_t kernel_end = name.find("_kernel");
  const size_t begin = name.rfind("segext::", kernel_end);
  const size_t template_end = name.find(">(", kernel_end);
  return name.substr(begin, (template_end < name.size() ? template_end + 1 : name.find('(', kernel_end)) - begin);
}

}  // namespace shapes
