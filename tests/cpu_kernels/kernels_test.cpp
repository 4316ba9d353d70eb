// Runs the CPU kernels, at the level that SEGEXT_CPU_CAPABILITY selects, on the cases of tests/kernel_cases and of ops
// that only the CPU has.
//
//   kernels_test whole|split [share] [part]
//   kernels_test BUG
//
// The first argument says how units of work are divided (cpu_backend.h). With `share`, only every share-th case runs,
// starting with case `part`. BUG is one of those planted below, each of which must stop the program.
//
// Arrays are heap blocks of exactly their size, so that AddressSanitizer catches an access one byte past the end; what
// is not written keeps its garbage, which the comparison finds. The first mismatch ends the program.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "cases.h"
#include "cpu/capability.h"
#include "cpu_backend.h"
#include "cpu_cases.h"

namespace {

using namespace kernel_cases;  // NOLINT: a test's main file

// Pools a map with arrays that are too short by so many bytes.
void pool_too_short(int64_t input_bytes, int64_t output_bytes, int64_t code_bytes) {
  const PoolGeometry g = geometry_of({1, 3, 8, 64, square(2, 2)}, false);
  const Array input(map_count(g) * 4 - input_bytes, 1, false), output(pooled_count(g) * 4 - output_bytes, 1, false),
      codes(g.sample_bytes - code_bytes, 1, false);
  std::memset(input.data(), 0, input.size());
  backend::max_pool2d({input.data(), output.data(), codes.bytes(), g, ElementType::kFloat32, false}, "a planted bug");
}

// Counts units beyond what an int64_t numbers.
void overflow() {
  const int64_t first = std::numeric_limits<int64_t>::max() / kExtremesPart + 1;
  const Array values(1, 8, false), parts(2, 8, false);
  extremes_cpu({values.int64s(), 0, 0, parts.int64s()}, first, first + 1);
}

void skip_unit() {
  backend::skip_last_unit();
  Tester tester(1, 0);
  test_all(&tester);
}

struct Bug {
  const char* name;
  void (*run)();
};

constexpr Bug kBugs[] = {
    {"short-input", [] { pool_too_short(1, 0, 0); }},
    {"short-output", [] { pool_too_short(0, 1, 0); }},
    {"short-codes", [] { pool_too_short(0, 0, 1); }},
    {"overflow", overflow},
    {"skipped-unit", skip_unit},
};

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "whole";
  for (const Bug& bug : kBugs) {
    if (mode != bug.name) continue;
    bug.run();
    return 0;
  }
  if (mode != "whole" && mode != "split") {
    std::fprintf(stderr, "%s is neither a division nor a bug\n", mode.c_str());
    return 2;
  }
  backend::divide(mode == "split" ? backend::Division::kSplit : backend::Division::kWhole);
  Tester tester(argc > 2 ? std::atoll(argv[2]) : 1, argc > 3 ? std::atoll(argv[3]) : 0);
  test_all(&tester);
  test_dense_conv_transpose2d(&tester);
  test_unpool_conv2d_backward(&tester);
  std::printf("%ld cases at %s\n", tester.cases(), cpu_capability_name());
  return 0;
}
