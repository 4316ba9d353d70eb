// The cases of ops that only the CPU has.
#pragma once

#include "tester.h"

namespace kernel_cases {

void test_dense_conv_transpose2d(Tester* tester);
void test_unpool_conv2d_backward(Tester* tester);

}  // namespace kernel_cases
