// Checks and geometry of pooling ops: see pooling.h.
#include "pooling.h"

#include <limits>
#include <utility>

namespace segext::ops {
namespace {

// Outputs at least this large are written past the caches if their pages are resident: they would not fit anyway, and
// the lines they would evict are worth more.
constexpr int64_t kBypassBytes = int64_t{16} << 20;

// Checks the one or two values of a window argument and returns two.
Ints pair(const char* op, const char* name, const Ints& values, int64_t least) {
  SEGEXT_CHECK(values.size() == 1 || values.size() == 2, op, ": ", name,
               " must either be a single int, or a tuple of two ints, but got ", text(values));
  const Ints pair{values.front(), values.back()};
  for (int64_t v : pair) {
    SEGEXT_CHECK(v >= least, op, ": ", name,
                 least > 0 ? " should be greater than zero, but got " : " should not be negative, but got ",
                 text(values));
    SEGEXT_CHECK(v <= std::numeric_limits<int32_t>::max(), op, ": ", name, " is out of range: ", text(values));
  }
  return pair;
}

int64_t pooled_extent(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation, bool ceil_mode) {
  const int64_t room = size + 2 * padding - dilation * (kernel - 1) - 1 + (ceil_mode ? stride - 1 : 0);
  int64_t extent = (room >= 0 ? room / stride : -((-room + stride - 1) / stride)) + 1;
  // With ceil_mode, the last window must still start inside the map or its left padding.
  if (ceil_mode && (extent - 1) * stride >= size + padding) --extent;
  return extent;
}

// Sizes may come from anywhere, for example from a file. The bits of all codes must be countable in 64 bits, even if
// the batch is empty.
void check_elements(const char* op, const Ints& sizes, const Ints& size) {
  int64_t bits = 32;  // of the widest code
  bool fits = true;
  const auto multiply = [&](int64_t by) { fits = fits && !__builtin_mul_overflow(bits, by > 0 ? by : 1, &bits); };
  for (size_t k = 0; k < sizes.size() - 2; ++k) multiply(sizes[k]);
  for (int64_t s : size) multiply(s);
  SEGEXT_CHECK(fits, op, ": a map of ", text(sizes), " by ", text(size), " has more elements than 64 bits count");
}

}  // namespace

Window make_window(const char* op, const Ints& kernel_size, const Ints& stride, const Ints& padding,
                   const Ints& dilation) {
  const Ints k = pair(op, "kernel_size", kernel_size, 1);
  const Ints s = stride.empty() ? k : pair(op, "stride", stride, 1);
  const Ints p = pair(op, "padding", padding, 0);
  const Ints d = pair(op, "dilation", dilation, 1);
  SEGEXT_CHECK(p[0] <= k[0] / 2 && p[1] <= k[1] / 2, op, ": padding should be at most half of kernel_size, but got ",
               "padding=", text(p), " and kernel_size=", text(k));
  SEGEXT_CHECK(k[0] <= std::numeric_limits<int32_t>::max() / k[1], op, ": kernel_size is out of range: ", text(k));
  return {k[0], k[1], s[0], s[1], p[0], p[1], d[0], d[1]};
}

void check_map(const char* op, const char* name, const Tensor& tensor) {
  const Ints sizes = sizes_of(tensor);
  bool valid = sizes.size() == 3 || sizes.size() == 4;
  for (size_t dim = sizes.size() - 3; valid && dim < sizes.size(); ++dim) valid = sizes[dim] > 0;
  SEGEXT_CHECK(valid, op, ": Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for ", name,
               ", but got: ", text(sizes));
}

void check_spatial_size(const char* op, const char* name, const Ints& size) {
  SEGEXT_CHECK(size.size() == 2 && size[0] >= 0 && size[1] >= 0, op, ": ", name,
               " must be two sizes (height, width), none negative, but got ", text(size));
}

void check_out(const char* op, const Tensor& out, const Tensor& input, const Ints& sizes, bool channels_last) {
  check_like(op, "out", out, "input", input);
  SEGEXT_CHECK(sizes_of(out) == sizes, op, ": out should have shape ", text(sizes), ", but got ", text(sizes_of(out)));
  SEGEXT_CHECK(is_dense(out, channels_last), op, ": out should be contiguous in the ",
               channels_last ? "channels_last" : "contiguous", " memory format");
}

bool bypasses_caches(const Tensor& out) {
  return out.is_cpu() && out.numel() * static_cast<int64_t>(out.element_size()) >= kBypassBytes;
}

PoolGeometry make_geometry(const char* op, const Window& window, const Ints& sizes, const Ints& size,
                           const Ints& pooled_size, bool channels_last) {
  SEGEXT_CHECK(sizes.size() == 4 || !channels_last, op, ": channels_last needs a batch, but got a map of shape ",
               text(sizes));
  PoolGeometry g{};
  g.window = window;
  g.samples = sizes.size() == 4 ? sizes[0] : 1;
  g.channels = sizes[sizes.size() - 3];
  g.height = size[0];
  g.width = size[1];
  g.pooled_height = pooled_size[0];
  g.pooled_width = pooled_size[1];
  g.channels_last = channels_last;
  check_elements(op, sizes, size);
  check_elements(op, sizes, pooled_size);
  g.bits = code_bits(window.kernel_h * window.kernel_w);
  g.sample_bytes = code_bytes(pooled_elements(g), g.bits);
  return g;
}

PoolGeometry as_row(const PoolGeometry& geometry) {
  PoolGeometry g = geometry;
  Window& w = g.window;
  if (g.width != 1 || g.pooled_width != 1 || w.kernel_w != 1) return g;
  std::swap(g.height, g.width);
  std::swap(g.pooled_height, g.pooled_width);
  std::swap(w.kernel_h, w.kernel_w);
  std::swap(w.stride_h, w.stride_w);
  std::swap(w.padding_h, w.padding_w);
  std::swap(w.dilation_h, w.dilation_w);
  return g;
}

Ints pooled_size(const char* op, const Window& w, const Tensor& input, bool ceil_mode) {
  const Ints sizes = sizes_of(input);
  const size_t n = sizes.size();
  const Ints pooled{
      pooled_extent(sizes[n - 2], w.kernel_h, w.stride_h, w.padding_h, w.dilation_h, ceil_mode),
      pooled_extent(sizes[n - 1], w.kernel_w, w.stride_w, w.padding_w, w.dilation_w, ceil_mode),
  };
  SEGEXT_CHECK(pooled[0] > 0 && pooled[1] > 0, op, ": Given input size: (", sizes[n - 3], "x", sizes[n - 2], "x",
               sizes[n - 1], "). Calculated output size: (", sizes[n - 3], "x", pooled[0], "x", pooled[1],
               "). Output size is too small");
  return pooled;
}

Tensor empty_codes(const Tensor& map, const PoolGeometry& g) {
  return empty(map, map.dim() == 4 ? Ints{g.samples, g.sample_bytes} : Ints{g.sample_bytes}, ScalarType::Byte);
}

Tensor checked_codes(const char* op, const Tensor& codes, bool batched, const PoolGeometry& g) {
  SEGEXT_CHECK(codes.scalar_type() == ScalarType::Byte, op, ": codes should be uint8, but got ",
               torch::headeronly::toString(codes.scalar_type()));
  const Ints expected = batched ? Ints{g.samples, g.sample_bytes} : Ints{g.sample_bytes};
  SEGEXT_CHECK(sizes_of(codes) == expected, op, ": codes of a pooled map of ", g.samples, "x", g.channels, "x",
               g.pooled_height, "x", g.pooled_width, " and a ", g.window.kernel_h, "x", g.window.kernel_w,
               " window should have shape ", text(expected), ", but got ", text(sizes_of(codes)));
  return dense(codes, false);
}

const uint8_t* code_data(const Tensor& codes) { return static_cast<const uint8_t*>(codes.const_data_ptr()); }

}  // namespace segext::ops
