// What the cases of upsampling, of its gradients and of the losses made from it have in common.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tester.h"

namespace kernel_cases {

std::vector<Upsample> upsamplings();
std::vector<Upsample> deep_upsamplings();
std::vector<Upsample> upsamplings_with_gradients();
std::vector<Upsample> upsamplings_of_each_kind(int64_t channels);

// Which gradients a case asks for; with kSome, chance decides.
enum class Wanted : uint8_t { kInput, kSome, kAll };

// Kernels so large that their gradients take long: the emulation has one block per weight.
inline bool is_slow(const Upsampling& g) { return g.channels * g.kernel_h * g.kernel_w > 8192; }

// `special`: NaN and infinities in the input. `addend_origin`: where the addend is read from; negative for no addend.
// `shifts`: some arrays are aligned only for an element; those of weights may be so in other cases too.
void upsample(Tester* tester, const Upsampling& g, ElementType type, bool has_bias, int64_t addend_origin, bool special,
              bool shifts, bool may_shift_weight = true);

// `special`: infinities here and there in the output's gradient, the weights or the input.
void upsample_backward(Tester* tester, const Upsampling& g, ElementType type, bool special, Wanted wanted);

// Allocates the gradients of an upsampling that are wanted. `run` computes them, and their expected values.
void test_gradients_of(Tester* tester, const Upsampling& g, ElementType type, Wanted wanted, const GradientParts& parts,
                       UpsamplingGradients* out, const std::string& what,
                       const std::function<void(double* input, double* weight, double* bias)>& run);

}  // namespace kernel_cases
