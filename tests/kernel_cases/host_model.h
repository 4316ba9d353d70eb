// The reference results of all kernels, written from the text of the contracts and independent of the kernels: one
// element at a time, codes one bit at a time, as simple and slow as can be. Shares with the kernels only the contract
// headers and the conversions of half types, which conversions_test.cpp tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <tuple>
#include <vector>

#include "dense_conv_transpose2d.h"
#include "depthwise_cross_entropy.h"
#include "extremes.h"
#include "gather.h"
#include "half_types.h"
#include "indices.h"
#include "max_pool2d.h"
#include "repack_codes.h"
#include "scatter.h"
#include "unpool_conv2d.h"

namespace segext::host_model {

inline bool is_integer(ElementType type) { return type >= ElementType::kInt8; }

// Elements of any type, read and written as double. This is exact except for large int64 values, which the tests do not
// use.
inline double load(const void* data, ElementType type, int64_t k) {
  switch (type) {
    case ElementType::kFloat32:
      return static_cast<const float*>(data)[k];
    case ElementType::kFloat64:
      return static_cast<const double*>(data)[k];
    case ElementType::kFloat16:
      return half_types::half_to_float(static_cast<const uint16_t*>(data)[k]);
    case ElementType::kBFloat16:
      return half_types::bfloat16_to_float(static_cast<const uint16_t*>(data)[k]);
    case ElementType::kInt8:
      return static_cast<const int8_t*>(data)[k];
    case ElementType::kUInt8:
      return static_cast<const uint8_t*>(data)[k];
    case ElementType::kInt16:
      return static_cast<const int16_t*>(data)[k];
    case ElementType::kInt32:
      return static_cast<const int32_t*>(data)[k];
    case ElementType::kInt64:
      return static_cast<double>(static_cast<const int64_t*>(data)[k]);
  }
  return 0;
}

inline void store(void* data, ElementType type, int64_t k, double value) {
  switch (type) {
    case ElementType::kFloat32:
      static_cast<float*>(data)[k] = static_cast<float>(value);
      break;
    case ElementType::kFloat64:
      static_cast<double*>(data)[k] = value;
      break;
    case ElementType::kFloat16:
      static_cast<uint16_t*>(data)[k] = half_types::float_to_half(static_cast<float>(value));
      break;
    case ElementType::kBFloat16:
      static_cast<uint16_t*>(data)[k] = half_types::float_to_bfloat16(static_cast<float>(value));
      break;
    case ElementType::kInt8:
      static_cast<int8_t*>(data)[k] = static_cast<int8_t>(value);
      break;
    case ElementType::kUInt8:
      static_cast<uint8_t*>(data)[k] = static_cast<uint8_t>(value);
      break;
    case ElementType::kInt16:
      static_cast<int16_t*>(data)[k] = static_cast<int16_t>(value);
      break;
    case ElementType::kInt32:
      static_cast<int32_t*>(data)[k] = static_cast<int32_t>(value);
      break;
    case ElementType::kInt64:
      static_cast<int64_t*>(data)[k] = static_cast<int64_t>(value);
      break;
  }
}

inline double lowest(ElementType type) {
  switch (type) {
    case ElementType::kInt8:
      return std::numeric_limits<int8_t>::lowest();
    case ElementType::kUInt8:
      return 0;
    case ElementType::kInt16:
      return std::numeric_limits<int16_t>::lowest();
    case ElementType::kInt32:
      return std::numeric_limits<int32_t>::lowest();
    case ElementType::kInt64:
      return static_cast<double>(std::numeric_limits<int64_t>::lowest());
    default:
      return -std::numeric_limits<double>::infinity();
  }
}

// The number of an element in a map.
inline int64_t element(bool channels_last, int64_t channels, int64_t height, int64_t width, int64_t n, int64_t c,
                       int64_t h, int64_t w) {
  return channels_last ? ((n * height + h) * width + w) * channels + c : ((n * channels + c) * height + h) * width + w;
}

inline int64_t map_element(const PoolGeometry& g, int64_t n, int64_t c, int64_t h, int64_t w) {
  return element(g.channels_last, g.channels, g.height, g.width, n, c, h, w);
}

inline int64_t pooled_element(const PoolGeometry& g, int64_t n, int64_t c, int64_t r, int64_t col) {
  return element(g.channels_last, g.channels, g.pooled_height, g.pooled_width, n, c, r, col);
}

// The code of element `e` of sample `n`, read bit by bit: it starts at bit e * bits of the sample's bytes,
// little-endian.
inline uint32_t code_at(const std::vector<uint8_t>& codes, const PoolGeometry& g, int64_t n, int64_t e) {
  uint32_t code = 0;
  for (int b = 0; b < g.bits; ++b) {
    const int64_t bit = e * g.bits + b;
    code |= static_cast<uint32_t>(codes[n * g.sample_bytes + bit / 8] >> bit % 8 & 1) << b;
  }
  return code;
}

inline void set_code(std::vector<uint8_t>* codes, const PoolGeometry& g, int64_t n, int64_t e, uint32_t code) {
  for (int b = 0; b < g.bits; ++b) {
    const int64_t bit = e * g.bits + b;
    uint8_t& byte = (*codes)[n * g.sample_bytes + bit / 8];
    byte = static_cast<uint8_t>((byte & ~(1u << bit % 8)) | (code >> b & 1) << bit % 8);
  }
}

// Calls `visit(n, c, row, column, element)` for every pooled element, in row-major order of each plane; `element` is
// its number in the sample.
template <typename Visit>
void for_each_pooled(const PoolGeometry& g, const Visit& visit) {
  for (int64_t n = 0; n < g.samples; ++n) {
    for (int64_t c = 0; c < g.channels; ++c) {
      for (int64_t r = 0; r < g.pooled_height; ++r) {
        for (int64_t col = 0; col < g.pooled_width; ++col) visit(n, c, r, col, pooled_element(g, 0, c, r, col));
      }
    }
  }
}

// The pixel that tap (i, j) of a window lies on; false outside the map.
inline bool tap_pixel(const PoolGeometry& g, int64_t r, int64_t col, int64_t i, int64_t j, int64_t* h, int64_t* w) {
  *h = r * g.window.stride_h - g.window.padding_h + i * g.window.dilation_h;
  *w = col * g.window.stride_w - g.window.padding_w + j * g.window.dilation_w;
  return *h >= 0 && *h < g.height && *w >= 0 && *w < g.width;
}

inline void max_pool2d(const MaxPool2dParams& p, void* output, std::vector<uint8_t>* codes) {
  const PoolGeometry& g = p.geometry;
  for_each_pooled(g, [&](int64_t n, int64_t c, int64_t r, int64_t col, int64_t e) {
    double best = lowest(p.type);
    int64_t code = 0;
    bool first = true;
    for (int64_t i = 0; i < g.window.kernel_h; ++i) {
      for (int64_t j = 0; j < g.window.kernel_w; ++j) {
        int64_t h, w;
        if (!tap_pixel(g, r, col, i, j, &h, &w)) continue;
        double value = load(p.input, p.type, map_element(g, n, c, h, w));
        if (p.relu && value < 0) value = 0;
        if (first || value > best || std::isnan(value)) {
          best = value;
          code = i * g.window.kernel_w + j;
        }
        first = false;
      }
    }
    store(output, p.type, pooled_element(g, n, c, r, col), best);
    set_code(codes, g, n, e, static_cast<uint32_t>(code));
  });
}

// The element of the full map that a switch names, or -1.
inline int64_t named_element(const PoolGeometry& g, const std::vector<uint8_t>& codes, int64_t n, int64_t c, int64_t r,
                             int64_t col, int64_t e) {
  const int64_t code = code_at(codes, g, n, e);
  const int64_t i = code / g.window.kernel_w, j = code % g.window.kernel_w;
  int64_t h, w;
  if (i >= g.window.kernel_h || !tap_pixel(g, r, col, i, j, &h, &w)) return -1;
  return map_element(g, n, c, h, w);
}

inline bool is_masked(const void* relu_output, ElementType type, int64_t element) {
  return relu_output != nullptr && load(relu_output, type, element) <= 0;
}

inline void scatter(const ScatterParams& p, const std::vector<uint8_t>& codes, void* map) {
  const PoolGeometry& g = p.geometry;
  std::vector<double> sums(g.samples * g.channels * g.height * g.width, 0.0);
  for_each_pooled(g, [&](int64_t n, int64_t c, int64_t r, int64_t col, int64_t e) {
    const int64_t named = named_element(g, codes, n, c, r, col, e);
    if (named < 0) return;
    const int64_t from = pooled_element(g, n, c, r, col);
    const double value = is_masked(p.relu_output, p.type, from) ? 0 : load(p.values, p.type, from);
    if (p.overlap == Overlap::kKeepLast) {
      sums[named] = value;
    } else if (p.type == ElementType::kFloat64) {
      sums[named] += value;
    } else {
      sums[named] = static_cast<float>(sums[named]) + static_cast<float>(value);
    }
  });
  for (size_t k = 0; k < sums.size(); ++k) store(map, p.type, static_cast<int64_t>(k), sums[k]);
}

inline void gather(const GatherParams& p, const std::vector<uint8_t>& codes, void* values) {
  const PoolGeometry& g = p.geometry;
  std::vector<int64_t> winner(g.samples * g.channels * g.height * g.width, -1);
  for_each_pooled(g, [&](int64_t n, int64_t c, int64_t r, int64_t col, int64_t e) {
    const int64_t named = named_element(g, codes, n, c, r, col, e);
    if (named >= 0) winner[named] = e;
  });
  for_each_pooled(g, [&](int64_t n, int64_t c, int64_t r, int64_t col, int64_t e) {
    const int64_t named = named_element(g, codes, n, c, r, col, e);
    const int64_t to = pooled_element(g, n, c, r, col);
    const bool reads =
        named >= 0 && (p.overlap == Overlap::kAdd || winner[named] == e) && !is_masked(p.relu_output, p.type, to);
    store(values, p.type, to, reads ? load(p.map, p.type, named) : 0);
  });
}

inline void indices_from_codes(const PoolGeometry& g, const std::vector<uint8_t>& codes, int64_t* indices) {
  for_each_pooled(g, [&](int64_t n, int64_t c, int64_t r, int64_t col, int64_t e) {
    const int64_t code = code_at(codes, g, n, e);
    const int64_t i = code / g.window.kernel_w, j = code % g.window.kernel_w;
    int64_t h, w;
    const bool names = i < g.window.kernel_h && tap_pixel(g, r, col, i, j, &h, &w);
    indices[pooled_element(g, n, c, r, col)] = names ? h * g.width + w : -1;
  });
}

inline void extremes(const int64_t* values, int64_t count, int64_t ignored, int64_t* parts) {
  std::fill(parts, parts + 2 * extremes_parts(count), 0);
  for (int64_t k = 0; k < count; ++k) {
    int64_t* part = parts + 2 * (k / kExtremesPart);
    if (values[k] == ignored) continue;
    part[0] = std::min(part[0], values[k]);
    part[1] = std::max(part[1], values[k]);
  }
}

inline int64_t codes_from_indices(const PoolGeometry& g, const int64_t* indices, std::vector<uint8_t>* codes) {
  int64_t invalid = 0;
  for_each_pooled(g, [&](int64_t n, int64_t c, int64_t r, int64_t col, int64_t e) {
    const int64_t index = indices[pooled_element(g, n, c, r, col)];
    int64_t code = -1;
    for (int64_t i = 0; i < g.window.kernel_h; ++i) {
      for (int64_t j = 0; j < g.window.kernel_w; ++j) {
        int64_t h, w;
        if (tap_pixel(g, r, col, i, j, &h, &w) && h * g.width + w == index) code = i * g.window.kernel_w + j;
      }
    }
    invalid += code < 0;
    set_code(codes, g, n, e, code < 0 ? 0 : static_cast<uint32_t>(code));
  });
  return invalid;
}

inline void repack_codes(const PoolGeometry& g, const std::vector<uint8_t>& codes, std::vector<uint8_t>* repacked) {
  for_each_pooled(g, [&](int64_t n, int64_t c, int64_t r, int64_t col, int64_t e) {
    const int64_t to = element(!g.channels_last, g.channels, g.pooled_height, g.pooled_width, 0, c, r, col);
    set_code(repacked, g, n, to, code_at(codes, g, n, e));
  });
}

// Calls visit(element of the pooled map, element of the full map that it names or -1) in row-major order of each plane.
template <typename Visit>
void for_each_index(const IndexedMaps& p, const Visit& visit) {
  for (int64_t n = 0; n < p.samples; ++n) {
    for (int64_t c = 0; c < p.channels; ++c) {
      for (int64_t k = 0; k < p.pooled_pixels; ++k) {
        const int64_t from = element(p.channels_last, p.channels, 1, p.pooled_pixels, n, c, 0, k);
        const int64_t index = p.indices[from];
        const bool names = index >= 0 && index < p.pixels;
        visit(from, names ? element(p.channels_last, p.channels, 1, p.pixels, n, c, 0, index) : -1);
      }
    }
  }
}

inline void index_unpool(const IndexUnpoolParams& p, void* map) {
  const IndexedMaps& maps = p.maps;
  for (int64_t k = 0; k < maps.samples * maps.channels * maps.pixels; ++k) store(map, maps.type, k, 0);
  for_each_index(maps, [&](int64_t from, int64_t named) {
    if (named >= 0) store(map, maps.type, named, load(p.values, maps.type, from));
  });
}

inline void index_unpool_backward(const IndexUnpoolBackwardParams& p, void* grad_values) {
  const IndexedMaps& maps = p.maps;
  std::map<int64_t, int64_t> winners;
  for_each_index(maps, [&](int64_t from, int64_t named) { winners[named] = from; });
  for_each_index(maps, [&](int64_t from, int64_t named) {
    const bool won = named >= 0 && winners[named] == from;
    store(grad_values, maps.type, from, won ? load(p.grad_map, maps.type, named) : 0);
  });
}

// Calls f(input row, kernel row) for each input row whose kernel reaches output row `at`, counted from the origin; or
// likewise for columns.
template <class F>
void for_each_reaching(int64_t at, int64_t size, int64_t kernel, int64_t stride, int64_t dilation, F&& f) {
  const int64_t first = at - (kernel - 1) * dilation, begin = first > 0 ? (first + stride - 1) / stride : 0;
  for (int64_t h = begin; h < size && h * stride <= at; ++h) {
    const int64_t distance = at - h * stride;
    if (distance % dilation == 0) f(h, distance / dilation);
  }
}

// Calls f(element of the input, element of the weight) for each product that goes into channel c at an output pixel.
template <class F>
void for_each_product(const Upsampling& g, int64_t n, int64_t c, int64_t y, int64_t x, F&& f) {
  for_each_reaching(y + g.origin_h, g.height, g.kernel_h, g.stride_h, g.dilation_h, [&](int64_t h, int64_t i) {
    for_each_reaching(x + g.origin_w, g.width, g.kernel_w, g.stride_w, g.dilation_w, [&](int64_t w, int64_t j) {
      f(element(g.channels_last, input_channels(g), g.height, g.width, n, c / g.multiplier, h, w),
        (c * g.kernel_h + i) * g.kernel_w + j);
    });
  });
}

// The value of channel c at an output pixel, without the addend.
inline double upsampled(const UpsamplingOperands& p, int64_t n, int64_t c, int64_t y, int64_t x) {
  const Upsampling& g = p.geometry;
  double sum = p.bias == nullptr ? 0 : load(p.bias, p.type, c);
  for_each_product(g, n, c, y, x, [&](int64_t from, int64_t tap) {
    sum += load(p.input, p.type, from) * load(p.weight, p.type, tap);
  });
  return sum;
}

// Adds the contributions of a gradient of that value to the gradients of input, weight and bias.
inline void add_gradients(const UpsamplingOperands& p, int64_t n, int64_t c, int64_t y, int64_t x, double gradient,
                          double* input, double* weight, double* bias) {
  bias[c] += gradient;
  for_each_product(p.geometry, n, c, y, x, [&](int64_t from, int64_t tap) {
    input[from] += gradient * load(p.weight, p.type, tap);
    weight[tap] += gradient * load(p.input, p.type, from);
  });
}

inline void depthwise_conv_transpose2d(const DepthwiseConvTranspose2dParams& p, void* output) {
  const UpsamplingOperands& operands = p.operands;
  const Upsampling& g = operands.geometry;
  const ElementType type = operands.type;
  for (int64_t n = 0; n < g.samples; ++n) {
    for (int64_t c = 0; c < g.channels; ++c) {
      for (int64_t y = 0; y < g.output_height; ++y) {
        for (int64_t x = 0; x < g.output_width; ++x) {
          double sum = upsampled(operands, n, c, y, x);
          if (p.addend.data != nullptr) {
            sum += load(p.addend.data, type,
                        element(g.channels_last, g.channels, p.addend.height, p.addend.width, n, c,
                                y + p.addend.origin_h, x + p.addend.origin_w));
          }
          store(output, type, element(g.channels_last, g.channels, g.output_height, g.output_width, n, c, y, x), sum);
        }
      }
    }
  }
}

inline void depthwise_argmax(const DepthwiseArgmaxParams& p, uint8_t* labels, void* best) {
  const Upsampling& g = p.scores.geometry;
  int64_t pixel = 0;
  for (int64_t n = 0; n < g.samples; ++n) {
    for (int64_t y = 0; y < g.output_height; ++y) {
      for (int64_t x = 0; x < g.output_width; ++x, ++pixel) {
        double largest = 0;
        for (int64_t c = 0; c < g.channels; ++c) {
          const double score = upsampled(p.scores, n, c, y, x);
          if (c > 0 && (std::isnan(largest) || !(score > largest || std::isnan(score)))) continue;
          largest = score;
          labels[pixel] = static_cast<uint8_t>(c);
        }
        store(best, p.scores.type, pixel, largest);
      }
    }
  }
}

// The cross-entropy of one pixel and its derivatives by the scores, from the contract's formula.
struct PixelLoss {
  int64_t label = -1;
  double loss = 0, weight = 0;
  std::vector<double> by_score;
};

inline PixelLoss pixel_loss(const DepthwiseCrossEntropyParams& p, int64_t n, int64_t y, int64_t x) {
  const UpsamplingOperands& scores = p.scores;
  const CrossEntropy& criterion = p.criterion;
  const Upsampling& g = scores.geometry;
  const int64_t t = p.target[(n * g.output_height + y) * g.output_width + x];
  const bool counts = t >= 0 && t < g.channels && t != p.ignored;
  const ElementType sum_type = scores.type == ElementType::kFloat64 ? ElementType::kFloat64 : ElementType::kFloat32;
  std::vector<double> score(g.channels);
  double largest = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int64_t c = 0; c < g.channels; ++c) {
    score[c] = upsampled(scores, n, c, y, x);
    largest = score[c] > largest ? score[c] : largest;
  }
  for (int64_t c = 0; c < g.channels; ++c) sum += std::exp(score[c] - largest);
  PixelLoss result;
  if (counts) result.label = t;
  result.by_score.assign(g.channels, 0);
  for (int64_t c = 0; c < g.channels; ++c) {
    const double weight = criterion.class_weight == nullptr ? 1 : load(criterion.class_weight, sum_type, c);
    const double share =
        weight * (criterion.smoothing / static_cast<double>(g.channels) + (c == t ? 1 - criterion.smoothing : 0));
    if (!counts) {
      result.by_score[c] += 0 * sum;  // as in stock, an ignored pixel does not hide a NaN
      continue;
    }
    if (c == t) result.weight = weight;
    const double log_share = std::log(sum) - (score[c] - largest);
    if (c == t) result.loss += (1 - criterion.smoothing) * (weight * log_share);  // 0 * infinity is NaN, as in stock
    if (criterion.smoothing > 0)
      result.loss += criterion.smoothing / static_cast<double>(g.channels) * weight * log_share;
    for (int64_t k = 0; k < g.channels; ++k) result.by_score[k] += share * std::exp(score[k] - largest) / sum;
    result.by_score[c] -= share;
  }
  return result;
}

inline void depthwise_cross_entropy(const DepthwiseCrossEntropyParams& p, double* losses, int64_t* labels, double* loss,
                                    double* weight) {
  const Upsampling& g = p.scores.geometry;
  *loss = *weight = 0;
  for (int64_t n = 0; n < g.samples; ++n) {
    for (int64_t y = 0; y < g.output_height; ++y) {
      for (int64_t x = 0; x < g.output_width; ++x) {
        const PixelLoss pixel = pixel_loss(p, n, y, x);
        *losses++ = pixel.loss;
        *labels++ = pixel.label;
        *loss += pixel.loss;
        *weight += pixel.weight;
      }
    }
  }
}

// Adds to the gradients of input, weight and bias, which must be zero at first.
inline void depthwise_conv_transpose2d_backward(const DepthwiseConvTranspose2dBackwardParams& p, double* input,
                                                double* weight, double* bias) {
  const Upsampling& g = p.operands.geometry;
  for (int64_t n = 0; n < g.samples; ++n) {
    for (int64_t c = 0; c < g.channels; ++c) {
      for (int64_t y = 0; y < g.output_height; ++y) {
        for (int64_t x = 0; x < g.output_width; ++x) {
          const int64_t at = element(g.channels_last, g.channels, g.output_height, g.output_width, n, c, y, x);
          add_gradients(p.operands, n, c, y, x, load(p.grad_output, p.operands.type, at), input, weight, bias);
        }
      }
    }
  }
}

// The same for the cross-entropy. `loss` is the forward call whose gradients these are.
inline void depthwise_cross_entropy_backward(const DepthwiseCrossEntropyParams& loss,
                                             const DepthwiseCrossEntropyBackwardParams& p, double* input,
                                             double* weight, double* bias) {
  const Upsampling& g = p.scores.geometry;
  const ElementType type = p.scores.type;
  const ElementType sum_type = type == ElementType::kFloat64 ? ElementType::kFloat64 : ElementType::kFloat32;
  for (int64_t n = 0; n < g.samples; ++n) {
    for (int64_t y = 0; y < g.output_height; ++y) {
      for (int64_t x = 0; x < g.output_width; ++x) {
        const PixelLoss pixel = pixel_loss(loss, n, y, x);
        const int64_t at = p.one_value ? 0 : (n * g.output_height + y) * g.output_width + x;
        const double grad = pixel.label < 0 ? 0 : load(p.grad_loss, sum_type, at);
        for (int64_t c = 0; c < g.channels; ++c) {
          add_gradients(p.scores, n, c, y, x, grad * pixel.by_score[c], input, weight, bias);
        }
      }
    }
  }
}

// Multiplies each value by its nine weights and adds the products wherever they fall inside the output. A pixel without
// a value takes no part.
inline void unpool_conv2d(const UnpoolConv2dParams& p, const WeightView& view, const std::vector<uint8_t>& codes,
                          std::vector<double>* output) {
  const UnpoolConv& g = p.geometry;
  const auto output_element = [&](int64_t n, int64_t k, int64_t y, int64_t x) {
    return element(g.pool.channels_last, g.outputs, g.output_height, g.output_width, n, k, y, x);
  };
  for (int64_t n = 0; n < g.pool.samples; ++n) {
    for (int64_t k = 0; k < g.outputs; ++k) {
      for (int64_t y = 0; y < g.output_height; ++y) {
        for (int64_t x = 0; x < g.output_width; ++x) {
          (*output)[output_element(n, k, y, x)] = p.bias == nullptr ? 0 : load(p.bias, p.type, k);
        }
      }
    }
  }
  for_each_pooled(g.pool, [&](int64_t n, int64_t c, int64_t r, int64_t col, int64_t e) {
    const int64_t code = code_at(codes, g.pool, n, e);
    int64_t u, v;
    if (!tap_pixel(g.pool, r, col, code / 2, code % 2, &u, &v)) return;
    const double value = load(p.input, p.type, pooled_element(g.pool, n, c, r, col));
    for (int64_t tap = 0; tap < 9; ++tap) {
      const int64_t i = tap / 3, j = tap % 3, y = u + i - g.padding_h, x = v + j - g.padding_w;
      if (y < 0 || y >= g.output_height || x < 0 || x >= g.output_width) continue;
      for (int64_t k = 0; k < g.outputs; ++k) {
        (*output)[output_element(n, k, y, x)] += value * load(view.data, p.type,
                                                              c * view.channel_stride + k * view.output_stride +
                                                                  i * view.row_stride + j * view.column_stride);
      }
    }
  });
}

// The gradients of the same by the pooled values, and by the weight in the order [channels, outputs, 9]; both must be
// zero at first. A value that lies on no pixel of the map has none.
inline void unpool_conv2d_backward(const UnpoolConv2dBackwardParams& p, const WeightView& view,
                                   const std::vector<uint8_t>& codes, std::vector<double>* by_input,
                                   std::vector<double>* by_weight) {
  const UnpoolConv& g = p.geometry;
  for_each_pooled(g.pool, [&](int64_t n, int64_t c, int64_t r, int64_t col, int64_t e) {
    const int64_t code = code_at(codes, g.pool, n, e);
    int64_t u, v;
    if (!tap_pixel(g.pool, r, col, code / 2, code % 2, &u, &v)) return;
    const int64_t from = pooled_element(g.pool, n, c, r, col);
    const double value = load(p.input, p.type, from);
    for (int64_t tap = 0; tap < 9; ++tap) {
      const int64_t i = tap / 3, j = tap % 3, y = u + i - g.padding_h, x = v + j - g.padding_w;
      if (y < 0 || y >= g.output_height || x < 0 || x >= g.output_width) continue;
      for (int64_t k = 0; k < g.outputs; ++k) {
        const double grad = load(p.grad_output, p.type,
                                 element(g.pool.channels_last, g.outputs, g.output_height, g.output_width, n, k, y, x));
        (*by_input)[from] += grad * load(view.data, p.type,
                                         c * view.channel_stride + k * view.output_stride + i * view.row_stride +
                                             j * view.column_stride);
        (*by_weight)[(c * g.outputs + k) * 9 + tap] += grad * value;
      }
    }
  });
}

// Adds each input element's products wherever they fall inside the output. `weight` is [channels, outputs, taps].
inline void dense_conv_transpose2d(const DenseConvTranspose2dParams& p, const void* weight,
                                   std::vector<double>* output) {
  const ConvTranspose& g = p.geometry;
  for (int64_t n = 0; n < g.samples; ++n) {
    for (int64_t k = 0; k < g.outputs; ++k) {
      for (int64_t y = 0; y < g.output_height; ++y) {
        for (int64_t x = 0; x < g.output_width; ++x) {
          (*output)[element(g.channels_last, g.outputs, g.output_height, g.output_width, n, k, y, x)] =
              p.bias == nullptr ? 0 : load(p.bias, p.type, k);
        }
      }
    }
    for (int64_t c = 0; c < g.channels; ++c) {
      for (int64_t h = 0; h < g.height; ++h) {
        for (int64_t w = 0; w < g.width; ++w) {
          const double value =
              load(p.input, p.type, element(g.channels_last, g.channels, g.height, g.width, n, c, h, w));
          for (int64_t tap = 0; tap < g.kernel_h * g.kernel_w; ++tap) {
            const int64_t y = h * g.stride_h + tap / g.kernel_w * g.dilation_h - g.padding_h;
            const int64_t x = w * g.stride_w + tap % g.kernel_w * g.dilation_w - g.padding_w;
            if (y < 0 || y >= g.output_height || x < 0 || x >= g.output_width) continue;
            for (int64_t k = 0; k < g.outputs; ++k) {
              (*output)[element(g.channels_last, g.outputs, g.output_height, g.output_width, n, k, y, x)] +=
                  value * load(weight, p.type, (c * g.outputs + k) * g.kernel_h * g.kernel_w + tap);
            }
          }
        }
      }
    }
  }
}

}  // namespace segext::host_model
