// Scratch memory, aligned to cache lines, which a thread reuses for all its units of work.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#include "simd.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// The product of numbers of elements; throws where it is negative or beyond any memory, so that sums of a few overflow
// neither in elements nor in bytes.
template <class... Counts>
int64_t element_count(Counts... counts) {
  int64_t product = 1;
  const bool fits = (!__builtin_mul_overflow(product, counts, &product) && ...);
  if (!fits || product < 0 || product > int64_t{1} << 50) throw std::bad_array_new_length();
  return product;
}

template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  // Room for `count` elements; vector accesses may run kSlackBytes past them. Contents do not survive growth.
  T* reserve(int64_t count) {
    if (count < 0 || count > capacity_) grow(count);
    return data_;
  }

  T* data() { return data_; }

 private:
  void grow(int64_t count) {
    std::free(data_);
    data_ = nullptr;
    capacity_ = 0;
    const std::size_t bytes = element_count(count) * sizeof(T) + kSlackBytes;
    data_ = static_cast<T*>(std::aligned_alloc(kLineBytes, (bytes + kLineBytes - 1) / kLineBytes * kLineBytes));
    if (data_ == nullptr) throw std::bad_alloc();
    capacity_ = count;
  }

  static constexpr std::size_t kSlackBytes = 128, kLineBytes = 64;
  T* data_ = nullptr;
  int64_t capacity_ = 0;
};

}  // namespace segext::SEGEXT_CPU_CAPABILITY
