// Argument checks of ops. They raise RuntimeErrors that name the op and show the offending value.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "tensors.h"

namespace segext::ops {

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// What torch says about its call that has just failed; empty under torch before 2.13, which does not tell.
std::string torch_error();

void check_device(const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other);

// Checks that dtype and device are the same.
void check_like(const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other);

// Checks that shape, dtype and device are the same.
void check_same(const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other);

}  // namespace segext::ops

// Throws a RuntimeError whose message is the other arguments, unless the condition holds. Torch's own macro begins each
// message with a location in this source, which does not help its reader.
#define SEGEXT_CHECK(condition, ...)    \
  do {                                  \
    if (!(condition)) [[unlikely]]      \
      ::segext::ops::fail(__VA_ARGS__); \
  } while (false)
