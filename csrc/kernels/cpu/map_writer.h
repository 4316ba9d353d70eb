// The destination of a map's rows, which are written front to back, with plain stores or with stores that bypass the
// caches.
#pragma once

#include "buffer.h"
#include "simd.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// Writes a run of elements in order. With `stream`, elements are staged in a buffer that stays in cache, and leave it
// in whole aligned vectors: ordinary stores between streaming stores would cost more than streaming saves.
template <class T>
class MapWriter {
 public:
  // `longest`: the most elements that are written between two commits.
  MapWriter(T* map, int64_t longest, bool stream) : map_(map), stream_(stream) {
    if (!stream_) return;
    staged_ = buffer_.reserve(kFull + longest);
    lead_ = fill_ = reinterpret_cast<uintptr_t>(map_) % kLine / sizeof(T);
  }
  MapWriter(const MapWriter&) = delete;
  MapWriter& operator=(const MapWriter&) = delete;
  ~MapWriter() {
    if (!stream_) return;
    std::memcpy(map_, staged_ + lead_, (fill_ - lead_) * sizeof(T));
    stream_fence();
  }

  // Where to write the next elements, before committing them.
  SEGEXT_INLINE T* next() { return stream_ ? staged_ + fill_ : map_; }

  SEGEXT_INLINE void commit(int64_t count) {
    if (!stream_) {
      map_ += count;
      return;
    }
    fill_ += count;
    if (fill_ >= kFull) flush();
  }

 private:
  static constexpr int64_t kLine = 64;
  static constexpr int64_t kPerLine = kLine / static_cast<int64_t>(sizeof(T));
  static constexpr int64_t kFull = 1024 / static_cast<int64_t>(sizeof(T));

  // Writes the whole cache lines of what is staged: elements [lead_, fill_), each at the offset in its cache line that
  // it has in the map.
  void flush() {
    T* from = staged_;
    if (lead_ > 0) {
      std::memcpy(map_, from + lead_, (kPerLine - lead_) * sizeof(T));
      map_ += kPerLine - lead_;
      from += kPerLine;
      lead_ = 0;
    }
    const int64_t whole = (staged_ + fill_ - from) / kPerLine * kPerLine;
    for (int64_t k = 0; k < whole; k += kLanes<T>) store_stream(map_ + k, load(from + k));
    map_ += whole;
    fill_ = staged_ + fill_ - (from + whole);
    std::memcpy(staged_, from + whole, fill_ * sizeof(T));
  }

  T* map_;
  const bool stream_;
  T* staged_ = nullptr;
  int64_t lead_ = 0, fill_ = 0;
  Buffer<T> buffer_;
};

}  // namespace segext::SEGEXT_CPU_CAPABILITY
