// The pools that cases use: windows that have their own kernels, and any others.
#pragma once

#include <vector>

#include "shapes.h"

namespace kernel_cases {

using namespace shapes;  // NOLINT: likewise of cases

// Sizes around every vector, warp and block boundary, for the windows that have their own kernels.
inline std::vector<Shape> shapes_of_tiles() {
  std::vector<Shape> shapes;
  for (const int64_t width : {2, 3, 4, 6, 7, 8, 9, 14, 15, 16, 17, 24, 31, 32, 33, 48, 60, 64}) {
    for (const int64_t height : {2, 3, 6, 7}) shapes.push_back({2, 3, height, width, square(2, 2)});
  }
  for (const int64_t channels : {1, 3, 4, 7, 8, 9, 12, 16, 21, 24, 32}) {
    shapes.push_back({2, channels, 4, 4, square(2, 2)});
    shapes.push_back({3, channels, 5, 7, square(2, 2)});
    shapes.push_back({2, channels, 5, 7, square(2, 2), true});
  }
  shapes.push_back({1, 1, 2, 2, square(2, 2)});
  shapes.push_back({1, 5, 1, 2, square(2, 2), true});
  shapes.push_back({2, 3, 5, 16, square(2, 2), true});  // whole vectors, but the last tiles overhang the map
  shapes.push_back({2, 8, 4, 7, square(2, 2), true});   // the last tiles overhang along one axis
  shapes.push_back({2, 8, 7, 4, square(2, 2), true});
  shapes.push_back({5, 1, 14, 14, square(2, 2)});
  shapes.push_back({2, 4, 45, 60, square(2, 2)});
  shapes.push_back({1, 2, 113, 113, square(2, 2)});
  shapes.push_back({1, 8, 33, 35, square(2, 2), true});
  return shapes;
}

// The same for 3x3 windows with stride 2.
inline std::vector<Shape> shapes_of_3x3_overlaps() {
  std::vector<Shape> shapes;
  for (const int64_t width : {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 30, 32, 48}) {
    for (const int64_t height : {1, 2, 5, 8}) {
      shapes.push_back({2, 3, height, width, square(3, 2, 1)});
      shapes.push_back({3, 1, height, width, {3, 3, 2, 2, height % 2, 1 - height % 2, 1, 1}, width % 2 == 0});
    }
  }
  for (const int64_t channels : {4, 8, 12, 16, 24}) {
    shapes.push_back({2, channels, 4, 6, square(3, 2, 1)});
    shapes.push_back({2, channels, 5, 7, square(3, 2), true});
    shapes.push_back({1, channels, 8, 8, square(3, 2), true});
    shapes.push_back({1, channels, 6, 8, {3, 3, 2, 2, channels / 4 % 2, 1 - channels / 4 % 2, 1, 1}});
  }
  shapes.push_back({1, 2, 57, 64, square(3, 2, 1)});
  return shapes;
}

inline std::vector<Shape> shapes_of_any_windows() {
  std::vector<Shape> shapes;
  const Window windows[] = {
      square(1, 1),
      square(1, 2),
      square(2, 1),
      square(2, 3),
      square(2, 2, 1),
      square(2, 2, 1, 2),
      square(2, 2, 0, 3),
      square(2, 1, 1, 3),
      square(3, 1, 1),
      square(3, 2),
      square(3, 2, 1),
      square(3, 3),
      square(3, 3, 1),
      square(3, 2, 1, 2),
      square(3, 5, 1),
      square(4, 4, 2),
      square(5, 2, 2),
      square(2, 9),
      square(2, 2000000000),
      square(2, 3000000000),
      {1, 2, 1, 2, 0, 0, 1, 1},
      {2, 1, 2, 1, 0, 0, 1, 1},
      {2, 1, 1, 1, 1, 0, 1, 1},
      {1, 3, 1, 3, 0, 1, 1, 1},
      {3, 2, 2, 3, 1, 1, 1, 2},
      {2, 3, 3, 1, 1, 1, 2, 1},
      {2, 4, 2, 4, 1, 2, 1, 1},
      {2, 2, 2, 2, 1, 0, 1, 1},
      {2, 2, 3, 3, 0, 0, 2, 1},  // dilated, but disjoint
      {2, 2, 3, 3, 0, 0, 1, 2},
  };
  for (const Window& window : windows) {
    for (const bool ceil_mode : {false, true}) {
      shapes.push_back({2, 3, 9, 11, window, ceil_mode});
      shapes.push_back({2, 8, 8, 6, window, ceil_mode});
      shapes.push_back({1, 16, 5, 5, window, ceil_mode});
    }
  }
  shapes.push_back({1, 2, 18, 17, {17, 16, 3, 2, 8, 3, 1, 1}});  // 16-bit codes
  shapes.push_back({1, 8, 17, 20, {17, 16, 3, 2, 8, 3, 1, 1}});
  shapes.push_back({1, 1, 260, 258, {257, 257, 2, 1, 0, 0, 1, 1}});  // 32-bit codes
  shapes.push_back({1, 8, 1, 1, square(2, 2, 1, 4)});                // windows wholly in the padding
  shapes.push_back({2, 3, 1, 2, square(2, 1, 2, 4)});
  shapes.push_back({1, 8, 1, 5, {2, 3, 2, 1, 2, 1, 4, 1}});  // likewise, along one axis
  shapes.push_back({1, 8, 5, 1, {3, 2, 1, 2, 1, 2, 1, 4}});
  shapes.push_back({1, 3, 9, 11, {2, 3, 3000000000, 1, 0, 1, 1, 1}});    // overlaps that need 64-bit numbers
  shapes.push_back({1, 8, 3, 5, square(2, 1 << 29, 0, 1 << 28), true});  // from tap to tap beyond int32_t, times 8
  shapes.push_back({0, 8, 8, 8, square(2, 2)});
  return shapes;
}

}  // namespace kernel_cases
