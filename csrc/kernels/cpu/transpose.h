// Transposition of matrices in memory, one square of vectors at a time.
#pragma once

#include "rows.h"
#include "simd.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// Transposes the square whose row k is rows[k]. Each round interleaves the elements of the first half of the rows with
// those of the second half, like the two halves of a pack of cards. After as many rounds as a row number has bits, rows
// and columns are exchanged.
template <class V, int... K>
SEGEXT_INLINE void transpose_square(V* rows, std::integer_sequence<int, K...>) {
  constexpr int n = sizeof...(K);
  V next[n];
#pragma GCC unroll 6
  for (int round = 1; round < n; round *= 2) {
#pragma GCC unroll 16
    for (int k = 0; k < n / 2; ++k) {
      next[2 * k] = __builtin_shufflevector(rows[k], rows[k + n / 2], (K / 2 + K % 2 * n)...);
      next[2 * k + 1] = __builtin_shufflevector(rows[k], rows[k + n / 2], (n / 2 + K / 2 + K % 2 * n)...);
    }
#pragma GCC unroll 16
    for (int k = 0; k < n; ++k) rows[k] = next[k];
  }
}

// out[c * out_pitch + r] = in[r * in_pitch + c], in squares of kSide; the last ones overlap those before.
template <int kSide, class T>
SEGEXT_INLINE void transpose(const T* in, int64_t in_pitch, int64_t rows, int64_t columns, T* out, int64_t out_pitch) {
  using Square = Vec<T, kSide>;
  if (rows < kSide || columns < kSide) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) out[c * out_pitch + r] = in[r * in_pitch + c];
    }
    return;
  }
  for (int64_t row = 0; row < rows; row += kSide) {
    const int64_t r = smaller(row, rows - kSide);
    for (int64_t column = 0; column < columns; column += kSide) {
      const int64_t c = smaller(column, columns - kSide);
      Square square[kSide];
#pragma GCC unroll 16
      for (int k = 0; k < kSide; ++k) std::memcpy(&square[k], in + (r + k) * in_pitch + c, sizeof(Square));
      transpose_square(square, std::make_integer_sequence<int, kSide>{});
#pragma GCC unroll 16
      for (int k = 0; k < kSide; ++k) std::memcpy(out + (c + k) * out_pitch + r, &square[k], sizeof(Square));
    }
  }
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
