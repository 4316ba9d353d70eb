// The adjoint of upsampling: sums the gradients of output rows into the gradients of input rows, weights and bias.
//
// All sums are accumulated in a frame: a row as wide as a spread input row (upsampling.h), in which adjacent columns
// are adjacent elements and each tap is at a constant distance:
//
//   stride 2         frame      A A B B C C           A: period of input column a
//                   tap m = 0   0 1 2 3 4 5           the output column that this tap reads
//                   tap m = 1   2 3 4 5 . .           . no such column: contributes nothing
//
// Each element of the frame sums gradients times weights over taps and rows; summing these over a period gives the
// gradient of its input column. For each tap, each position in the period sums gradients times input over the frame;
// this is the gradient of one kernel weight. Both sums traverse the frame in units: the whole periods that fit in one
// vector or, where a period is longer than a vector, one period that spans several vectors. An element has the same
// position in every unit, so weights and sums stay in registers.
#pragma once

#include "../depthwise_conv_transpose2d_backward.h"
#include "gradient_bands.h"
#include "phases.h"
#include "transpose.h"
#include "upsampling.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

template <class E>
class AdjointRows {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;
  static constexpr int kN = kLanes<Sum>;

 public:
  // Handles `planes` planes at once: those of one group, each with `spread.depth` channels. `inputs` and `weights`
  // number the planes in the same way.
  AdjointRows(const UpsamplingGradients& out, const void* input, const GradientBands& bands, const Upsampling& g,
              const Spread& spread, int64_t planes, SpreadRows<E>& inputs, const PhaseWeights<E>& weights)
      : out_(out),
        input_(static_cast<const Raw*>(input)),
        bands_(bands),
        g_(g),
        spread_(spread),
        inputs_(inputs),
        weights_(weights),
        planes_(planes),
        sources_(ceil_div(planes, g.multiplier)),
        kept_(inputs.kept()),
        columns_{clamp(spread.first, 0, g.width), clamp(spread.first + spread.columns, 0, g.width)},
        unit_(larger(kN / spread.period, 1) * spread.period),
        vectors_(ceil_div(unit_, kN)),
        slots_(ceil_div(kept_ - 1, bands.rows) + 1) {
    find_columns();
    const int64_t elements = spread.offset + g.output_width * spread.depth;
    margin_ = ceil_div((spread.taps_w - 1) * spread.period + unit_, kN) * kN;
    row_pitch_ = ceil_div(2 * margin_ + elements, kN) * kN + kN;
    strip_ = clamp(kStripBytes / (planes * row_pitch_ * static_cast<int64_t>(sizeof(Sum))), 1, g.stride_h);
    rows_ = zeros(row_buffer_, planes * strip_ * row_pitch_);
    read_ = read_buffer_.reserve(planes * strip_);
    for (int64_t k = 0; k < planes * strip_; ++k) read_[k] = row(k / strip_, k % strip_);
    frame_pitch_ = ceil_div((columns_.end - columns_.begin) * spread.period, unit_) * vectors_ * kN + 2 * kN;
    if (out.input != nullptr) frames_ = zeros(frame_buffer_, element_count(sources_, kept_, frame_pitch_));
    if (out.weight != nullptr) {
      products_ =
          zeros(product_buffer_, element_count(slots_, planes, g.kernel_h, spread.taps_w, vectors_, int64_t{kN}));
    }
    taps_ = tap_buffer_.reserve(strip_ * spread.taps_w);
  }

  // Processes bands [begin, end), counted over all groups and samples. Calls fill(sample, group, y) for each output row
  // that contributes to them; fill must provide the gradients of the row. The sums of a band have the same terms in the
  // same order, whatever the range it is processed in.
  template <class F>
  void run(int64_t begin, int64_t end, F&& fill) {
    while (begin < end) {
      const int64_t number = begin / bands_.count, first = begin % bands_.count;
      const int64_t last = smaller(bands_.count, first + end - begin);
      sample_ = number / bands_.groups;
      group_ = number % bands_.groups;
      owned_ = {first * bands_.rows, smaller(last * bands_.rows, g_.height)};
      clear_bias_parts();
      int64_t y = first == 0 ? 0 : first_row(owned_.begin);
      for (int64_t h = owned_.begin; h < owned_.end; ++h) {
        const int64_t last_row = h == g_.height - 1 ? g_.output_height : first_row(h + kept_);
        while (y < last_row) {
          const int64_t cell = cell_of(y);
          const int64_t count = smaller(strip_, smaller(last_row, first_row(cell + 1)) - y);
          for (filled_ = 0; filled_ < count; ++filled_) fill(sample_, group_, y + filled_);
          for (int64_t plane = 0; plane < planes_; ++plane) add(plane, cell, y, count);
          y += count;
        }
        finish_input(h);
        if ((h + 1) % bands_.rows == 0 || h + 1 == owned_.end) finish_weight(h / bands_.rows);
      }
      begin += last - first;
    }
  }

  // Where fill stores a plane's gradients of the row being filled; the first output column is at [0]. Whole vectors may
  // be stored from any element of the row on; what they write past the end of the row is ignored.
  Sum* row(int64_t plane) { return row(plane, filled_); }

  // The alternative to storing into row(): the gradients are read in place. Only the two ends of the row are copied,
  // because the memory next to them may not be readable.
  void read_from(const Sum* gradients, int64_t plane) {
    read_[plane * strip_ + filled_] = gradients;
    Sum* edges = row(plane);
    const int64_t elements = g_.output_width * spread_.depth;
    std::memcpy(edges, gradients, left_edge_ * sizeof(Sum));
    std::memcpy(edges + elements - right_edge_, gradients + elements - right_edge_, right_edge_ * sizeof(Sum));
  }

 private:
  // Size of the gradient rows held at a time (a strip), so that they stay in the second-level cache.
  static constexpr int64_t kStripBytes = 65536;

  // What all taps of one column have in common: how far the output elements that they read are from the elements of the
  // frame, and which of them exist.
  struct TapColumn {
    int64_t distance;         // from an element of the frame to the output element that it reads
    Range inside;             // elements of the frame that read an existing output column
    const Int<Sum>* present;  // mask of the places that have the tap; null if all do
  };

  // A tap of one output row. `gradients` and `edges` point to what element 0 of the frame reads, `weight` and
  // `products` to place 0.
  struct Tap {
    const Sum* gradients;
    const Sum* edges;  // the same in a row buffer with margins; if the row is read in place, only its ends are there
    const Sum* weight;
    Sum* products;
    const TapColumn* column;
  };

  static Sum* zeros(Buffer<Sum>& buffer, int64_t count) {
    Sum* data = buffer.reserve(count);
    std::memset(data, 0, count * sizeof(Sum));
    return data;
  }

  // The output rows of a cell read the same input rows: the one with the number of the cell, and some before it.
  int64_t cell_of(int64_t y) const { return (y + g_.origin_h) / g_.stride_h; }
  int64_t first_row(int64_t cell) const { return clamp(cell * g_.stride_h - g_.origin_h, 0, g_.output_height); }

  bool owns(int64_t h) const { return h >= owned_.begin && h < owned_.end; }

  Sum* row(int64_t plane, int64_t r) const {
    return rows_ + (plane * strip_ + r) * row_pitch_ + margin_ + spread_.offset;
  }
  Sum* frame(int64_t source, int64_t h) const { return frames_ + (source * kept_ + h % kept_) * frame_pitch_; }

  int64_t part_products() const { return planes_ * g_.kernel_h * spread_.taps_w * vectors_ * kN; }
  Sum* products(int64_t part, int64_t plane, int64_t i) const {
    const int64_t tap = (plane * g_.kernel_h + i) * spread_.taps_w;
    return products_ + part % slots_ * part_products() + tap * vectors_ * kN;
  }

  int64_t channel(int64_t plane) const { return (group_ * planes_ + plane) * spread_.depth; }

  Sum* weight_part(int64_t part) const {
    return static_cast<Sum*>(out_.weight) + (sample_ * bands_.count + part) * g_.channels * g_.kernel_h * g_.kernel_w;
  }
  Sum* bias_part(int64_t part) const {
    return static_cast<Sum*>(out_.bias) + (sample_ * bands_.count + part) * g_.channels;
  }

  void find_columns() {
    const int64_t length = (columns_.end - columns_.begin) * spread_.period;
    const int64_t elements = g_.output_width * spread_.depth, width = vectors_ * kN;
    tap_columns_ = column_buffer_.reserve(spread_.taps_w);
    for (int64_t m = 0; m < spread_.taps_w; ++m) {
      const int64_t distance = (columns_.begin + m - g_.origin_w / g_.stride_w) * spread_.period - spread_.offset;
      const int64_t begin = clamp(-distance, 0, length), end = clamp(elements - distance, begin, length);
      tap_columns_[m] = {distance, {begin, end}, weights_.present(m)};
    }
    const TapColumn &nearest = tap_columns_[0], &farthest = tap_columns_[spread_.taps_w - 1];
    seen_ = {farthest.inside.begin / unit_, ceil_div(nearest.inside.end, unit_)};
    whole_.begin = smaller(ceil_div(nearest.inside.begin, unit_), seen_.end);
    whole_.end = larger((farthest.inside.end - width + unit_) / unit_, whole_.begin);
    left_edge_ = clamp((whole_.begin - 1) * unit_ + width + farthest.distance, 0, elements);
    right_edge_ = clamp(elements - whole_.end * unit_ - nearest.distance, 0, elements);
  }

  void clear_bias_parts() const {
    if (out_.bias == nullptr) return;
    for (int64_t h = owned_.begin; h < owned_.end; h += bands_.rows) {
      std::memset(bias_part(h / bands_.rows) + channel(0), 0, planes_ * spread_.depth * sizeof(Sum));
    }
  }

  // Adds what output rows [y, y + count) of a plane contribute. All of them belong to one cell.
  void add(int64_t plane, int64_t cell, int64_t y, int64_t count) {
    for (int64_t h = smaller(cell, g_.height - 1); h > cell - kept_ && h >= 0; --h) {
      if (!owns(h)) continue;
      const int taps = collect(plane, h, y, count);
      if (out_.input != nullptr) add_to_input(frame(plane / g_.multiplier, h), taps);
      if (out_.weight != nullptr) add_to_weight(input_row(plane, h), taps);
    }
    // The bias counts each output row exactly once: in the band that has the input row of its cell, whether or not the
    // output row reads that input row.
    const int64_t owner = smaller(cell, g_.height - 1);
    if (out_.bias == nullptr || !owns(owner)) return;
    Sum* bias = bias_part(owner / bands_.rows) + channel(plane);
    for (int64_t r = 0; r < count; ++r) add_to_bias(read_[plane * strip_ + r], bias);
  }

  // Collects the taps through which output rows [y, y + rows) read input row h. Returns their number.
  int collect(int64_t plane, int64_t h, int64_t y, int64_t rows) {
    int count = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t offset = y + r + g_.origin_h - h * g_.stride_h, i = quick_div(offset, g_.dilation_h);
      if (i >= g_.kernel_h || i * g_.dilation_h != offset) continue;
      const Sum *gradients = read_[plane * strip_ + r], *edges = row(plane, r), *weight = weights_.taps(plane, i, 0);
      Sum* products = this->products(h / bands_.rows, plane, i);
      for (int64_t m = 0; m < spread_.taps_w; ++m) {
        const TapColumn& column = tap_columns_[m];
        taps_[count++] = {gradients + column.distance, edges + column.distance, weight + m * weights_.pitch(),
                          products + m * vectors_ * kN, &column};
      }
    }
    return count;
  }

  // Spread input row h, from the first column of the frame on.
  const Sum* input_row(int64_t plane, int64_t h) {
    const int64_t inputs = input_channels(g_), pixels = g_.height * g_.width;
    const int64_t source = (group_ * planes_ + plane) / g_.multiplier, step = g_.channels_last ? inputs : 1;
    const Raw* first = input_ + sample_ * inputs * pixels + source * (g_.channels_last ? 1 : pixels);
    return inputs_.row(plane, h, first + h * g_.width * step, step) + (columns_.begin - spread_.first) * spread_.period;
  }

  // Mask of the lanes that read an existing output column through a tap, in the vector that starts at `element`.
  static SEGEXT_INLINE auto lanes_inside(const Tap& tap, int64_t element) {
    const auto limit = [](int64_t lane) { return broadcast(static_cast<Int<Sum>>(clamp(lane, 0, kN))); };
    const Vec<Int<Sum>> lanes = lane_numbers<Sum>();
    return (lanes >= limit(tap.column->inside.begin - element)) & (lanes < limit(tap.column->inside.end - element));
  }

  void add_to_input(Sum* frame, int taps) const {
    if (weights_.lacks_taps()) {
      add_units<false>(frame, taps);
    } else {
      add_units<true>(frame, taps);
    }
  }

  template <bool kAllTaps>
  SEGEXT_INLINE void add_units(Sum* frame, int taps) const {
    int64_t unit = seen_.begin;
    for (; unit < whole_.begin; ++unit) add_units<1, kAllTaps, false>(frame, taps, unit);
    for (; unit + 4 <= whole_.end; unit += 4) add_units<4, kAllTaps, true>(frame, taps, unit);
    for (; unit < whole_.end; ++unit) add_units<1, kAllTaps, true>(frame, taps, unit);
    for (; unit < seen_.end; ++unit) add_units<1, kAllTaps, false>(frame, taps, unit);
  }

  // kAllTaps: every place has every tap. kWhole: every element reads an existing output column through every tap.
  template <int kUnits, bool kAllTaps, bool kWhole>
  SEGEXT_INLINE void add_units(Sum* frame, int taps, int64_t unit) const {
    for (int64_t v = 0; v < vectors_; ++v) {
      Vec<Sum> sum[kUnits];
      Sum* out = frame + (unit * vectors_ + v) * kN;
#pragma GCC unroll 4
      for (int k = 0; k < kUnits; ++k) sum[k] = load(out + k * vectors_ * kN);
      const int64_t element = unit * unit_ + v * kN;
      for (int t = 0; t < taps; ++t) {
        const Tap& tap = taps_[t];
        const Vec<Sum> weight = load(tap.weight + v * kN);
#pragma GCC unroll 4
        for (int k = 0; k < kUnits; ++k) {
          const Vec<Sum> more = sum[k] + load((kWhole ? tap.gradients : tap.edges) + element + k * unit_) * weight;
          if constexpr (kAllTaps && kWhole) {
            sum[k] = more;
          } else {
            auto counts = lane_numbers<Sum>() >= 0;
            if constexpr (!kAllTaps) counts &= load(tap.column->present + v * kN) != 0;
            if constexpr (!kWhole) counts &= lanes_inside(tap, element);
            sum[k] = counts ? more : sum[k];
          }
        }
      }
#pragma GCC unroll 4
      for (int k = 0; k < kUnits; ++k) store(out + k * vectors_ * kN, sum[k]);
    }
  }

  // Processes a block of units at a time: there is one pass over the block for each vector of a unit, and the block's
  // rows stay in the first-level cache between passes.
  void add_to_weight(const Sum* input, int taps) const {
    const int64_t block = larger(kScratchBytes / (kMostTaps * unit_ * static_cast<int64_t>(sizeof(Sum))), 1);
    for (int first = 0; first < taps; first += kMostTaps) {
      const int count = static_cast<int>(smaller(taps - first, kMostTaps));
      add_products<false>(first, count, input, {seen_.begin, whole_.begin});
      for (int64_t unit = whole_.begin; unit < whole_.end; unit += block) {
        add_products<true>(first, count, input, {unit, smaller(unit + block, whole_.end)});
      }
      add_products<false>(first, count, input, {whole_.end, seen_.end});
    }
  }

  static constexpr int kMostTaps = 8;  // taps whose sums are in registers at once

  template <bool kWhole>
  SEGEXT_INLINE void add_products(int first, int count, const Sum* input, Range units) const {
    if (units.empty()) return;
    if (count == kMostTaps) return add_products<kMostTaps, kWhole>(first, input, units);
    for (; count >= 4; first += 4, count -= 4) add_products<4, kWhole>(first, input, units);
    for (; count >= 2; first += 2, count -= 2) add_products<2, kWhole>(first, input, units);
    for (; count >= 1; ++first, --count) add_products<1, kWhole>(first, input, units);
  }

  template <int kTaps, bool kWhole>
  SEGEXT_INLINE void add_products(int first, const Sum* input, Range units) const {
    const Tap* taps = taps_ + first;
    for (int64_t v = 0; v < vectors_; ++v) {
      Vec<Sum> sum[kTaps];
      const Sum* gradients[kTaps];
#pragma GCC unroll 8
      for (int t = 0; t < kTaps; ++t) {
        sum[t] = load(taps[t].products + v * kN);
        gradients[t] = kWhole ? taps[t].gradients : taps[t].edges;
      }
      for (int64_t element = units.begin * unit_ + v * kN; element < units.end * unit_; element += unit_) {
        const Vec<Sum> value = load(input + element);
#pragma GCC unroll 8
        for (int t = 0; t < kTaps; ++t) {
          const Vec<Sum> more = sum[t] + load(gradients[t] + element) * value;
          if constexpr (kWhole) {
            sum[t] = more;
          } else {
            sum[t] = lanes_inside(taps[t], element) ? more : sum[t];
          }
        }
      }
#pragma GCC unroll 8
      for (int t = 0; t < kTaps; ++t) store(taps[t].products + v * kN, sum[t]);
    }
  }

  void add_to_bias(const Sum* gradients, Sum* bias) const {
    const int64_t depth = spread_.depth, elements = g_.output_width * depth;
    if (depth > 1) {
      for (int64_t e = 0; e < elements; e += depth) {
        for (int64_t c = 0; c < depth; ++c) bias[c] += gradients[e + c];
      }
      return;
    }
    Vec<Sum> sums{};
    for (int64_t e = 0; e < elements; e += kN) sums += load_up_to(gradients + e, elements - e);
    Sum sum = 0;
    for (int k = 0; k < kN; ++k) sum += sums[k];
    *bias += sum;
  }

  // Input row h is complete: writes its gradients, and clears its frames for another row.
  void finish_input(int64_t h) {
    if (out_.input == nullptr) return;
    const int64_t inputs = input_channels(g_), depth = ceil_div(spread_.depth, g_.multiplier);
    const int64_t step = g_.channels_last ? inputs : 1, count = g_.width * depth;
    Sum* sums = zeros(sum_buffer_, g_.width * spread_.depth);
    Raw* values = value_buffer_.reserve(count);
    for (int64_t k = 0; k < sources_; ++k) {
      fold(frame(k, h), sums + columns_.begin * spread_.depth);
      std::memset(sums + columns_.end * spread_.depth, 0, (g_.width - columns_.end) * spread_.depth * sizeof(Sum));
      std::memset(frame(k, h), 0, frame_pitch_ * sizeof(Sum));
      if (depth < spread_.depth) add_neighbours(sums, count);
      const int64_t source = group_ * sources_ + k;
      Raw* out = static_cast<Raw*>(out_.input) + sample_ * inputs * g_.height * g_.width + h * g_.width * step +
                 source * (g_.channels_last ? 1 : g_.height * g_.width);
      narrow_run<E>(sums, count, step == depth ? out : values);
      for (int64_t w = 0; step != depth && w < count; ++w) out[w * step] = values[w];
    }
  }

  // Sums the period of each column. May overwrite the frame.
  void fold(Sum* frame, Sum* sums) const {
    if (spread_.depth == 1) {
      fold_elements(frame, sums);
    } else {
      fold_pixels(frame, sums);
    }
  }

  void fold_elements(Sum* frame, Sum* sums) const {
    const int64_t columns = columns_.end - columns_.begin, in_unit = unit_ / spread_.period;
    int64_t period = spread_.period, pitch = vectors_ * kN;
    for (; pitch == in_unit * period && period % 2 == 0; period /= 2, pitch /= 2) {
      for (int64_t e = 0; e < columns * period; e += 2 * kN) {
        const Vec<Sum> pair[] = {load(frame + e), load(frame + e + kN)};
        store(frame + e / 2,
              deinterleave<2, 0>(pair, LaneSequence<Sum>{}) + deinterleave<2, 1>(pair, LaneSequence<Sum>{}));
      }
    }
    if (period == 1) {
      std::memcpy(sums, frame, columns * sizeof(Sum));
      return;
    }
    for (int64_t w = 0; w < columns; w += in_unit, frame += pitch) {
      for (int64_t k = 0; k < smaller(in_unit, columns - w); ++k) {
        Sum sum = 0;
        for (int64_t p = 0; p < period; ++p) sum += frame[k * period + p];
        sums[w + k] = sum;
      }
    }
  }

  // Stores whole vectors: what they write past a pixel is overwritten later or lies in the slack of the buffer.
  void fold_pixels(const Sum* frame, Sum* sums) const {
    const int64_t columns = columns_.end - columns_.begin, in_unit = unit_ / spread_.period;
    for (int64_t w = 0; w < columns; ++w, sums += spread_.depth) {
      const Sum* pixels = frame + w / in_unit * vectors_ * kN + w % in_unit * spread_.period;
      for (int64_t c = 0; c < spread_.depth; c += kN) {
        Vec<Sum> sum{};
        for (int64_t e = c; e < spread_.period; e += spread_.depth) sum += load(pixels + e);
        store(sums + c, sum);
      }
    }
  }

  // Sums over the output channels of each input channel, which are adjacent.
  void add_neighbours(Sum* sums, int64_t count) const {
    for (int64_t k = 0; k < count; ++k) {
      Sum sum = 0;
      for (int64_t m = 0; m < g_.multiplier; ++m) sum += sums[k * g_.multiplier + m];
      sums[k] = sum;
    }
  }

  // A part is complete: writes its weight gradients, and clears its slot for another part.
  void finish_weight(int64_t part) {
    if (out_.weight == nullptr) return;
    const int64_t taps = g_.kernel_h * g_.kernel_w;
    for (int64_t plane = 0; plane < planes_; ++plane) {
      Sum* out = weight_part(part) + channel(plane) * taps;
      for (int64_t i = 0; i < g_.kernel_h; ++i, out += g_.kernel_w) put_kernel_row(products(part, plane, i), out, taps);
    }
    std::memset(products(part, 0, 0), 0, part_products() * sizeof(Sum));
  }

  // Writes the gradients of a kernel row, from the places of its taps in the sums of each column of taps. Channels are
  // `pitch` elements apart in `out`.
  void put_kernel_row(const Sum* column, Sum* out, int64_t pitch) const {
    const int64_t column_pitch = vectors_ * kN;
    if (unit_ == spread_.period && g_.dilation_w == 1) {
      for (int64_t j = 0; j < g_.kernel_w; j += g_.stride_w, column += column_pitch) {
        transpose<8>(column, spread_.depth, smaller(g_.stride_w, g_.kernel_w - j), spread_.depth, out + j, pitch);
      }
      return;
    }
    for (int64_t j = 0, phase = 0; j < g_.kernel_w; ++j, ++out) {
      const Sum* place = column + phase * spread_.depth;
      for (int64_t c = 0; c < spread_.depth; ++c) {
        Sum sum = place[c];
        for (int64_t e = c + spread_.period; e < unit_; e += spread_.period) sum += place[e];
        out[c * pitch] = sum;
      }
      for (phase += g_.dilation_w; phase >= g_.stride_w; phase -= g_.stride_w) column += column_pitch;
    }
  }

  const UpsamplingGradients& out_;
  const Raw* input_;
  const GradientBands& bands_;
  const Upsampling& g_;
  const Spread& spread_;
  SpreadRows<E>& inputs_;
  const PhaseWeights<E>& weights_;
  const int64_t planes_;                    // of output
  const int64_t sources_;                   // planes of input
  const int64_t kept_;                      // most input rows that an output row reads
  const Range columns_;                     // input columns of the frame: those that an output column may read
  const int64_t unit_;                      // elements of a unit
  const int64_t vectors_;                   // vectors that a frame has for each unit
  const int64_t slots_;                     // most parts that an output row adds to
  Range seen_{};                            // units in which any element reads an existing output column
  Range whole_{};                           // units whose vectors read only existing output columns, through every tap
  int64_t left_edge_ = 0, right_edge_ = 0;  // elements at either end of an output row that units outside whole_ read
  int64_t margin_ = 0;  // before and after a row of gradients: read by taps that point past its ends
  int64_t strip_ = 0;   // rows of gradients held at a time
  int64_t row_pitch_ = 0, frame_pitch_ = 0;
  int64_t sample_ = 0, group_ = 0;
  int64_t filled_ = 0;
  Range owned_{};               // input rows of the bands being processed
  Sum* rows_ = nullptr;         // [planes, strip, row_pitch]
  Sum* frames_ = nullptr;       // [sources, kept, frame_pitch]
  Sum* products_ = nullptr;     // [slots, planes, kernel_h, taps_w, vectors]
  const Sum** read_ = nullptr;  // [planes, strip]: where the rows are read from
  TapColumn* tap_columns_ = nullptr;
  Tap* taps_ = nullptr;
  Buffer<Sum> row_buffer_, frame_buffer_, product_buffer_, sum_buffer_;
  Buffer<Raw> value_buffer_;
  Buffer<const Sum*> read_buffer_;
  Buffer<TapColumn> column_buffer_;
  Buffer<Tap> tap_buffer_;
};

}  // namespace segext::SEGEXT_CPU_CAPABILITY
