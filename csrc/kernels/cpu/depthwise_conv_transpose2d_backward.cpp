// Gradients of upsampling without mixing channels. A thread reads each row of the output's gradient that its bands need
// once; half types are widened into scratch memory. The sums for the input, weights and bias are accumulated in cache.
#include "../depthwise_conv_transpose2d_backward.h"

#include "adjoint_rows.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

// Processes the planes of a group together: in NCHW, the output channels made from one input channel; in channels_last,
// a single plane, which is a sample with all its channels.
template <class E>
class UpsamplingAdjoint {
  using Raw = typename E::Raw;

 public:
  explicit UpsamplingAdjoint(const DepthwiseConvTranspose2dBackwardParams& params)
      : p_(params),
        g_(params.operands.geometry),
        planes_(g_.channels_last ? 1 : g_.multiplier),
        spread_(g_, g_.channels_last ? g_.channels : 1),
        inputs_(g_, spread_, planes_),
        weights_(g_, spread_, planes_),
        bands_(g_, g_.channels_last),
        gradients_(params.gradients, params.operands.input, bands_, g_, spread_, planes_, inputs_, weights_) {}

  // Computes the input's gradients in bands [begin, end), and these bands' parts of the gradients of weights and bias.
  void run(int64_t begin, int64_t end) {
    gradients_.run(begin, end, [&](int64_t sample, int64_t group, int64_t y) {
      if (packed_ != group) pack(group);
      const int64_t elements = g_.output_width * spread_.depth, plane = (sample * bands_.groups + group) * planes_;
      const Raw* grad = static_cast<const Raw*>(p_.grad_output) + (plane * g_.output_height + y) * elements;
      for (int64_t k = 0; k < planes_; ++k) {
        const Raw* row = grad + k * g_.output_height * elements;
        if constexpr (std::is_same_v<Raw, SumOf<E>>) {
          gradients_.read_from(row, k);
        } else {
          widen_run<E>(row, elements, gradients_.row(k));
        }
      }
    });
  }

 private:
  void pack(int64_t group) {
    packed_ = group;
    for (int64_t k = 0; k < planes_; ++k) {
      weights_.pack(k, static_cast<const Raw*>(p_.operands.weight), nullptr, (group * planes_ + k) * spread_.depth);
    }
  }

  const DepthwiseConvTranspose2dBackwardParams& p_;
  const Upsampling& g_;
  const int64_t planes_;
  const Spread spread_;
  SpreadRows<E> inputs_;
  PhaseWeights<E> weights_;
  const GradientBands bands_;
  AdjointRows<E> gradients_;
  int64_t packed_ = -1;  // the group whose weights are packed
};

template <class E>
void add_parts(const SumPartsParams& p, int64_t begin, int64_t end) {
  using Sum = SumOf<E>;
  for (int64_t first = begin * kSumsTogether; first < smaller(end * kSumsTogether, p.size); first += kSumsTogether) {
    const int64_t count = smaller(kSumsTogether, p.size - first);
    const Sum* part = static_cast<const Sum*>(p.parts) + first;
    double totals[kSumsTogether] = {};
    for (int64_t k = 0; k < p.count; ++k, part += p.size) {
      for (int64_t e = 0; e < count; ++e) totals[e] += part[e];
    }
    Sum sums[kSumsTogether];
    for (int64_t e = 0; e < count; ++e) sums[e] = static_cast<Sum>(totals[e]);
    narrow_run<E>(sums, count, static_cast<typename E::Raw*>(p.total) + first);
  }
}

}  // namespace

void depthwise_conv_transpose2d_backward(const DepthwiseConvTranspose2dBackwardParams& params, int64_t begin,
                                         int64_t end) {
  with_floating_element(params.operands.type,
                        [&](auto element) { UpsamplingAdjoint<decltype(element)>(params).run(begin, end); });
}

void sum_parts(const SumPartsParams& params, int64_t begin, int64_t end) {
  with_floating_element(params.type, [&](auto element) { add_parts<decltype(element)>(params, begin, end); });
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
