// Conversions between stock's int64 indices and packed codes.
//
// Elements are converted in runs that lie in one row of the pooled map, or in one of its pixels, so that where a window
// begins is counted rather than divided out.
#include "../indices.h"

#include "codes.h"
#include "index_units.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

// Consecutive elements of a sample: of one pooled row of a plane (NCHW) or of one pooled pixel (channels_last).
struct Run {
  int64_t begin, end;
  Pixel at;      // the first element's pixel in the pooled map
  int64_t step;  // columns from an element to the next
};

// Calls f(run) for the runs of elements [first, last) of a sample.
template <class F>
void for_each_run(const PoolGeometry& g, int64_t first, int64_t last, F&& f) {
  const int64_t length = g.channels_last ? g.channels : g.pooled_width, number = first / length;
  Pixel at = g.channels_last ? Pixel{number / g.pooled_width, number % g.pooled_width}
                             : Pixel{number % g.pooled_height, first % length};
  int64_t left_over = first % length;
  for (int64_t begin = first; begin < last;) {
    const int64_t end = smaller(begin + length - left_over, last);
    f(Run{begin, end, at, g.channels_last ? 0 : 1});
    begin = end;
    left_over = 0;
    at.column = g.channels_last ? at.column + 1 : g.pooled_width;
    if (at.column < g.pooled_width) continue;
    at.column = 0;
    at.row = at.row + 1 < g.pooled_height ? at.row + 1 : 0;
  }
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

// The code of the tap that lies on flat index `index`, in the window of pooled pixel `at`; -1 if no tap does.
SEGEXT_INLINE int64_t code_of(const PoolGeometry& g, Pixel at, int64_t index) {
  const Window& w = g.window;
  if (index < 0 || index >= g.height * g.width) return -1;
  const int64_t row = index / g.width, column = index - row * g.width;
  const int64_t y = row - (at.row * w.stride_h - w.padding_h), x = column - (at.column * w.stride_w - w.padding_w);
  if (y < 0 || x < 0) return -1;
  const int64_t i = quick_div(y, w.dilation_h), j = quick_div(x, w.dilation_w);
  const bool is_tap = (i < w.kernel_h) & (j < w.kernel_w) & (i * w.dilation_h == y) & (j * w.dilation_w == x);
  return is_tap ? i * w.kernel_w + j : -1;
}

}  // namespace

void indices_from_codes(const IndicesFromCodesParams& params, int64_t begin, int64_t end) {
  const PoolGeometry& g = params.geometry;
  Buffer<uint8_t> buffer;
  for_each_block(g, begin, end, [&](int64_t sample, int64_t first, int64_t last) {
    const uint8_t* codes = params.codes + sample * g.sample_bytes;
    int64_t* indices = params.indices + sample * pooled_elements(g);
    const auto convert = [&](auto&& code_at) SEGEXT_LAMBDA_INLINE {
      for_each_run(g, first, last, [&](const Run& run) SEGEXT_LAMBDA_INLINE {
        Pixel at = run.at, pixel;
        for (int64_t e = run.begin; e < run.end; ++e, at.column += run.step) {
          indices[e] = switch_pixel(g, at, code_at(e), &pixel) ? pixel.row * g.width + pixel.column : -1;
        }
      });
    };
    if (g.bits > kMaxByteBits) {
      convert([&](int64_t e) SEGEXT_LAMBDA_INLINE { return load_code(codes, e, g.bits); });
    } else {
      const uint8_t* unpacked = unpack_codes(g, codes, first, last - first, buffer);
      convert([&](int64_t e) SEGEXT_LAMBDA_INLINE { return unpacked[e - first]; });
    }
  });
}

void codes_from_indices(const CodesFromIndicesParams& params, int64_t begin, int64_t end) {
  const PoolGeometry& g = params.geometry;
  int64_t invalid = 0;
  for_each_block(g, begin, end, [&](int64_t sample, int64_t first, int64_t last) {
    const int64_t* indices = params.indices + sample * pooled_elements(g);
    CodeWriter writer(params.codes + sample * g.sample_bytes, first, g.bits);
    for_each_run(g, first, last, [&](const Run& run) SEGEXT_LAMBDA_INLINE {
      Pixel at = run.at;
      for (int64_t e = run.begin; e < run.end; ++e, at.column += run.step) {
        const int64_t code = code_of(g, at, indices[e]);
        invalid += code < 0;
        writer.put(static_cast<uint32_t>(larger(code, 0)));
      }
    });
  });
  if (invalid > 0) __atomic_fetch_add(params.invalid, invalid, __ATOMIC_RELAXED);
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
