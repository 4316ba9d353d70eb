// Cross-entropy of upsampled scores, and its gradients. Scores are never stored for more than a vector of columns. A
// softmax needs the largest score first, so the losses put the scores of all classes at these columns into scratch that
// stays in the first-level cache. The gradients know the largest score from the pixel's normalizer, and so use each
// score as soon as it is computed.
#include "../depthwise_cross_entropy.h"

#include "adjoint_rows.h"
#include "exponential.h"
#include "score_rows.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

// A sum of many values of any floating type, accumulated in float64.
template <class Sum>
class Total {
  static constexpr int kDoubles = kLanes<double>;

 public:
  SEGEXT_INLINE void add(Vec<Sum> values) {
    Vec<Sum, kDoubles> part;
    for (int k = 0; k < kLanes<Sum>; k += kDoubles) {
      std::memcpy(&part, reinterpret_cast<const char*>(&values) + k * sizeof(Sum), sizeof(part));
      sum_ += __builtin_convertvector(part, Vec<double>);
    }
  }
  double value() const {
    double total = 0;
    for (int k = 0; k < kDoubles; ++k) total += sum_[k];
    return total;
  }

 private:
  Vec<double> sum_{};
};

// The weight of each class, 1 unless weights are given.
template <class Sum>
class ClassWeights {
 public:
  ClassWeights(const CrossEntropy& criterion, int64_t classes)
      : given_(static_cast<const Sum*>(criterion.class_weight)) {
    for (int64_t c = 0; c < classes; ++c) sum_ += (*this)[c];
  }

  SEGEXT_INLINE Sum operator[](int64_t c) const { return given_ == nullptr ? 1 : given_[c]; }
  Sum sum() const { return sum_; }

 private:
  const Sum* const given_;  // or null
  Sum sum_ = 0;
};

// The targets of a row of pixels: a label per column and the weight of its class. Where a pixel does not count, its
// label is -1 and its weight 0.
template <class Sum>
class LabelRow {
 public:
  LabelRow(const Upsampling& g, ClassWeights<Sum> class_weights)
      : classes_(g.channels),
        width_(g.output_width),
        class_weights_(class_weights),
        labels_(label_buffer_.reserve(width_ + kLanes<Sum>)),
        weights_(weight_buffer_.reserve(width_ + kLanes<Sum>)) {
    for (int64_t x = width_; x < width_ + kLanes<Sum>; ++x) put(x, -1);
  }

  // Reads a row of targets. Returns the first column whose target is neither `ignored` nor a class, or -1 if none is.
  int64_t read(const int64_t* target, int64_t ignored) {
    int64_t invalid = -1;
    for (int64_t x = 0; x < width_; ++x) {
      const int64_t t = target[x];
      const bool is_class = t >= 0 && t < classes_;
      put(x, is_class && t != ignored ? t : -1);
      if (invalid < 0 && !is_class && t != ignored) invalid = x;
    }
    return invalid;
  }

  // Reads a row of labels that `keep` stored. Whatever else they hold counts as no label.
  template <class Label>
  void read(const Label* labels) {
    for (int64_t x = 0; x < width_; ++x) {
      const int64_t label = labels[x];
      put(x, labels[x] != kNoLabel<Label> && label >= 0 && label < classes_ ? label : -1);
    }
  }

  template <class Label>
  void keep(Label* labels) const {
    for (int64_t x = 0; x < width_; ++x) labels[x] = static_cast<Label>(labels_[x]);
  }

  SEGEXT_INLINE Vec<Int<Sum>> labels(int64_t x) const { return load(labels_ + x); }
  SEGEXT_INLINE Vec<Sum> weights(int64_t x) const { return load(weights_ + x); }

 private:
  SEGEXT_INLINE void put(int64_t x, int64_t label) {
    labels_[x] = static_cast<Int<Sum>>(label);
    weights_[x] = label < 0 ? 0 : class_weights_[label];
  }

  const int64_t classes_, width_;
  const ClassWeights<Sum> class_weights_;
  Buffer<Int<Sum>> label_buffer_;
  Buffer<Sum> weight_buffer_;
  Int<Sum>* labels_;
  Sum* weights_;
};

// Stores the normalizers of the first `count` pixels of a vector: the lanes inside the row.
template <class Sum>
SEGEXT_INLINE void store_normalizers(Sum* out, Vec<Sum> largest, Vec<Sum> scale, int64_t count) {
  const Vec<Sum> both[] = {largest, scale};
  const int64_t first = smaller(2 * count, kLanes<Sum>);
  store_partial(out, interleave<2, 0>(both, LaneSequence<Sum>{}), first);
  store_partial(out + kLanes<Sum>, interleave<2, 1>(both, LaneSequence<Sum>{}), 2 * count - first);
}

template <class Sum>
SEGEXT_INLINE void load_normalizers(const Sum* normalizers, int64_t count, Vec<Sum>* largest, Vec<Sum>* scale) {
  const Vec<Sum> both[] = {load_up_to(normalizers, 2 * count),
                           load_up_to(normalizers + kLanes<Sum>, 2 * count - kLanes<Sum>)};
  *largest = deinterleave<2, 0>(both, LaneSequence<Sum>{});
  *scale = deinterleave<2, 1>(both, LaneSequence<Sum>{});
}

template <class E>
class Losses {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;
  static constexpr int kN = kLanes<Sum>;

 public:
  explicit Losses(const DepthwiseCrossEntropyParams& params)
      : p_(params),
        g_(params.scores.geometry),
        scores_(params.scores),
        class_weights_(params.criterion, g_.channels),
        labels_(g_, class_weights_),
        values_(buffer_.reserve(g_.channels * kN)) {}

  // Computes rows [begin, end) of the losses, counted over all samples.
  void run(int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t first = r * g_.output_width;
      scores_.seek(r / g_.output_height, r % g_.output_height);
      const int64_t invalid = labels_.read(p_.target + first, p_.ignored);
      Total<Sum> loss, weight;
      Sum* losses = p_.losses == nullptr ? nullptr : static_cast<Sum*>(p_.losses) + first;
      scores_.for_each_vector([&](int64_t x, auto score) {
        const Vec<Sum> values =
            p_.criterion.smoothing > 0 ? vector<true>(first, x, score) : vector<false>(first, x, score);
        if (losses != nullptr) store_partial(losses + x, values, smaller(g_.output_width - x, kN));
        loss.add(values);
        weight.add(labels_.weights(x));
      });
      p_.rows[r] = {loss.value(), weight.value(), invalid};
      if (p_.labels == nullptr) continue;
      with_labels(g_.channels, [&](auto label) { labels_.keep(static_cast<decltype(label)*>(p_.labels) + first); });
    }
  }

 private:
  // The losses of a vector of pixels from column x on, in the row whose first pixel is number `first`. Zero where a
  // pixel does not count, and in lanes beyond the row.
  template <bool kSmooths, class Score>
  SEGEXT_INLINE Vec<Sum> vector(int64_t first, int64_t x, Score&& score) {
    const Vec<Sum> largest = take(score), weights = labels_.weights(x);
    const Vec<Int<Sum>> labels = labels_.labels(x);
    Vec<Sum> sum{}, below_all{};
    for (int64_t c = 0; c < g_.channels; ++c) {
      const Vec<Sum> below = load(values_ + c * kN) - largest;
      sum += exponential(below);
      if constexpr (kSmooths) below_all += below * class_weights_[c];
    }
    // Not (largest + log) - score: if the largest score is large, adding the logarithm to it would round it away.
    const Vec<Sum> log = logarithm(sum);
    Vec<Sum> loss = weights * (log - (pick(labels) - largest)), share = weights;
    if constexpr (kSmooths) {
      const Sum s = static_cast<Sum>(p_.criterion.smoothing), each = s / static_cast<Sum>(g_.channels);
      loss = (1 - s) * loss + each * (class_weights_.sum() * log - below_all);
      share = labels < 0 ? Vec<Sum>{} : (1 - s) * weights + each * class_weights_.sum();
    }
    if (p_.normalizers != nullptr) [[unlikely]] {  // off the main path: else losses alone would be slower
      Sum* normalizers = static_cast<Sum*>(p_.normalizers) + 2 * (first + x);
      store_normalizers(normalizers, largest, share / sum, smaller(g_.output_width - x, kN));
    }
    return labels < 0 ? Vec<Sum>{} : loss;
  }

  // Stores the scores of all classes at a vector of pixels in `values_` and returns the largest. This may be a number
  // although a score is NaN; but the stored NaN makes the sum of exponentials, and with it the loss, NaN.
  template <class Score>
  SEGEXT_INLINE Vec<Sum> take(Score&& score) {
    Vec<Sum> largest = score(0);
    store(values_, largest);
    for (int64_t c = 1; c < g_.channels; ++c) {
      const Vec<Sum> value = score(c);
      store(values_ + c * kN, value);
      largest = value > largest ? value : largest;
    }
    return largest;
  }

  // The score of each lane's target class; that of class 0 in lanes without a target.
  SEGEXT_INLINE Vec<Sum> pick(Vec<Int<Sum>> labels) const {
    Sum picked[kN];
    for (int k = 0; k < kN; ++k) picked[k] = values_[(labels[k] < 0 ? 0 : labels[k]) * kN + k];
    return load(picked);
  }

  const DepthwiseCrossEntropyParams& p_;
  const Upsampling& g_;
  ScoreRows<E> scores_;
  const ClassWeights<Sum> class_weights_;
  LabelRow<Sum> labels_;
  Buffer<Sum> buffer_;
  Sum* values_;  // [channels, kN]
};

template <class E>
class LossGradients {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;
  static constexpr int kN = kLanes<Sum>;

 public:
  explicit LossGradients(const DepthwiseCrossEntropyBackwardParams& params)
      : p_(params),
        g_(params.scores.geometry),
        scores_(params.scores),
        class_weights_(params.criterion, g_.channels),
        labels_(g_, class_weights_),
        bands_(g_, true),
        gradients_(params.gradients, params.scores.input, bands_, g_, scores_.spread(), g_.channels, scores_.inputs(),
                   scores_.weights()) {}

  // Computes the input's gradients in bands [begin, end), counted over all samples, and these bands' parts of the
  // gradients of weights and bias.
  void run(int64_t begin, int64_t end) {
    gradients_.run(begin, end, [&](int64_t sample, int64_t, int64_t y) {
      scores_.seek(sample, y);
      const int64_t first = (sample * g_.output_height + y) * g_.output_width;
      with_labels(g_.channels,
                  [&](auto label) { labels_.read(static_cast<const decltype(label)*>(p_.labels) + first); });
      scores_.for_each_vector([&](int64_t x, auto score) {
        if (p_.criterion.smoothing > 0) {
          vector<true>(first, x, score);
        } else {
          vector<false>(first, x, score);
        }
      });
    });
  }

 private:
  // Stores the gradients by the scores of a vector of pixels from column x on, in the row whose first pixel is number
  // `first`. With the symbols of the contract (../depthwise_cross_entropy.h), and g the gradient of a pixel's loss, its
  // gradient by score c is
  //   g * ((1 - s) * w[t] * (p[c] - [c = t])  +  s / K * (p[c] * sum of w - w[c]))
  template <bool kSmooths, class Score>
  SEGEXT_INLINE void vector(int64_t first, int64_t x, Score&& score) {
    Vec<Sum> largest, scale;
    const Sum* normalizers = static_cast<const Sum*>(p_.normalizers) + 2 * (first + x);
    load_normalizers(normalizers, g_.output_width - x, &largest, &scale);
    const Vec<Int<Sum>> labels = labels_.labels(x);
    const Vec<Sum> grad = labels < 0 ? Vec<Sum>{} : grad_loss(first, x);
    Vec<Sum> target = grad * labels_.weights(x), each{};
    scale *= grad;
    if constexpr (kSmooths) {
      const Sum s = static_cast<Sum>(p_.criterion.smoothing);
      target *= 1 - s;
      each = grad * (s / static_cast<Sum>(g_.channels));
    }
    for (int64_t c = 0; c < g_.channels; ++c) {
      Vec<Sum> gradient = exponential(score(c) - largest) * scale;
      if constexpr (kSmooths) gradient -= each * class_weights_[c];
      store(gradients_.row(c) + x, gradient);
    }
    for (int k = 0; k < kN; ++k) {
      if (labels[k] >= 0) gradients_.row(labels[k])[x + k] -= target[k];
    }
  }

  SEGEXT_INLINE Vec<Sum> grad_loss(int64_t first, int64_t x) const {
    const Sum* grad = static_cast<const Sum*>(p_.grad_loss);
    if (p_.one_value) return broadcast(*grad);
    return load_partial(grad + first + x, smaller(g_.output_width - x, kN));
  }

  const DepthwiseCrossEntropyBackwardParams& p_;
  const Upsampling& g_;
  ScoreRows<E> scores_;
  const ClassWeights<Sum> class_weights_;
  LabelRow<Sum> labels_;
  const GradientBands bands_;
  AdjointRows<E> gradients_;
};

}  // namespace

void depthwise_cross_entropy(const DepthwiseCrossEntropyParams& params, int64_t begin, int64_t end) {
  with_floating_element(params.scores.type, [&](auto element) { Losses<decltype(element)>(params).run(begin, end); });
}

void depthwise_cross_entropy_backward(const DepthwiseCrossEntropyBackwardParams& params, int64_t begin, int64_t end) {
  with_floating_element(params.scores.type,
                        [&](auto element) { LossGradients<decltype(element)>(params).run(begin, end); });
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
