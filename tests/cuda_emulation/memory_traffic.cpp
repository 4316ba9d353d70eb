// Answers the calls of code that was compiled with -fsanitize=thread. This file itself must not be.
#include "memory_traffic.h"

#include <algorithm>
#include <array>
#include <set>
#include <tuple>
#include <vector>

#include "cuda_emulation.h"

extern char __data_start, _end;  // of the program's variables, of which some are shared memory

namespace memory_traffic {
namespace {

constexpr const char* kShared = "shared";
constexpr int64_t kSectorBytes = 32, kBankBytes = 4, kBanks = 32;

struct Buffer {
  const char* name;
  uintptr_t begin, end;
};

struct Access {
  uintptr_t address = 0;
  unsigned bytes = 0;  // 0: the lane takes no part
};

// An instruction of a warp: where it is in the code, and which of a lane's visits there it is.
struct Request {
  unsigned warp;
  const void* code;
  int64_t visit;
  bool operator<(const Request& other) const {
    return std::tie(warp, code, visit) < std::tie(other.warp, other.code, other.visit);
  }
};

struct Lanes {
  Place place;
  std::array<Access, cuda_emulation::kWarpThreads> access;
};

struct Recorder {
  std::vector<Buffer> buffers;
  std::map<Request, Lanes> requests;  // of the running block
  std::map<std::pair<unsigned, const void*>, int64_t> visits;
  std::map<Place, Traffic> counts;
};

Recorder& recorder() {
  static Recorder instance;
  return instance;
}

bool lies_in(uintptr_t address, const void* object, size_t bytes) {
  return address - reinterpret_cast<uintptr_t>(object) < bytes;
}

bool is_shared(uintptr_t address) {
  if (lies_in(address, cuda_emulation::dynamic_shared_memory(), cuda_emulation::dynamic_shared_bytes())) return true;
  const bool is_variable = lies_in(address, &__data_start, &_end - &__data_start);
  return is_variable && !lies_in(address, &threadIdx, sizeof(threadIdx)) &&
         !lies_in(address, &blockIdx, sizeof(blockIdx)) && !lies_in(address, &blockDim, sizeof(blockDim)) &&
         !lies_in(address, &gridDim, sizeof(gridDim));
}

// Adds what the banks do for a request: each group of lanes takes as many cycles as words of one bank.
void add_banks(const Lanes& lanes, Traffic* traffic) {
  unsigned widest = kBankBytes;
  for (const Access& access : lanes.access) widest = std::max(widest, access.bytes);
  const unsigned together = kBanks * kBankBytes / widest;
  for (unsigned first = 0; first < cuda_emulation::kWarpThreads; first += together) {
    std::array<std::set<uintptr_t>, kBanks> words;
    for (unsigned lane = first; lane < first + together; ++lane) {
      const Access& access = lanes.access[lane];
      for (uintptr_t word = access.address / kBankBytes; word * kBankBytes < access.address + access.bytes; ++word) {
        words[word % kBanks].insert(word);
      }
    }
    size_t most = 0;
    for (const auto& bank : words) most = std::max(most, bank.size());
    traffic->steps += static_cast<int64_t>(most);
    traffic->fewest += most > 0;
  }
}

void add(const Lanes& lanes, Traffic* traffic) {
  std::set<uintptr_t> bytes, sectors;
  for (const Access& access : lanes.access) {
    for (uintptr_t byte = access.address; byte < access.address + access.bytes; ++byte) {
      bytes.insert(byte);
      sectors.insert(byte / kSectorBytes);
    }
  }
  traffic->requests += 1;
  traffic->bytes += static_cast<int64_t>(bytes.size());
  if (lanes.place.first == kShared) {
    add_banks(lanes, traffic);
  } else {
    traffic->steps += static_cast<int64_t>(sectors.size());
    traffic->fewest += (static_cast<int64_t>(bytes.size()) + kSectorBytes - 1) / kSectorBytes;
  }
}

void finish_block() {
  Recorder& r = recorder();
  for (const auto& [request, lanes] : r.requests) add(lanes, &r.counts[lanes.place]);
  r.requests.clear();
  r.visits.clear();
}

void record(const void* data, unsigned bytes, bool written, const void* code) {
  if (!cuda_emulation::in_thread()) return;
  Recorder& r = recorder();
  const auto address = reinterpret_cast<uintptr_t>(data);
  const char* name = nullptr;
  for (const Buffer& buffer : r.buffers) {
    if (address >= buffer.begin && address < buffer.end) name = buffer.name;
  }
  if (name == nullptr && is_shared(address)) name = kShared;
  if (name == nullptr) return;
  const unsigned thread = cuda_emulation::thread_number(), lanes = cuda_emulation::kWarpThreads;
  const int64_t visit = r.visits[{thread, code}]++;
  Lanes& request = r.requests[{thread / lanes, code, visit}];
  request.place = {name, written};
  request.access[thread % lanes] = {address, bytes};
}

}  // namespace

void name_buffer(const char* name, const void* data, int64_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  recorder().buffers.push_back({name, begin, begin + bytes});
}

void start() {
  recorder() = {};
  cuda_emulation::set_block_observer(finish_block);
}

const std::map<Place, Traffic>& counts() { return recorder().counts; }

}  // namespace memory_traffic

// What instrumented code calls. The addresses to which these functions return tell its places apart.

#define SEGEXT_ANSWER(access, bytes, written) \
  void __tsan_##access##bytes(void* data) { memory_traffic::record(data, bytes, written, __builtin_return_address(0)); }
#define SEGEXT_ANSWER_SIZES(access, written) \
  SEGEXT_ANSWER(access, 2, written)          \
  SEGEXT_ANSWER(access, 4, written)          \
  SEGEXT_ANSWER(access, 8, written)          \
  SEGEXT_ANSWER(access, 16, written)

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
SEGEXT_ANSWER(read, 1, false)
SEGEXT_ANSWER(write, 1, true)
SEGEXT_ANSWER_SIZES(read, false)
SEGEXT_ANSWER_SIZES(unaligned_read, false)
SEGEXT_ANSWER_SIZES(write, true)
SEGEXT_ANSWER_SIZES(unaligned_write, true)
void __tsan_read_range(void* data, size_t bytes) {
  memory_traffic::record(data, static_cast<unsigned>(bytes), false, __builtin_return_address(0));
}
void __tsan_write_range(void* data, size_t bytes) {
  memory_traffic::record(data, static_cast<unsigned>(bytes), true, __builtin_return_address(0));
}
}
