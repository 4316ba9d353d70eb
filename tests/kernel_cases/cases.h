// The cases of each op, which compare every element and every byte that a backend's kernels write with the host model.
#pragma once

#include "tester.h"

namespace kernel_cases {

void test_max_pool2d(Tester* tester);
void test_scatter_and_gather(Tester* tester);
void test_indices(Tester* tester);
void test_upsampling(Tester* tester);
void test_upsampling_gradients(Tester* tester);
void test_cross_entropy(Tester* tester);
void test_unpool_conv2d(Tester* tester);

inline void test_all(Tester* tester) {
  test_max_pool2d(tester);
  test_scatter_and_gather(tester);
  test_indices(tester);
  test_upsampling(tester);
  test_upsampling_gradients(tester);
  test_cross_entropy(tester);
  test_unpool_conv2d(tester);
}

}  // namespace kernel_cases
