// Converts codes from one memory order to the other: transposes a matrix whose elements have a few bits each.
#include "../repack_codes.h"

#include "code_strips.h"
#include "codes.h"
#include "transpose.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

class Repacker {
 public:
  explicit Repacker(const RepackCodesParams& params) : p_(params), g_(params.geometry), strips_(g_) {}

  void run(int64_t unit) {
    const int64_t first = unit % strips_.count * strips_.rows, rows = smaller(strips_.rows, strips_.targets - first);
    const int64_t sample = unit / strips_.count * g_.sample_bytes;
    if (g_.bits > kMaxByteBits) {
      repack_wide(p_.codes + sample, first, rows, p_.repacked + sample);
    } else {
      repack(p_.codes + sample, first, rows, p_.repacked + sample);
    }
  }

 private:
  static constexpr int64_t kSide = 16, kTile = 4 * kSide;  // source rows transposed together

  // Writes rows [first, first + rows) of the target: columns of the source. Codes are unpacked to bytes in between.
  void repack(const uint8_t* codes, int64_t first, int64_t rows, uint8_t* repacked) {
    const int64_t sources = strips_.sources;
    uint8_t* transposed = transposed_.reserve(rows * sources);
    uint8_t* tile = tile_.reserve(kTile * rows);
    for (int64_t s = 0; s < sources; s += kTile) {
      const int64_t count = smaller(kTile, sources - s);
      for (int64_t k = 0; k < count; ++k) {
        const int64_t element = (s + k) * strips_.targets + first;
        std::memcpy(tile + k * rows, unpack_codes(g_, codes, element, rows, run_), rows);
      }
      transpose<kSide>(tile, rows, count, rows, transposed + s, sources);
    }
    CodeWriter writer(repacked, first * sources, g_.bits);
    for (int64_t k = 0; k < rows * sources; k += kCodeSlack) {
      const int64_t count = smaller(kCodeSlack, rows * sources - k);
      std::memcpy(writer.tail(), transposed + k, count);
      writer.commit(count);
    }
  }

  void repack_wide(const uint8_t* codes, int64_t first, int64_t rows, uint8_t* repacked) const {
    for (int64_t t = first; t < first + rows; ++t) {
      for (int64_t s = 0; s < strips_.sources; ++s) {
        store_wide_code(repacked, t * strips_.sources + s, g_.bits, load_code(codes, s * strips_.targets + t, g_.bits));
      }
    }
  }

  const RepackCodesParams& p_;
  const PoolGeometry& g_;
  const CodeStrips strips_;
  Buffer<uint8_t> tile_, transposed_, run_;
};

}  // namespace

void repack_codes(const RepackCodesParams& params, int64_t begin, int64_t end) {
  Repacker repacker(params);
  for (int64_t unit = begin; unit < end; ++unit) repacker.run(unit);
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
