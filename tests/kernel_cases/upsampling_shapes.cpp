// The upsamplings that cases use.
#include <iterator>

#include "upsampling_cases.h"

namespace kernel_cases {

// Kernels that span one or two strides, with sizes around lanes, phases and the cells of a thread; then all others.
std::vector<Upsample> upsamplings() {
  std::vector<Upsample> all;
  for (const int64_t width : {1, 2, 3, 4, 6, 9, 17}) {
    for (const int64_t height : {1, 4, 5, 9})
      all.push_back({2, 3, 1, height, width, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {2 * height, 2 * width}});
  }
  const Upsample more[] = {
      {1, 21, 1, 3, 5, {16, 16}, {8, 8}, {4, 4}},
      {1, 5, 1, 4, 4, {16, 16}, {8, 8}, {9, 9}, {1, 1}, {20, 20}},
      {1, 2, 1, 2, 1, {64, 64}, {32, 32}, {16, 16}},
      {2, 3, 1, 5, 4, {5, 5}, {3, 3}, {2, 2}},
      {1, 4, 1, 6, 3, {2, 2}, {2, 2}},
      {1, 3, 2, 3, 4, {3, 3}, {2, 2}, {1, 1}},
      {2, 2, 3, 4, 5, {4, 4}, {2, 2}, {1, 1}},
      {1, 3, 1, 9, 5, {3, 4}, {2, 2}},
      {1, 3, 1, 5, 5, {2, 2}, {1, 1}},
      {1, 3, 1, 4, 3, {1, 1}, {3, 3}},
      {2, 3, 1, 3, 4, {2, 3}, {5, 1}, {1, 0}},
      {1, 2, 2, 3, 3, {2, 2}, {3, 4}, {0, 0}, {4, 3}},
      {1, 3, 1, 3, 3, {4, 4}, {2, 2}, {0, 0}, {1, 1}, {13, 11}},      // a larger output than the taps reach
      {1, 3, 1, 3, 3, {4, 4}, {2, 2}, {40, 1}, {1, 1}, {3, 8}},       // nothing but the bias
      {1, 8, 1, 3, 3, {2, 2}, {1, 1}, {0, 1 << 29}, {1, 1}, {4, 4}},  // likewise, and a column beyond int32_t
      {1, 8, 1, 3, 3, {4, 4}, {2, 2}, {0, 1 << 29}, {1, 1}, {4, 4}},
      {1, 70, 1, 2, 2, {64, 64}, {32, 32}, {30, 30}, {1, 1}, {4, 6}},  // blocks stage the weights of a part of a period
      {1, 21, 1, 3, 4, {64, 64}, {32, 32}, {16, 16}},
      {1, 200, 1, 1, 2, {64, 64}, {32, 32}, {30, 30}, {1, 1}, {3, 5}},  // parts of a period that are parts of a pixel
      {1, 300, 1, 3, 3, {6, 5}, {3, 3}, {1, 1}},
      {1, 256, 1, 2, 2, {4, 4}, {2, 2}, {2, 1}, {1, 1}, {2, 3}},
      {1, 2, 1, 1, 2, {4, 4}, {300, 2}},
      {1, 64, 1, 8, 1, {4, 4}, {2, 1 << 28}, {0, 0}, {1, 1}, {18, 4}},  // a period of weights beyond int32_t
      {0, 3, 1, 3, 3, {4, 4}, {2, 2}},
      // Wide enough for blocks to stage their weights; lanes take four elements, two or one.
      {1, 2, 1, 20, 70, {4, 4}, {2, 2}, {1, 1}},
      {2, 1, 1, 9, 40, {16, 16}, {8, 8}, {4, 4}},
      {1, 1, 1, 3, 17, {64, 64}, {32, 32}, {16, 16}},
      {1, 21, 1, 9, 8, {4, 4}, {2, 2}, {1, 1}},
      {1, 3, 1, 10, 66, {4, 4}, {2, 2}, {0, 0}, {1, 1}, {22, 130}},
      {1, 1, 2, 9, 65, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {18, 129}},
      {1, 2, 2, 9, 60, {5, 6}, {3, 3}, {2, 2}},
      {1, 2, 1, 7, 50, {6, 7}, {3, 5}, {7, 4}, {1, 1}, {11, 248}},
      // Stride 2, with all parities of the first row and column, and rows that divide into pairs and that do not.
      {1, 2, 1, 9, 9, {4, 4}, {2, 2}, {2, 4}, {1, 1}, {13, 12}},
      {2, 6, 1, 9, 9, {4, 4}, {2, 2}, {3, 5}, {1, 1}, {9, 8}},
      {1, 4, 1, 12, 7, {4, 4}, {2, 2}, {0, 3}, {1, 1}, {26, 14}},
      {2, 4, 1, 11, 6, {4, 4}, {2, 2}, {1, 2}, {1, 1}, {21, 7}},
      {1, 4, 2, 10, 6, {4, 4}, {2, 2}, {1, 0}, {1, 1}, {20, 14}},
      {1, 3, 1, 20, 33, {4, 3}, {2, 2}, {1, 1}, {1, 1}, {40, 66}},
      // Threads whose cells take more than one batch.
      {1, 2, 1, 21, 8, {2, 2}, {1, 1}, {0, 0}, {1, 1}, {22, 8}},
      {2, 3, 1, 19, 6, {2, 2}, {1, 1}, {1, 0}, {1, 1}, {18, 6}},
      {1, 3, 1, 26, 4, {2, 2}, {1, 1}, {2, 1}, {1, 1}, {23, 3}},
      {8, 1, 1, 2, 128, {16, 16}, {8, 8}, {6, 4}, {1, 1}, {4, 1024}},  // fewer rows than the stride, in two cells
      // Strips of input that are copied in pieces of 16, of 4 and of 2 bytes, for several tiles; channels in slices.
      {2, 24, 1, 9, 16, {16, 16}, {8, 8}, {4, 4}, {1, 1}, {72, 128}},
      {1, 22, 1, 10, 7, {8, 8}, {4, 4}, {2, 2}, {1, 1}, {40, 28}},
      {1, 21, 1, 6, 35, {8, 8}, {4, 4}, {1, 3}, {1, 1}, {24, 138}},
      {1, 150, 1, 5, 6, {16, 16}, {8, 8}, {4, 4}, {1, 1}, {40, 48}},
      {1, 256, 1, 6, 5, {8, 8}, {4, 4}, {2, 2}, {1, 1}, {24, 20}},
      {1, 330, 1, 2, 2, {8, 8}, {4, 4}, {2, 2}, {1, 1}, {8, 8}},
      {1, 365, 1, 2, 2, {8, 8}, {4, 4}, {2, 2}, {1, 1}, {8, 8}},
      {1, 264, 2, 3, 4, {6, 6}, {3, 3}, {0, 1}, {1, 1}, {10, 12}},
      {2, 192, 1, 4, 3, {3, 3}, {2, 2}, {1, 1}, {1, 1}, {8, 6}},
      // Along one axis, not every tap exists, though the kernel is as large as twice the other axis' stride.
      {1, 2, 1, 3, 4, {4, 4}, {3, 2}, {1, 1}},
      {1, 2, 1, 4, 3, {4, 4}, {2, 3}, {1, 1}},
      // Kernels of any span.
      {2, 3, 1, 4, 5, {3, 3}, {1, 1}, {1, 1}},
      {1, 2, 2, 4, 3, {5, 5}, {2, 2}, {2, 2}},
      {1, 3, 1, 5, 4, {3, 4}, {2, 1}, {1, 3}, {3, 2}},
      {1, 4, 1, 4, 3, {3, 3}, {2, 2}, {1, 1}, {2, 1}},  // along one axis, two strides are enough
      {1, 4, 1, 3, 4, {3, 3}, {2, 2}, {1, 1}, {1, 2}},
      {1, 9, 1, 3, 3, {40, 40}, {2, 2}, {20, 20}, {1, 1}, {4, 5}},
      {1, 2, 1, 2, 3, {2, 2}, {2000000000, 1}, {0, 0}, {1, 1}, {5, 4}},  // needs 64-bit numbers
      {2, 3, 1, 3, 2, {4, 4}, {2, 2}, {3000000000, 0}, {1, 1}, {3, 4}},
  };
  all.insert(all.end(), std::begin(more), std::end(more));
  return all;
}

// Upsamplings that have their own kernels in channels_last, with at least as many channels as those need. Sizes are
// around the elements of a block, the rows and taps of a thread, and the phases and channels whose weights a block
// holds at once.
std::vector<Upsample> deep_upsamplings() {
  return {
      {2, 21, 1, 5, 9, {4, 4}, {2, 2}, {1, 1}},
      {1, 64, 1, 4, 5, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {7, 9}},
      {1, 4, 1, 7, 40, {4, 4}, {2, 2}, {1, 1}},
      {2, 5, 1, 3, 51, {4, 4}, {2, 2}},  // one element fewer than a block takes in two goes; then two more
      {1, 6, 1, 3, 43, {4, 4}, {2, 2}, {1, 1}},
      {1, 21, 1, 3, 4, {16, 16}, {8, 8}, {4, 4}},
      {1, 8, 1, 4, 3, {16, 16}, {8, 8}, {21, 13}, {1, 1}, {20, 11}},
      {1, 40, 1, 2, 2, {16, 16}, {8, 8}, {4, 4}},  // four phases at once
      {1, 255, 1, 4, 2, {6, 6}, {3, 3}, {2, 1}},   // two at once, then one
      {1, 22, 1, 2, 2, {1, 256}, {1, 128}, {0, 64}},
      {1, 23, 1, 2, 1, {2, 256}, {1, 128}, {0, 64}},
      {1, 6, 1, 5, 4, {5, 6}, {3, 3}, {2, 2}},
      {1, 6, 1, 9, 4, {3, 4}, {2, 2}},
      {1, 7, 1, 4, 5, {2, 2}, {3, 4}, {0, 0}, {4, 3}},
      {1, 7, 1, 4, 5, {3, 3}, {5, 4}, {1, 2}, {4, 3}},
      {1, 9, 1, 4, 3, {1, 1}, {3, 3}},
      {1, 9, 1, 6, 5, {2, 2}, {1, 1}, {1, 0}},
      {1, 9, 1, 3, 3, {4, 4}, {2, 2}, {0, 0}, {1, 1}, {13, 11}},
      {1, 9, 1, 3, 3, {4, 4}, {2, 2}, {40, 1}, {1, 1}, {3, 8}},
      {1, 300, 1, 3, 2, {2, 2}, {1, 1}},  // more channels than one block takes
      {1, 70, 1, 3, 3, {8, 8}, {4, 4}, {2, 2}},
      {2, 4, 1, 2, 1, {64, 64}, {32, 32}, {16, 16}},
      {5, 21, 1, 2, 1, {64, 64}, {32, 32}, {16, 16}},                // walks of two rows; the last has one
      {128, 64, 1, 8, 12, {2, 2}, {1, 1}, {1, 0}, {1, 1}, {7, 12}},  // eight cells per thread
  };
}

// Also sizes around the tiles whose gradients a block computes: four to sixteen rows of input, columns of input whose
// output has 256 columns or somewhat more, and more columns than one block takes. Strides cover how many columns form a
// group, and rows that are taken four and two at a time. There are as many classes as byte labels can hold, and one
// more.
std::vector<Upsample> upsamplings_with_gradients() {
  std::vector<Upsample> shapes = upsamplings();
  const Upsample around_tiles[] = {
      {1, 2, 1, 2, 127, {4, 4}, {2, 2}, {1, 1}},
      {1, 1, 1, 9, 128, {4, 4}, {2, 2}, {1, 1}},
      {1, 2, 1, 8, 31, {16, 16}, {8, 8}, {4, 4}},
      {1, 1, 1, 17, 32, {16, 16}, {8, 8}, {4, 4}},
      {1, 1, 1, 2, 8, {64, 64}, {32, 32}, {16, 16}},
      {1, 2, 1, 3, 3, {2, 256}, {1, 128}, {0, 64}},
      {1, 1, 1, 2, 3, {2, 1024}, {1, 512}, {0, 256}},  // the widest stride with tiles
      {1, 1, 1, 2, 3, {2, 200}, {1, 513}},
      {1, 1, 1, 5, 600, {4, 4}, {2, 2}, {1, 1}},
      {1, 2, 1, 6, 100, {6, 6}, {3, 3}, {1, 1}},
      {16, 8, 1, 64, 2, {4, 2}, {2, 1}, {1, 0}},  // eight rows
      {1, 2, 1, 5, 9, {6, 12}, {3, 6}, {1, 2}},
      {1, 2, 1, 5, 5, {10, 24}, {5, 12}, {2, 5}},
      {1, 2, 1, 7, 3, {12, 8}, {6, 4}, {3, 2}},
      {2, 2, 2, 17, 5, {3, 3}, {2, 2}, {1, 1}},
  };
  shapes.insert(shapes.end(), std::begin(around_tiles), std::end(around_tiles));
  // The most classes whose labels are bytes, and one more.
  for (const int64_t classes : {255, 256}) shapes.push_back({1, classes, 1, 2, 3, {4, 4}, {2, 2}, {1, 1}});
  shapes.push_back({1, 256, 1, 1, 3, {1, 3}, {1, 1}});
  return shapes;
}

// As few pixels and taps as possible: for the kernels for up to two strides, for those for any geometry, which take
// larger strides, and for the latter with 64-bit numbers.
std::vector<Upsample> upsamplings_of_each_kind(int64_t channels) {
  std::vector<Upsample> shapes;
  for (const int64_t stride : {1, 257, 2000000000}) shapes.push_back({1, channels, 1, 1, 2, {1, 1}, {stride, 1}});
  return shapes;
}

}  // namespace kernel_cases
