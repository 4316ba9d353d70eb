// The pybind11 module segext._C: information about the build and the processor that no op provides. No tensors.
#include <pybind11/pybind11.h>

#include "kernels/cpu/capability.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, module) {
  module.doc() = "Facts about how segext was built and what it runs on.";
  module.def("cpu_capability", &segext::cpu_capability_name,
             "Instruction set the CPU kernels run at: 'baseline', 'avx2' or 'avx512'. The environment variable "
             "SEGEXT_CPU_CAPABILITY lowers it.");
  module.def(
      "build_info",
      [] {
        py::dict info;
        info["torch"] = SEGEXT_BUILD_TORCH;
        info["compiler"] = __VERSION__;
        info["cuda"] = SEGEXT_BUILD_CUDA;
        info["cuda_archs"] = SEGEXT_BUILD_CUDA_ARCHS;
        return info;
      },
      "The torch and compilers segext was built with; 'cuda' and 'cuda_archs' are empty in a build without CUDA.");
}
