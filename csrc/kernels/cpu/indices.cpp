// Conversions between stock's int64 indices and packed codes, and unpooling by indices. Plain loops, one element at a
// time, are enough: they run where stock's format meets segext's, not in the inner loop of a network.
#include "../indices.h"

#include "codes.h"
#include "index_units.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

// The pooled pixel of an element, given its number in the sample in the geometry's memory order.
Pixel pooled_pixel(const PoolGeometry& g, int64_t element) {
  const int64_t pixel = g.channels_last ? element / g.channels : element % (g.pooled_height * g.pooled_width);
  return {pixel / g.pooled_width, pixel % g.pooled_width};
}

// Calls f(sample, first element, end element) for every block in [begin, end).
template <class F>
void for_each_block(const PoolGeometry& g, int64_t begin, int64_t end, F&& f) {
  const int64_t elements = pooled_elements(g), blocks = index_blocks(g);
  for (int64_t b = begin; b < end; ++b) {
    const int64_t first = b % blocks * kIndexBlock;
    f(b / blocks, first, smaller(first + kIndexBlock, elements));
  }
}

// Code of the tap that lies on flat index `index`, in the window of pooled pixel `at`; -1 if no tap does.
int64_t code_of(const PoolGeometry& g, Pixel at, int64_t index) {
  const Window& w = g.window;
  if (index < 0 || index >= g.height * g.width) return -1;
  const int64_t y = index / g.width - (at.row * w.stride_h - w.padding_h);
  const int64_t x = index % g.width - (at.column * w.stride_w - w.padding_w);
  if (y < 0 || x < 0 || y % w.dilation_h != 0 || x % w.dilation_w != 0) return -1;
  const int64_t i = y / w.dilation_h, j = x / w.dilation_w;
  return i < w.kernel_h && j < w.kernel_w ? i * w.kernel_w + j : -1;
}

// The channels of one unit of unpooling. Strides and offsets are in elements.
struct Lanes {
  int64_t count;  // neighbouring elements that belong to one pixel
  int64_t pixel_stride;
  int64_t pooled_offset, full_offset;

  Lanes(const IndexUnpoolParams& p, int64_t unit) {
    if (p.channels_last) {
      const int64_t groups = index_channel_groups(p), sample = unit / groups, first = unit % groups * kIndexChannels;
      count = smaller(p.channels - first, kIndexChannels);
      pixel_stride = p.channels;
      pooled_offset = sample * p.channels * p.pooled_pixels + first;
      full_offset = sample * p.channels * p.pixels + first;
    } else {
      count = 1;
      pixel_stride = 1;
      pooled_offset = unit * p.pooled_pixels;
      full_offset = unit * p.pixels;
    }
  }

  // Calls f(element, lane, index) for every pooled element whose index is in range, in row-major order.
  template <class F>
  void for_each_element(const IndexUnpoolParams& p, F&& f) const {
    for (int64_t k = 0; k < p.pooled_pixels; ++k) {
      for (int64_t c = 0; c < count; ++c) {
        const int64_t element = pooled_offset + k * pixel_stride + c;
        const int64_t index = p.indices[element];
        if (index >= 0 && index < p.pixels) f(element, c, index);
      }
    }
  }
};

// A set of a unit's channels, one bit each.
using LaneSet = uint16_t;
static_assert(8 * sizeof(LaneSet) == kIndexChannels);

// Calls f with an integer as wide as the element, since unpooling only moves values.
template <class F>
void with_width(ElementType type, F&& f) {
  switch (element_size(type)) {
    case 2:
      return f(int16_t{});
    case 4:
      return f(int32_t{});
    default:
      return f(int64_t{});
  }
}

}  // namespace

void indices_from_codes(const IndicesFromCodesParams& params, int64_t begin, int64_t end) {
  const PoolGeometry& g = params.geometry;
  for_each_block(g, begin, end, [&](int64_t sample, int64_t first, int64_t last) {
    const uint8_t* codes = params.codes + sample * g.sample_bytes;
    int64_t* indices = params.indices + sample * pooled_elements(g);
    for (int64_t e = first; e < last; ++e) {
      Pixel pixel;
      const bool named = switch_pixel(g, pooled_pixel(g, e), load_code(codes, e, g.bits), &pixel);
      indices[e] = named ? pixel.row * g.width + pixel.column : -1;
    }
  });
}

void codes_from_indices(const CodesFromIndicesParams& params, int64_t begin, int64_t end) {
  const PoolGeometry& g = params.geometry;
  int64_t invalid = 0;
  for_each_block(g, begin, end, [&](int64_t sample, int64_t first, int64_t last) {
    const int64_t* indices = params.indices + sample * pooled_elements(g);
    CodeWriter writer(params.codes + sample * g.sample_bytes, first, g.bits);
    for (int64_t e = first; e < last; ++e) {
      const int64_t code = code_of(g, pooled_pixel(g, e), indices[e]);
      invalid += code < 0;
      writer.put(static_cast<uint32_t>(larger(code, 0)));
    }
  });
  if (invalid > 0) __atomic_fetch_add(params.invalid, invalid, __ATOMIC_RELAXED);
}

void index_unpool(const IndexUnpoolParams& params, int64_t begin, int64_t end) {
  with_width(params.type, [&](auto zero) {
    using T = decltype(zero);
    const T* values = static_cast<const T*>(params.values);
    for (int64_t unit = begin; unit < end; ++unit) {
      const Lanes lanes(params, unit);
      T* map = static_cast<T*>(params.map) + lanes.full_offset;
      if (lanes.pixel_stride == 1) {
        std::memset(map, 0, params.pixels * sizeof(T));
      } else {
        for (int64_t k = 0; k < params.pixels; ++k)
          std::memset(map + k * lanes.pixel_stride, 0, lanes.count * sizeof(T));
      }
      lanes.for_each_element(params, [&](int64_t element, int64_t c, int64_t index) {
        map[index * lanes.pixel_stride + c] = values[element];
      });
    }
  });
}

void index_unpool_backward(const IndexUnpoolParams& params, int64_t begin, int64_t end) {
  with_width(params.type, [&](auto zero) {
    using T = decltype(zero);
    T* grad_values = static_cast<T*>(params.grad_values);
    // Traverses elements from last to first: of several that name a pixel, only the first one visited gets the
    // gradient.
    Buffer<LaneSet> buffer;
    LaneSet* taken = buffer.reserve(params.pixels);
    for (int64_t unit = begin; unit < end; ++unit) {
      const Lanes lanes(params, unit);
      const T* grad_map = static_cast<const T*>(params.grad_map) + lanes.full_offset;
      std::memset(taken, 0, params.pixels * sizeof(LaneSet));
      for (int64_t k = params.pooled_pixels; k-- > 0;) {
        for (int64_t c = 0; c < lanes.count; ++c) {
          const int64_t element = lanes.pooled_offset + k * lanes.pixel_stride + c, index = params.indices[element];
          const LaneSet lane = static_cast<LaneSet>(1 << c);
          grad_values[element] = T{0};
          if (index < 0 || index >= params.pixels || (taken[index] & lane) != 0) continue;
          taken[index] |= lane;
          grad_values[element] = grad_map[index * lanes.pixel_stride + c];
        }
      }
    }
  });
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
