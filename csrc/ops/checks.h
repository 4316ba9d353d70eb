// Argument checks of ops, which raise RuntimeErrors that name the op and show the offending value.
#pragma once

#include <sstream>
#include <stdexcept>

#include "tensors.h"

namespace segext::ops {

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

void check_device(const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other);

// Same dtype and device.
void check_like(const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other);

// Same shape, dtype and device.
void check_same(const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other);

}  // namespace segext::ops

// A RuntimeError of the other arguments unless the condition holds. Torch's own macro opens each message with a place
// in this source, which is not where its reader went wrong.
#define SEGEXT_CHECK(condition, ...)    \
  do {                                  \
    if (!(condition)) [[unlikely]]      \
      ::segext::ops::fail(__VA_ARGS__); \
  } while (false)
