// What every case needs: arrays of exactly their size, numbers to fill them with, and comparisons that end the program
// at the first mismatch.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "backend.h"
#include "host_model.h"
#include "shapes.h"

namespace kernel_cases {

using namespace segext;  // NOLINT: of the kernels that these are cases of
using namespace shapes;  // NOLINT: likewise

inline constexpr ElementType kAllTypes[] = {ElementType::kFloat32,  ElementType::kFloat64, ElementType::kFloat16,
                                            ElementType::kBFloat16, ElementType::kInt8,    ElementType::kUInt8,
                                            ElementType::kInt16,    ElementType::kInt32,   ElementType::kInt64};
inline constexpr ElementType kFloatTypes[] = {ElementType::kFloat32, ElementType::kFloat64, ElementType::kFloat16,
                                              ElementType::kBFloat16};
inline constexpr ElementType kVectorTypes[] = {ElementType::kFloat32, ElementType::kFloat16, ElementType::kBFloat16};

// What arrays are filled with: numbers so large, or NaN, that no tolerance takes one for a result, nor a sum with one.
inline constexpr int kUnwritten = 0xfe;

// A heap block of exactly this size, aligned as tensors are or, if `shifted`, only for an element.
class Array {
 public:
  Array(int64_t count, int64_t element_bytes, bool shifted)
      : bytes_(count * element_bytes), shift_(shifted ? element_bytes : 0) {
    if (posix_memalign(&block_, 64, bytes_ + shift_) != 0) std::abort();
    std::memset(data(), kUnwritten, bytes_);
  }
  ~Array() { std::free(block_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  void* data() const { return static_cast<char*>(block_) + shift_; }
  uint8_t* bytes() const { return static_cast<uint8_t*>(data()); }
  int64_t* int64s() const { return static_cast<int64_t*>(data()); }
  std::vector<uint8_t> copy() const { return std::vector<uint8_t>(bytes(), bytes() + bytes_); }
  int64_t size() const { return bytes_; }

 private:
  int64_t bytes_, shift_;
  void* block_ = nullptr;
};

// Which arrays of a case are aligned only for an element: bit k says it of the k-th one.
struct Shifted {
  uint32_t arrays = 0;
  bool operator[](int k) const { return (arrays >> k & 1) != 0; }
  std::string text() const { return arrays == 0 ? "" : ", shifted " + std::to_string(arrays); }
};

// Prints a message about an op, what it was given and how it ran, and ends the program.
template <typename... Details>
[[noreturn]] void fail(const char* op, const std::string& what, const char* format, Details... details) {
  std::fprintf(stderr, "%s: ", op);
  std::fprintf(stderr, format, details...);
  std::fprintf(stderr, ": %s%s\n", what.c_str(), backend::manner().c_str());
  std::exit(1);
}

// How far a sum that is rounded to this type may be off, as a part of 1 + its magnitude.
inline double tolerance_of(ElementType type) {
  return type == ElementType::kFloat64    ? 1e-12
         : type == ElementType::kFloat16  ? 1e-3
         : type == ElementType::kBFloat16 ? 8e-3
                                          : 1e-5;
}

class Tester {
 public:
  Tester(int64_t share, int64_t part) : share_(share), part_(part) {}

  int64_t cases() const { return cases_; }

  // Whether this run executes the next case.
  bool takes_next() {
    const bool takes = counter_++ % share_ == part_;
    cases_ += takes;
    return takes;
  }

  // Fills an input with few different numbers, so that ties are common. With `special`, floating-point types also get
  // NaN, infinities and -0.
  void fill(Array* array, ElementType type, bool special) {
    const int64_t count = array->size() / element_size(type);
    for (int64_t k = 0; k < count; ++k) {
      double value = static_cast<double>(random_() % 9) - 4;
      if (type == ElementType::kUInt8) value += 4;
      if (host_model::is_integer(type)) {
        if (random_() % 16 == 0) value = host_model::lowest(type);
      } else {
        value *= 0.375;
        if (special) {
          switch (random_() % 8) {
            case 0:
              value = std::numeric_limits<double>::quiet_NaN();
              break;
            case 1:
              value = -std::numeric_limits<double>::infinity();
              break;
            case 2:
              value = -0.0;
              break;
            case 3:
              value = std::numeric_limits<double>::infinity();
              break;
          }
        }
      }
      host_model::store(array->data(), type, k, value);
    }
  }

  void fill_lowest(Array* array, ElementType type) {
    for (int64_t k = 0; k < array->size() / element_size(type); ++k) {
      host_model::store(array->data(), type, k, host_model::lowest(type));
    }
  }

  void fill_random_bytes(Array* array) {
    for (int64_t k = 0; k < array->size(); ++k) array->bytes()[k] = static_cast<uint8_t>(random_());
  }

  uint32_t random() { return static_cast<uint32_t>(random_()); }

  // Of a case with so many arrays, if any are to be shifted: by turns all of them, and each one alone, because a kernel
  // that needs more than an element's alignment of several arrays must not run if one of them lacks it.
  Shifted next_shifted(bool any, uint32_t arrays) {
    if (!any) return {};
    const uint32_t turn = turns_++ % (arrays + 1);
    return {turn == 0 ? (1u << arrays) - 1 : 1u << (turn - 1)};
  }

 private:
  int64_t share_, part_, counter_ = 0, cases_ = 0;
  uint32_t turns_ = 0;
  std::mt19937 random_{12345};
};

inline void expect_equal(const Array& got, const Array& expected, ElementType type, const char* op,
                         const std::string& what) {
  for (int64_t k = 0; k < got.size() / element_size(type); ++k) {
    const double a = host_model::load(got.data(), type, k), b = host_model::load(expected.data(), type, k);
    if ((a == b && std::signbit(a) == std::signbit(b)) || (std::isnan(a) && std::isnan(b))) continue;
    fail(op, what, "element %ld is %g instead of %g", k, a, b);
  }
}

inline void expect_equal(const std::vector<uint8_t>& got, const std::vector<uint8_t>& expected, const char* op,
                         const std::string& what) {
  for (size_t k = 0; k < expected.size(); ++k) {
    if (got[k] == expected[k]) continue;
    fail(op, what, "byte %zu is %02x instead of %02x", k, got[k], expected[k]);
  }
}

// Each number may be off by `tolerance` times (1 + its magnitude). NaN and infinities must match exactly.
inline void expect_close(const Array& got, const std::vector<double>& expected, ElementType type, double tolerance,
                         const char* op, const std::string& what) {
  for (int64_t k = 0; k < static_cast<int64_t>(expected.size()); ++k) {
    const double a = host_model::load(got.data(), type, k), b = expected[k];
    if (a == b || (std::isnan(a) && std::isnan(b))) continue;
    if (std::isfinite(b) && std::abs(a - b) <= tolerance * (1 + std::abs(b))) continue;
    fail(op, what, "element %ld is %g instead of %g", k, a, b);
  }
}

}  // namespace kernel_cases
