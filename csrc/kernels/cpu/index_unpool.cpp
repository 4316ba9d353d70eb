// Unpooling by stock's int64 indices, and its adjoint.
//
// An index may name any pixel of its plane, so pixels cannot look up their elements as they do with switches: elements
// are taken in order, and each goes to its pixel or fetches from it. All elements of a plane belong to one unit of
// work, so that the last of several that name a pixel wins whatever the number of threads.
//
// The time goes into misses of the caches, and into branches that no processor predicts. Against the first, elements
// are taken a block at a time, and the pixels that no earlier block could name are cleared or prefetched just before.
// A pool's indices ascend with its rows, so these are the next few rows of the map; of any other indices they may be
// the whole plane at once, which is as correct. Against the second, what decides a duplicate is a mask.
#include <type_traits>

#include "../indices.h"
#include "buffer.h"
#include "element.h"
#include "index_units.h"
#include "rows.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

// A plane in NCHW, whose pixels are neighbours.
struct Plane {
  static constexpr int64_t count = 1, pitch = 1;
  int64_t pooled_offset, full_offset;  // of the first element in the pooled and in the full map
};

// Neighbouring channels of a sample in channels_last: pixels of `count` elements, `pitch` elements apart.
struct Lanes {
  int64_t count, pitch;
  int64_t pooled_offset, full_offset;
};

// Calls f with each Plane of units [begin, end); or with all lanes of a sample that are among them, since whole pixels
// take less time than parts of pixels.
template <class F>
void for_each_part(const IndexedMaps& maps, int64_t begin, int64_t end, F&& f) {
  if (!maps.channels_last) {
    for (int64_t unit = begin; unit < end; ++unit) f(Plane{unit * maps.pooled_pixels, unit * maps.pixels});
    return;
  }
  const int64_t groups = index_channel_groups(maps);
  for (int64_t unit = begin; unit < end;) {
    const int64_t sample = unit / groups, group = unit % groups, together = smaller(groups - group, end - unit);
    const int64_t first = group * kIndexChannels, last = smaller(first + together * kIndexChannels, maps.channels);
    const int64_t channels = sample * maps.channels;
    f(Lanes{last - first, maps.channels, channels * maps.pooled_pixels + first, channels * maps.pixels + first});
    unit += together;
  }
}

// The number of pooled pixels in a block: indices that stay in the first-level cache.
template <class Part>
int64_t block_pixels(const Part& part) {
  constexpr int64_t kIndices = 1024;
  return larger(kIndices / part.count, 1);
}

// Calls f(element, channel) for the elements of pixel k of a part.
template <class Part, class F>
SEGEXT_INLINE void for_each_element(const Part& part, int64_t k, F&& f) {
  for (int64_t c = 0; c < part.count; ++c) f(k * part.pitch + c, c);
}

// Calls f(first element, count) for the runs of neighbouring elements that pixels [begin, end) of a part consist of.
template <class Part, class F>
SEGEXT_INLINE void for_each_run(const Part& part, int64_t begin, int64_t end, F&& f) {
  if (part.count == part.pitch) {
    f(begin * part.pitch, (end - begin) * part.pitch);
  } else {
    for (int64_t k = begin; k < end; ++k) f(k * part.pitch, part.count);
  }
}

template <class T, class Part>
void unpool(const IndexUnpoolParams& p, const Part& part) {
  const int64_t* const indices = p.maps.indices + part.pooled_offset;
  const T* const values = static_cast<const T*>(p.values) + part.pooled_offset;
  T* const map = static_cast<T*>(p.map) + part.full_offset;
  const int64_t pixels = p.maps.pixels, pooled_pixels = p.maps.pooled_pixels, step = block_pixels(part);
  int64_t cleared = 0;  // pixels, from the first on
  const auto clear_up_to = [&](int64_t end) {
    if (end <= cleared) return;
    for_each_run(part, cleared, end, [&](int64_t first, int64_t count) SEGEXT_LAMBDA_INLINE {
      std::memset(map + first, 0, count * sizeof(T));
    });
    cleared = end;
  };
  for (int64_t begin = 0; begin < pooled_pixels; begin += step) {
    const int64_t end = smaller(begin + step, pooled_pixels);
    int64_t last = -1;
    for_each_run(part, begin, end, [&](int64_t first, int64_t count) SEGEXT_LAMBDA_INLINE {
      for (int64_t e = first; e < first + count; ++e) last = larger(last, indices[e]);
    });
    clear_up_to(smaller(last, pixels - 1) + 1);
    for (int64_t k = begin; k < end; ++k) {
      for_each_element(part, k, [&](int64_t e, int64_t c) SEGEXT_LAMBDA_INLINE {
        const auto index = static_cast<uint64_t>(indices[e]);  // larger than any, if negative
        if (index < static_cast<uint64_t>(pixels)) map[index * part.pitch + c] = values[e];
      });
    }
  }
  clear_up_to(pixels);
}

// Prefetches a run of elements, last ones first.
template <class T>
void prefetch_backwards(const T* first, int64_t count) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t k = count - 1; k >= 0; k -= kLine) __builtin_prefetch(first + k);
}

// Takes elements from last to first: of several that name a pixel, the first to come gets the gradient. `buffer` is for
// one bit for each element of the part's full map, in a plane one byte: whether its gradient is taken.
template <class T, class Part>
void fetch_gradients(const IndexUnpoolBackwardParams& p, const Part& part, Buffer<uint8_t>& buffer) {
  const int64_t* const indices = p.maps.indices + part.pooled_offset;
  const T* const grad_map = static_cast<const T*>(p.grad_map) + part.full_offset;
  T* const grad_values = static_cast<T*>(p.grad_values) + part.pooled_offset;
  const int64_t pixels = p.maps.pixels, step = block_pixels(part), bytes = ceil_div(part.count, 8);
  // If the map has more cache lines than elements are fetched from it, most lines are not needed.
  const bool prefetches = pixels * static_cast<int64_t>(sizeof(T)) <= 64 * p.maps.pooled_pixels;
  uint8_t* const taken = buffer.reserve(pixels * bytes);
  int64_t cleared = pixels;  // of `taken`, the pixels from here on
  for (int64_t end = p.maps.pooled_pixels; end > 0; end -= step) {
    const int64_t begin = larger(end - step, 0);
    int64_t needed = pixels;
    for_each_run(part, begin, end, [&](int64_t first, int64_t count) SEGEXT_LAMBDA_INLINE {
      for (int64_t e = first; e < first + count; ++e) needed = smaller(needed, indices[e]);
    });
    needed = larger(needed, 0);
    if (needed < cleared) {
      std::memset(taken + needed * bytes, 0, (cleared - needed) * bytes);
      if (prefetches) {
        for_each_run(part, needed, cleared,
                     [&](int64_t first, int64_t count) { prefetch_backwards(grad_map + first, count); });
      }
      cleared = needed;
    }
    for (int64_t k = end; k-- > begin;) {
      for_each_element(part, k, [&](int64_t e, int64_t c) SEGEXT_LAMBDA_INLINE {
        const auto index = static_cast<uint64_t>(indices[e]);  // larger than any, if negative
        if (index >= static_cast<uint64_t>(pixels)) {
          grad_values[e] = 0;
          return;
        }
        uint8_t& bits = taken[index * bytes + c / 8];
        T mask;  // all bits, unless the gradient is taken
        if constexpr (std::is_same_v<Part, Plane>) {
          mask = static_cast<T>(bits - 1);
          bits = 1;  // the same in any case, so that no store waits for a load
        } else {
          mask = static_cast<T>((bits >> c % 8 & 1) - 1);
          bits = static_cast<uint8_t>(bits | 1 << c % 8);
        }
        grad_values[e] = static_cast<T>(grad_map[index * part.pitch + c] & mask);
      });
    }
  }
}

}  // namespace

void index_unpool(const IndexUnpoolParams& params, int64_t begin, int64_t end) {
  with_bits(params.maps.type, [&](auto zero) {
    for_each_part(params.maps, begin, end, [&](const auto& part) { unpool<decltype(zero)>(params, part); });
  });
}

void index_unpool_backward(const IndexUnpoolBackwardParams& params, int64_t begin, int64_t end) {
  Buffer<uint8_t> buffer;
  with_bits(params.maps.type, [&](auto zero) {
    for_each_part(params.maps, begin, end,
                  [&](const auto& part) { fetch_gradients<decltype(zero)>(params, part, buffer); });
  });
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
