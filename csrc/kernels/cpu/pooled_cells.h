// The pooled map, cell by cell: what each 2x2 window contributes to the unpooled map, in the order in which the kernel
// reads it.
#pragma once

#include "../unpool_conv2d.h"
#include "codes.h"
#include "sums.h"
#include "transpose.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// Row and column, within a 2x2 window, of the pixel that a code names.
SEGEXT_INLINE int64_t code_row(int64_t code) { return code >> 1; }
SEGEXT_INLINE int64_t code_column(int64_t code) { return code & 1; }

// Whether some windows reach past the edge of the unpooled map, so that their codes may name pixels that do not exist.
SEGEXT_INLINE bool cuts_windows(const PoolGeometry& g) {
  return g.height < 2 * g.pooled_height || g.width < 2 * g.pooled_width;
}

// Consecutive rows of cells of one sample, cell by cell: the values of all channels of a cell are contiguous, and so
// are their codes.
template <class E>
class PooledCells {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;

 public:
  PooledCells(const PoolGeometry& g, const void* input, const uint8_t* codes)
      : g_(g), input_(static_cast<const Raw*>(input)), codes_(codes) {}

  void load(int64_t sample, int64_t row, int64_t rows) {
    const int64_t cells = rows * g_.pooled_width, first = row * g_.pooled_width;
    const Raw* input = input_ + sample * pooled_elements(g_);
    const uint8_t* codes = codes_ + sample * g_.sample_bytes;
    if (g_.channels_last) {
      codes_at_ = unpack_codes(g_, codes, first * g_.channels, cells * g_.channels, code_buffer_);
      values_at_ = values_of(input + first * g_.channels, cells * g_.channels);
    } else {
      load_planes(input + first, codes, first, cells);
    }
    if (cuts_windows(g_)) drop_outside(row, cells);
  }

  // The values and codes of cell `cell` of the loaded rows. Vectors of codes may be read that reach past the last code.
  SEGEXT_INLINE const Sum* values(int64_t cell) const { return values_at_ + cell * g_.channels; }
  SEGEXT_INLINE const uint8_t* codes(int64_t cell) const { return codes_at_ + cell * g_.channels; }

 private:
  static constexpr int64_t kPlanes = 16;

  const Sum* values_of(const Raw* input, int64_t count) {
    if constexpr (std::is_same_v<Raw, Sum>) {
      if (!cuts_windows(g_)) return input;
    }
    Sum* values = value_buffer_.reserve(count);
    widen_run<E>(input, count, values);
    return values;
  }

  void load_planes(const Raw* input, const uint8_t* codes, int64_t first, int64_t cells) {
    const int64_t channels = g_.channels, plane = g_.pooled_height * g_.pooled_width;
    Sum* values = value_buffer_.reserve(cells * channels);
    uint8_t* cell_codes = code_buffer_.reserve(cells * channels + kCodeSlack);
    Sum* wide = plane_values_.reserve(kPlanes * cells);
    uint8_t* plane_codes = plane_codes_.reserve(kPlanes * cells);
    for (int64_t c = 0; c < channels; c += kPlanes) {
      const int64_t planes = smaller(channels - c, kPlanes);
      for (int64_t k = 0; k < planes; ++k) {
        const int64_t at = (c + k) * plane;
        widen_run<E>(input + at, cells, wide + k * cells);
        std::memcpy(plane_codes + k * cells, unpack_codes(g_, codes, at + first, cells, run_), cells);
      }
      transpose<kLanes<Sum>>(wide, cells, planes, cells, values + c, channels);
      transpose<16>(plane_codes, cells, planes, cells, cell_codes + c, channels);
    }
    values_at_ = values;
    codes_at_ = cell_codes;
  }

  // Zeroes the values whose codes name no pixel of the map.
  void drop_outside(int64_t row, int64_t cells) {
    Sum* values = value_buffer_.data();
    for (int64_t cell = 0; cell < cells; ++cell) {
      const int64_t rows_left = g_.height - 2 * (row + cell / g_.pooled_width);
      const int64_t columns_left = g_.width - 2 * (cell % g_.pooled_width);
      if (rows_left >= 2 && columns_left >= 2) continue;
      for (int64_t k = cell * g_.channels; k < (cell + 1) * g_.channels; ++k) {
        if (code_row(codes_at_[k]) >= rows_left || code_column(codes_at_[k]) >= columns_left) values[k] = 0;
      }
    }
  }

  const PoolGeometry& g_;
  const Raw* input_;
  const uint8_t* codes_;
  const Sum* values_at_ = nullptr;
  const uint8_t* codes_at_ = nullptr;
  Buffer<Sum> value_buffer_, plane_values_;
  Buffer<uint8_t> code_buffer_, plane_codes_, run_;
};

}  // namespace segext::SEGEXT_CPU_CAPABILITY
