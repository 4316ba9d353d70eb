// The switch format (version 1) and the geometry of a pooling window. The only file that knows the bit layout, but for
// its vector forms in cpu/codes.h and cuda/codes.cuh.
//
// A switch says where in its window a maximum was. Its code is i * kernel_w + j of the winning tap (row i, column j,
// counted before dilation). A sample's codes are in the memory order of the pooled map (NCHW or channels_last), packed
// little-endian at `code_bits` bits each: element e of a sample starts at bit e * bits of the sample's row of bytes.
// Eight codes fill exactly `bits` bytes, so every element number divisible by 8 starts on a byte.
//
// Shared by host and device, and by all instruction sets (inline.h).
#pragma once

#include <cstdint>

#include "inline.h"

namespace segext {

// A pooling window in pixels. `stride`, `padding` and `dilation` as in torch.nn.MaxPool2d.
struct Window {
  int64_t kernel_h, kernel_w;
  int64_t stride_h, stride_w;
  int64_t padding_h, padding_w;
  int64_t dilation_h, dilation_w;
};

// What a pool and its switches need to know about the two maps they connect: the full map (the pool's input, the
// unpooled output) and the pooled map. Both are dense, in NCHW order or, with channels_last, in NHWC order.
struct PoolGeometry {
  Window window;
  int64_t samples, channels;
  int64_t height, width;
  int64_t pooled_height, pooled_width;
  bool channels_last;
  int bits;              // of one code
  int64_t sample_bytes;  // of one sample's codes
};

// A place in a pooled or a full map.
struct Pixel {
  int64_t row, column;
};

// The smallest of 1, 2, 4, 8, 16, 32 bits that can distinguish `taps` taps.
SEGEXT_INLINE constexpr int code_bits(int64_t taps) {
  int bits = 1;
  while (bits < 32 && (int64_t{1} << bits) < taps) bits *= 2;
  return bits;
}

// Bytes that hold `elements` codes of `bits` bits. Divides first: elements * bits may not fit in 64 bits.
SEGEXT_INLINE int64_t code_bytes(int64_t elements, int bits) {
  return elements / 8 * bits + (elements % 8 * bits + 7) / 8;
}

SEGEXT_INLINE int64_t pooled_elements(const PoolGeometry& g) { return g.channels * g.pooled_height * g.pooled_width; }

// True where no two windows share a pixel: then every pixel has at most one switch that can name it.
SEGEXT_INLINE bool windows_are_disjoint(const Window& w) {
  return w.stride_h >= (w.kernel_h - 1) * w.dilation_h + 1 && w.stride_w >= (w.kernel_w - 1) * w.dilation_w + 1;
}

// Code of element `element` of a sample whose packed codes start at `codes`.
SEGEXT_INLINE uint32_t load_code(const uint8_t* codes, int64_t element, int bits) {
  if (bits < 8) {
    const int per_byte = 8 / bits;
    const int shift = static_cast<int>(element % per_byte) * bits;
    return (codes[element / per_byte] >> shift) & ((1u << bits) - 1);
  }
  uint32_t code = 0;
  const int bytes = bits / 8;
  for (int k = 0; k < bytes; ++k) code |= static_cast<uint32_t>(codes[element * bytes + k]) << (8 * k);
  return code;
}

// Stores a code of at least 8 bits. Narrower codes share bytes and are written a byte-aligned run at a time (below).
SEGEXT_INLINE void store_wide_code(uint8_t* codes, int64_t element, int bits, uint32_t code) {
  const int bytes = bits / 8;
  for (int k = 0; k < bytes; ++k) codes[element * bytes + k] = static_cast<uint8_t>(code >> (8 * k));
}

// Packs eight codes, one per byte (the first in the lowest byte), into the low 8 * bits bits; bits <= 8. Each of the
// three steps joins neighbouring groups of codes by closing every second gap; unfold_codes does the same steps
// backwards. Word is uint64_t or a SIMD vector of them.
template <class Word>
SEGEXT_INLINE Word fold_codes(Word eight, int bits) {
  if (bits == 8) return eight;
  const int gap = 8 - bits;
  const uint64_t one = (uint64_t{1} << bits) - 1;
  const uint64_t two = (uint64_t{1} << 2 * bits) - 1;
  const uint64_t four = (uint64_t{1} << 4 * bits) - 1;
  eight = eight & one * 0x0101010101010101u;
  eight = (eight | eight >> gap) & two * 0x0001000100010001u;
  eight = (eight | eight >> 2 * gap) & four * 0x0000000100000001u;
  return (eight | eight >> 4 * gap) & ((uint64_t{1} << 8 * bits) - 1);
}

template <class Word>
SEGEXT_INLINE Word unfold_codes(Word packed, int bits) {
  if (bits == 8) return packed;
  const int gap = 8 - bits;
  const uint64_t one = (uint64_t{1} << bits) - 1;
  const uint64_t two = (uint64_t{1} << 2 * bits) - 1;
  const uint64_t four = (uint64_t{1} << 4 * bits) - 1;
  packed = packed & ((uint64_t{1} << 8 * bits) - 1);
  packed = (packed | packed << 4 * gap) & four * 0x0000000100000001u;
  packed = (packed | packed << 2 * gap) & two * 0x0001000100010001u;
  return (packed | packed << gap) & one * 0x0101010101010101u;
}

// The pixel of the full map that `code` names in the window of pooled pixel `at`. False where the code names no tap of
// the window or a pixel outside the map: such a switch places nothing and gathers zero.
SEGEXT_INLINE bool switch_pixel(const PoolGeometry& g, Pixel at, uint32_t code, Pixel* pixel) {
  const int64_t i = static_cast<int64_t>(code) / g.window.kernel_w;
  const int64_t j = static_cast<int64_t>(code) % g.window.kernel_w;
  pixel->row = at.row * g.window.stride_h - g.window.padding_h + i * g.window.dilation_h;
  pixel->column = at.column * g.window.stride_w - g.window.padding_w + j * g.window.dilation_w;
  return i < g.window.kernel_h && pixel->row >= 0 && pixel->row < g.height && pixel->column >= 0 &&
         pixel->column < g.width;
}

}  // namespace segext
