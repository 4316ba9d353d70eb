// Converts runs of codes between the packed form and one byte per code, which the vector kernels use.
#pragma once

#include "buffer.h"
#include "rows.h"
#include "simd.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// Slack past the end of a block of codes, so that a whole vector of codes can be accessed there.
inline constexpr int64_t kCodeSlack = 64;

// The widest codes that the vector kernels accept: those that fit in a byte.
inline constexpr int kMaxByteBits = 8;

// Converts eight groups of eight codes between the packed form, `Bits` bytes per group, and one byte per code.
template <int Bits>
struct PackedGroups {
  static constexpr int64_t kCodes = 64;
  static constexpr int64_t kBytes = 8 * Bits;

#if defined(__AVX512BW__)
  static SEGEXT_INLINE void pack(const uint8_t* codes, uint8_t* packed) {
    const auto words = fold_codes(load(reinterpret_cast<const uint64_t*>(codes)), Bits);
    const __m512i folded = reinterpret_cast<__m512i>(words);
    if constexpr (Bits == 1) {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(packed), _mm512_cvtepi64_epi8(folded));
    } else if constexpr (Bits == 2) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(packed), _mm512_cvtepi64_epi16(folded));
    } else if constexpr (Bits == 4) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(packed), _mm512_cvtepi64_epi32(folded));
    } else {
      _mm512_storeu_si512(packed, folded);
    }
  }

  static SEGEXT_INLINE void unpack(const uint8_t* packed, uint8_t* codes) {
    __m512i groups;
    if constexpr (Bits == 1) {
      groups = _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(packed)));
    } else if constexpr (Bits == 2) {
      groups = _mm512_cvtepu16_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(packed)));
    } else if constexpr (Bits == 4) {
      groups = _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(packed)));
    } else {
      groups = _mm512_loadu_si512(packed);
    }
    store(reinterpret_cast<uint64_t*>(codes), unfold_codes(reinterpret_cast<Vec<uint64_t>>(groups), Bits));
  }
#else
  static SEGEXT_INLINE void pack(const uint8_t* codes, uint8_t* packed) {
    for (int k = 0; k < 8; ++k) {
      uint64_t word;
      std::memcpy(&word, codes + 8 * k, sizeof(word));
      word = fold_codes(word, Bits);
      std::memcpy(packed + Bits * k, &word, Bits);
    }
  }

  static SEGEXT_INLINE void unpack(const uint8_t* packed, uint8_t* codes) {
    for (int k = 0; k < 8; ++k) {
      uint64_t word = 0;
      std::memcpy(&word, packed + Bits * k, Bits);
      word = unfold_codes(word, Bits);
      std::memcpy(codes + 8 * k, &word, sizeof(word));
    }
  }
#endif
};

// Packs `count` codes, starting at a byte boundary of `packed`; a partly filled last byte is padded with zero bits.
template <int Bits>
SEGEXT_INLINE void pack_run(const uint8_t* codes, int64_t count, uint8_t* packed) {
  using Groups = PackedGroups<Bits>;
  int64_t done = 0;
  for (; done + Groups::kCodes <= count; done += Groups::kCodes) Groups::pack(codes + done, packed + done / 8 * Bits);
  for (; done < count; done += 8) {
    const int64_t left = count - done < 8 ? count - done : 8;
    uint64_t eight = 0;
    std::memcpy(&eight, codes + done, left);
    const uint64_t folded = fold_codes(eight, Bits);
    std::memcpy(packed + done / 8 * Bits, &folded, code_bytes(left, Bits));
  }
}

// Unpacks the groups of eight codes that contain elements [first, first + count) of a sample, and returns where in
// `codes` element `first` is. Reads nothing past the sample's `sample_bytes` bytes.
template <int Bits>
SEGEXT_INLINE const uint8_t* unpack_run(const uint8_t* packed, int64_t sample_bytes, int64_t first, int64_t count,
                                        uint8_t* codes) {
  using Groups = PackedGroups<Bits>;
  const int64_t skip = first % 8;
  const int64_t end = skip + count;
  const uint8_t* in = packed + first / 8 * Bits;
  int64_t bytes_left = sample_bytes - first / 8 * Bits;
  int64_t done = 0;
  for (; done < end && bytes_left >= Groups::kBytes; done += Groups::kCodes) {
    Groups::unpack(in, codes + done);
    in += Groups::kBytes;
    bytes_left -= Groups::kBytes;
  }
  for (; done < end; done += 8) {
    uint64_t word = 0;
    std::memcpy(&word, in, bytes_left < Bits ? bytes_left : Bits);
    word = unfold_codes(word, Bits);
    std::memcpy(codes + done, &word, sizeof(word));
    in += Bits;
    bytes_left -= Bits;
  }
  return codes + skip;
}

// Like unpack_run, for a code width known only at run time, and into `buffer`. Requires bits <= kMaxByteBits.
inline const uint8_t* unpack_codes(const PoolGeometry& g, const uint8_t* sample_codes, int64_t first, int64_t count,
                                   Buffer<uint8_t>& buffer) {
  uint8_t* codes = buffer.reserve(count + 2 * PackedGroups<1>::kCodes);
  switch (g.bits) {
    case 1:
      return unpack_run<1>(sample_codes, g.sample_bytes, first, count, codes);
    case 2:
      return unpack_run<2>(sample_codes, g.sample_bytes, first, count, codes);
    case 4:
      return unpack_run<4>(sample_codes, g.sample_bytes, first, count, codes);
    default:
      return unpack_run<8>(sample_codes, g.sample_bytes, first, count, codes);
  }
}

// In place of the code of an element that does not exist. It is the code of a tap only in windows of 256 taps.
inline constexpr uint8_t kNoTap = 0xff;

// Pooled rows of codes, unpacked to one byte per code; codes wider than a byte are read where they are. Each time, the
// next few rows are unpacked too, so that short rows are not unpacked one by one.
class UnpackedRows {
 public:
  // Before and after each row there will be at least `gap` times kNoTap.
  UnpackedRows(const PoolGeometry& g, const uint8_t* codes, int64_t gap = 0)
      : g_(g),
        codes_(codes),
        gap_(gap),
        row_(Rows(g).pooled_row),
        pitch_(g.bits > kMaxByteBits ? code_bytes(row_, g.bits) : row_ + gap),
        rows_per_sample_(Rows(g).planes * g.pooled_height) {}

  // Makes rows [first, last] ready. Rows are numbered over all samples, and these must belong to one sample. Returns
  // true if the rows that were ready before are lost.
  SEGEXT_INLINE bool make_ready(int64_t first, int64_t last) {
    if (first >= begin_ && last < end_) return false;
    unpack(first, last + 1 - first);
    return true;
  }

  // The rows that are ready.
  int64_t begin() const { return begin_; }
  int64_t end() const { return end_; }

  // The codes of a ready row.
  const uint8_t* operator[](int64_t row) const { return unpacked_ + (row - begin_) * pitch_; }

 private:
  static constexpr int64_t kCodes = 2048;

  void unpack(int64_t first, int64_t count) {
    const int64_t sample = first / rows_per_sample_, left = (sample + 1) * rows_per_sample_ - first;
    if (count < kCodes / row_) count = kCodes / row_;
    if (count > left) count = left;
    begin_ = first;
    end_ = first + count;
    const uint8_t* sample_codes = codes_ + sample * g_.sample_bytes;
    const int64_t row = first % rows_per_sample_;
    if (g_.bits > kMaxByteBits) {
      unpacked_ = sample_codes + row * pitch_;
      return;
    }
    unpacked_ = unpack_codes(g_, sample_codes, row * row_, count * row_, buffer_);
    if (gap_ > 0) insert_gaps(count);
  }

  // Moves the unpacked rows apart. Writes whole vectors: what they write past a row or a gap, the next ones overwrite.
  void insert_gaps(int64_t count) {
    const Vec<uint8_t> none = broadcast(kNoTap);
    uint8_t* to = apart_.reserve(gap_ + count * (row_ + gap_));
    const uint8_t* from = unpacked_;
    for (int64_t e = 0; e < gap_; e += kLanes<uint8_t>) store(to + e, none);
    unpacked_ = to += gap_;
    for (int64_t k = 0; k < count; ++k, from += row_, to += row_ + gap_) {
      for (int64_t e = 0; e < row_; e += kLanes<uint8_t>) store(to + e, load(from + e));
      for (int64_t e = 0; e < gap_; e += kLanes<uint8_t>) store(to + row_ + e, none);
    }
  }

  const PoolGeometry& g_;
  const uint8_t* codes_;
  const int64_t gap_, row_, pitch_, rows_per_sample_;
  int64_t begin_ = 0, end_ = 0;
  const uint8_t* unpacked_ = nullptr;
  Buffer<uint8_t> buffer_, apart_;
};

// Collects the codes of consecutive elements, starting at a byte boundary, and writes them packed, a block at a time.
class CodeWriter {
 public:
  CodeWriter(uint8_t* sample_codes, int64_t first, int bits)
      : wide_codes_(sample_codes), next_(first), packed_(sample_codes + code_bytes(first, bits)), bits_(bits) {}
  CodeWriter(const CodeWriter&) = delete;
  CodeWriter& operator=(const CodeWriter&) = delete;
  ~CodeWriter() { pack(fill_); }

  // Where to store the next codes, one byte each. A whole vector may be stored here; commit() says how many of them
  // count.
  SEGEXT_INLINE uint8_t* tail() { return pending_ + fill_; }

  SEGEXT_INLINE void commit(int64_t count) {
    fill_ += count;
    if (fill_ >= kBlock) {
      pack(kBlock);
      fill_ -= kBlock;
      std::memcpy(pending_, pending_ + kBlock, kCodeSlack);
    }
  }

  SEGEXT_INLINE void put(uint32_t code) {
    if (bits_ > kMaxByteBits) {
      store_wide_code(wide_codes_, next_++, bits_, code);
    } else {
      *tail() = static_cast<uint8_t>(code);
      commit(1);
    }
  }

 private:
  static constexpr int64_t kBlock = 512;

  void pack(int64_t count) {
    switch (bits_) {
      case 1:
        pack_run<1>(pending_, count, packed_);
        break;
      case 2:
        pack_run<2>(pending_, count, packed_);
        break;
      case 4:
        pack_run<4>(pending_, count, packed_);
        break;
      case 8:
        pack_run<8>(pending_, count, packed_);
        break;
      default:
        return;  // wider codes were stored one by one
    }
    packed_ += code_bytes(count, bits_);
  }

  uint8_t* wide_codes_;
  int64_t next_;
  uint8_t* packed_;
  int bits_;
  int64_t fill_ = 0;
  alignas(64) uint8_t pending_[kBlock + kCodeSlack];
};

}  // namespace segext::SEGEXT_CPU_CAPABILITY
