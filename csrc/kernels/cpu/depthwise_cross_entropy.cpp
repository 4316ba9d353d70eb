// Cross-entropy of upsampled scores and its gradients. Scores of a few columns, of all classes, are made into scratch
// that stays in the first-level cache, and become a loss or a gradient there: they are never written to memory.
#include "../depthwise_cross_entropy.h"

#include "adjoint_rows.h"
#include "exponential.h"
#include "score_rows.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

// A sum of many values, whatever their type, in float64.
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

// What a row of pixels is compared with: a label per column, -1 where it does not count, and the weight of its class.
template <class Sum>
class TargetRow {
 public:
  TargetRow(const CrossEntropy& criterion, const Upsampling& g)
      : criterion_(criterion),
        g_(g),
        labels_(label_buffer_.reserve(g.output_width + kLanes<Sum>)),
        weights_(weight_buffer_.reserve(g.output_width + kLanes<Sum>)) {}

  // Reads row `row` of the targets of all samples. Returns the first column of which it is neither ignored nor a class,
  // or -1.
  int64_t read(int64_t row) {
    const int64_t* target = criterion_.target + row * g_.output_width;
    const Sum* class_weight = static_cast<const Sum*>(criterion_.class_weight);
    int64_t invalid = -1;
    for (int64_t x = 0; x < g_.output_width; ++x) {
      const int64_t t = target[x];
      const bool is_class = t >= 0 && t < g_.channels, counts = is_class && t != criterion_.ignored;
      labels_[x] = counts ? static_cast<Int<Sum>>(t) : -1;
      weights_[x] = !counts ? 0 : class_weight == nullptr ? 1 : class_weight[t];
      if (invalid < 0 && !is_class && t != criterion_.ignored) invalid = x;
    }
    for (int k = 0; k < kLanes<Sum>; ++k) {
      labels_[g_.output_width + k] = -1;
      weights_[g_.output_width + k] = 0;
    }
    return invalid;
  }

  SEGEXT_INLINE Vec<Int<Sum>> labels(int64_t x) const { return load(labels_ + x); }
  SEGEXT_INLINE Vec<Sum> weights(int64_t x) const { return load(weights_ + x); }

 private:
  const CrossEntropy& criterion_;
  const Upsampling& g_;
  Buffer<Int<Sum>> label_buffer_;
  Buffer<Sum> weight_buffer_;
  Int<Sum>* labels_;
  Sum* weights_;
};

// Scores of all classes at a vector of pixels, turned into the exponentials of a softmax in their place.
template <class E>
class Softmax {
  using Sum = SumOf<E>;
  static constexpr int kN = kLanes<Sum>;

 public:
  Softmax(const CrossEntropy& criterion, int64_t classes)
      : classes_(classes), values_(buffer_.reserve(classes * kN)), class_weights_(weights_.reserve(classes)) {
    for (int64_t c = 0; c < classes; ++c) {
      const Sum* given = static_cast<const Sum*>(criterion.class_weight);
      class_weights_[c] = given == nullptr ? 1 : given[c];
      weight_ += class_weights_[c];
    }
  }

  // Takes the scores and returns the largest; a NaN may stay behind, and makes all that follows NaN.
  template <class Score>
  SEGEXT_INLINE Vec<Sum> take(Score&& score) {
    Vec<Sum> largest = score(0);
    store(values_, largest);
    for (int64_t c = 1; c < classes_; ++c) {
      const Vec<Sum> value = score(c);
      store(values_ + c * kN, value);
      largest = value > largest ? value : largest;
    }
    return largest;
  }

  // The score, or what has become of it, of each lane's class.
  SEGEXT_INLINE Vec<Sum> pick(Vec<Int<Sum>> labels) const {
    Sum picked[kN];
    for (int k = 0; k < kN; ++k) picked[k] = values_[(labels[k] < 0 ? 0 : labels[k]) * kN + k];
    return load(picked);
  }

  SEGEXT_INLINE Vec<Sum> at(int64_t c) const { return load(values_ + c * kN); }
  SEGEXT_INLINE void set(int64_t c, Vec<Sum> value) { store(values_ + c * kN, value); }

  int64_t classes() const { return classes_; }
  Sum weight(int64_t c) const { return class_weights_[c]; }
  Sum weight() const { return weight_; }  // of all classes

 private:
  const int64_t classes_;
  Sum weight_ = 0;
  Buffer<Sum> buffer_, weights_;
  Sum* values_;
  Sum* class_weights_;
};

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
        targets_(params.criterion, g_),
        softmax_(params.criterion, g_.channels) {}

  // Rows [begin, end) of the losses of all samples.
  void run(int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      scores_.seek(r / g_.output_height, r % g_.output_height);
      const int64_t invalid = targets_.read(r);
      Total<Sum> loss, weight;
      Sum* losses = p_.losses == nullptr ? nullptr : static_cast<Sum*>(p_.losses) + r * g_.output_width;
      scores_.for_each_vector([&](int64_t x, auto score) {
        const Vec<Sum> values = p_.criterion.smoothing > 0 ? vector<true>(x, score) : vector<false>(x, score);
        if (losses != nullptr) store_partial(losses + x, values, smaller(g_.output_width - x, kN));
        loss.add(values);
        weight.add(targets_.weights(x));
      });
      p_.rows[r] = {loss.value(), weight.value(), invalid};
    }
  }

 private:
  // The losses from column x on; zero in lanes beyond the row.
  template <bool kSmooths, class Score>
  SEGEXT_INLINE Vec<Sum> vector(int64_t x, Score&& score) {
    const Vec<Sum> largest = softmax_.take(score);
    const Vec<Int<Sum>> labels = targets_.labels(x);
    Vec<Sum> sum{}, below_all{};
    for (int64_t c = 0; c < g_.channels; ++c) {
      const Vec<Sum> below = softmax_.at(c) - largest;
      sum += exponential(below);
      if constexpr (kSmooths) below_all += below * softmax_.weight(c);
    }
    // Not (largest + log) - score: of large scores, the sum would lose the logarithm.
    const Vec<Sum> log = logarithm(sum);
    Vec<Sum> loss = targets_.weights(x) * (log - (softmax_.pick(labels) - largest));
    if constexpr (kSmooths) {
      const Sum s = static_cast<Sum>(p_.criterion.smoothing), each = s / static_cast<Sum>(g_.channels);
      loss = (1 - s) * loss + each * (softmax_.weight() * log - below_all);
    }
    return labels < 0 ? Vec<Sum>{} : loss;
  }

  const DepthwiseCrossEntropyParams& p_;
  const Upsampling& g_;
  ScoreRows<E> scores_;
  TargetRow<Sum> targets_;
  Softmax<E> softmax_;
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
        targets_(params.criterion, g_),
        softmax_(params.criterion, g_.channels),
        bands_(g_, true),
        gradients_(params.gradients, params.scores.input, bands_, g_, scores_.spread(), g_.channels, scores_.inputs(),
                   scores_.weights()) {}

  // What the bands [begin, end) of all samples get, and their parts of what weights and bias get.
  void run(int64_t begin, int64_t end) {
    gradients_.run(begin, end, [&](int64_t sample, int64_t, int64_t y) {
      scores_.seek(sample, y);
      const int64_t r = sample * g_.output_height + y;
      targets_.read(r);
      scores_.for_each_vector([&](int64_t x, auto score) {
        if (p_.criterion.smoothing > 0) {
          vector<true>(r, x, score);
        } else {
          vector<false>(r, x, score);
        }
      });
    });
  }

 private:
  // A pixel's gradient by score c, with its symbols as in the contract and g that of its loss:
  //   g * ((1 - s) * w[t] * (p[c] - [c = t])  +  s / K * (p[c] * sum of w - w[c]))
  template <bool kSmooths, class Score>
  SEGEXT_INLINE void vector(int64_t r, int64_t x, Score&& score) {
    const Vec<Sum> largest = softmax_.take(score);
    const Vec<Int<Sum>> labels = targets_.labels(x);
    Vec<Sum> sum{};
    for (int64_t c = 0; c < g_.channels; ++c) {
      const Vec<Sum> power = exponential(softmax_.at(c) - largest);
      softmax_.set(c, power);
      sum += power;
    }
    const Vec<Sum> grad = labels < 0 ? Vec<Sum>{} : grad_loss(r, x);
    Vec<Sum> target = grad * targets_.weights(x), each{}, all = target;
    if constexpr (kSmooths) {
      const Sum s = static_cast<Sum>(p_.criterion.smoothing);
      target *= 1 - s;
      each = grad * (s / static_cast<Sum>(g_.channels));
      all = target + each * softmax_.weight();
    }
    const Vec<Sum> scale = all / sum;
    for (int64_t c = 0; c < g_.channels; ++c) {
      Vec<Sum> gradient = softmax_.at(c) * scale;
      if constexpr (kSmooths) gradient -= each * softmax_.weight(c);
      store(gradients_.row(c) + x, gradient);
    }
    for (int k = 0; k < kN; ++k) {
      if (labels[k] >= 0) gradients_.row(labels[k])[x + k] -= target[k];
    }
  }

  SEGEXT_INLINE Vec<Sum> grad_loss(int64_t r, int64_t x) const {
    const Sum* grad = static_cast<const Sum*>(p_.grad_loss);
    if (p_.one_value) return broadcast(*grad);
    return load_partial(grad + r * g_.output_width + x, smaller(g_.output_width - x, kN));
  }

  const DepthwiseCrossEntropyBackwardParams& p_;
  const Upsampling& g_;
  ScoreRows<E> scores_;
  TargetRow<Sum> targets_;
  Softmax<E> softmax_;
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
