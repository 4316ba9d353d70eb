// Labels one image with a network that AOTInductor compiled, without Python: loads segext's op library and the package,
// reads the image from a file that torch.save wrote, and writes the label map to one that torch.load reads.
#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// The library's ops enter torch's dispatcher as it is loaded; the package finds them there by name.
void load_ops(const char* path) {
  if (dlopen(path, RTLD_NOW) == nullptr) {
    throw std::runtime_error(dlerror());
  }
}

at::Tensor read_tensor(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw std::runtime_error(std::string("cannot read ") + path);
  }
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  return torch::jit::pickle_load(bytes).toTensor();
}

void write_tensor(const char* path, const at::Tensor& tensor) {
  const std::vector<char> bytes = torch::jit::pickle_save(tensor);
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file.flush()) {
    throw std::runtime_error(std::string("cannot write ") + path);
  }
}

// Of (1, H, W) labels, how many pixels each class has.
void print_shares(const at::Tensor& labels) {
  const at::Tensor counts = labels.flatten().to(at::kLong).bincount();
  for (int64_t label = 0; label < counts.numel(); ++label) {
    if (const int64_t pixels = counts[label].item<int64_t>(); pixels > 0) {
      std::printf("class %3lld: %5.1f%%\n", static_cast<long long>(label), 100.0 * pixels / labels.numel());
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: %s segext/_ops.so model.pt2 image.pt labels.pt\n", argv[0]);
    return 2;
  }
  try {
    load_ops(argv[1]);
    torch::inductor::AOTIModelPackageLoader network(argv[2]);
    const c10::InferenceMode no_gradients;
    const at::Tensor labels = network.run({read_tensor(argv[3])}).at(0);
    write_tensor(argv[4], labels);
    print_shares(labels);
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "%s\n", error.what_without_backtrace());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
