// Packs the weights of 3x3 convolutions into panels, and unpacks them.
#include "panel_kernels.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

// Calls f(kernels, their place in the panel) for each of channels [begin, end) and each panel.
template <class Params, class F>
void for_each_panel(const Params& params, int64_t begin, int64_t end, F&& f) {
  with_floating_element(params.type, [&](auto element) {
    using E = decltype(element);
    using Panels = std::remove_pointer_t<decltype(params.panels)>;
    auto* panels = static_cast<LikeConst<Panels, SumOf<E>>*>(params.panels);
    for (int64_t c = begin; c < end; ++c) {
      for (int64_t panel = 0; panel < panels_of(params.outputs); ++panel) {
        f(PanelKernels<E, decltype(params.weight)>(params.weight, params.outputs, c, panel),
          panels + (panel * params.channels + c) * kPanelTaps * kPanel);
      }
    }
  });
}

}  // namespace

void pack_weight_panels(const PackWeightPanelsParams& params, int64_t begin, int64_t end) {
  for_each_panel(params, begin, end, [](const auto& kernels, auto* panel) { kernels.pack(panel); });
}

void unpack_weight_panels(const UnpackWeightPanelsParams& params, int64_t begin, int64_t end) {
  for_each_panel(params, begin, end, [](const auto& kernels, const auto* panel) { kernels.unpack(panel); });
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
