// Scratch memory, aligned to cache lines, which a thread reuses for all its units of work.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#include "simd.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  // Room for `count` elements; vector accesses may run kSlackBytes past them. Contents do not survive growth.
  T* reserve(int64_t count) {
    if (count > capacity_) {
      std::free(data_);
      const std::size_t bytes = count * sizeof(T) + kSlackBytes;
      data_ = static_cast<T*>(std::aligned_alloc(kLineBytes, (bytes + kLineBytes - 1) / kLineBytes * kLineBytes));
      capacity_ = data_ ? count : 0;
      if (!data_) throw std::bad_alloc();
    }
    return data_;
  }

  T* data() { return data_; }

 private:
  static constexpr std::size_t kSlackBytes = 128, kLineBytes = 64;
  T* data_ = nullptr;
  int64_t capacity_ = 0;
};

}  // namespace segext::SEGEXT_CPU_CAPABILITY
