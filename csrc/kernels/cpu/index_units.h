// Divides conversions of indices, and unpooling by them, into units of work.
#pragma once

#include "../indices.h"
#include "rows.h"

namespace segext {

// A unit of a conversion is this many elements of one sample: a multiple of 8, so that no two units share a byte.
inline constexpr int64_t kIndexBlock = 4096;

SEGEXT_INLINE int64_t index_blocks(const PoolGeometry& g) { return ceil_div(pooled_elements(g), kIndexBlock); }

// A unit of unpooling is one channel in NCHW; in channels_last, up to this many neighbouring channels, a cache line of
// float32, so that units share few cache lines.
inline constexpr int64_t kIndexChannels = 16;

SEGEXT_INLINE int64_t index_channel_groups(const IndexedMaps& maps) {
  return maps.channels_last ? ceil_div(maps.channels, kIndexChannels) : maps.channels;
}

}  // namespace segext
