// The scheduler of emulated CUDA threads.
//
// Each thread of the running block has a fiber with its own stack, which runs until the thread ends or waits. The
// scheduler goes round: it runs every fiber that can run, completes the warp exchanges whose lanes have all arrived,
// and once every thread waits at the same barrier, lets all continue.
//
// AddressSanitizer is told about every switch of stacks. With SEGEXT_EMULATION_TSAN, ThreadSanitizer sees each fiber as
// a thread, ordered only by barriers (of a block or a warp) and by the beginning and end of a block. This makes it a
// race detector for kernels. Shuffles, votes and tile products wait for lanes but order no memory accesses, as in CUDA.
// This file must then be compiled without -fsanitize=thread, because its own data need no ordering.
#include "cuda_emulation.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

#if defined(SEGEXT_EMULATION_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* object);
void __tsan_release(void* object);
}
#endif

namespace cuda_emulation {
namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr unsigned kMaxBlockThreads = 1024;
constexpr unsigned kMaxGridX = 0x7fffffffu;
constexpr unsigned kMaxGridYZ = 65535;
constexpr size_t kMaxSharedBytes = 48 * 1024;  // unless a kernel asks for more, which none here does

// What the sanitizers need to know about the stack that a switch leaves or enters.
struct Stack {
  const void* bottom = nullptr;
  size_t bytes = 0;
  void* sanitizer_state = nullptr;
  void* tsan_fiber = nullptr;
#if defined(__x86_64__)
  void* pointer = nullptr;
#else
  ucontext_t context;
#endif
};

// An object that orders threads for ThreadSanitizer, again and again. A thread that leaves one round may arrive at the
// next before others have left the first, so rounds alternate between two objects.
struct Meeting {
  char rounds[2] = {};
  unsigned round = 0;
  void* object(unsigned of_round) { return &rounds[of_round % 2]; }
};

enum class State { kRunnable, kAtBarrier, kInExchange, kDone };

struct Fiber {
  uint3 index{};
  unsigned number = 0;  // in the block
  State state = State::kRunnable;
  const char* operation = "";
  int line = 0;
  unsigned mask = 0;         // of the exchange it waits in
  uint64_t value = 0;        // what it contributes to the exchange
  std::vector<Copy> copies;  // that it has not yet waited for
  Meeting warp_barriers;
  std::unique_ptr<char[]> memory;
  Stack stack;
};

struct Scheduler {
  std::vector<Fiber> fibers;
  std::vector<uint64_t> exchanged;  // each thread's value in its warp's last exchange
  Fiber* current = nullptr;
  Stack main;
  unsigned threads = 0;
  std::vector<unsigned char> shared;
  void (*call)(void*) = nullptr;
  void* closure = nullptr;
  ThreadOrder order = ThreadOrder::kAscending;
  uint32_t seed = 0;
  cudaError_t error = cudaSuccess;
  int compute_capability = 9, multiprocessors = 1;
  void (*observer)(const void*, int64_t, int64_t) = nullptr;
  void (*block_observer)() = nullptr;
  unsigned sample = 0;
  bool runs = true;
  Meeting barrier;
  char edge = 0;  // orders the beginning and end of blocks for ThreadSanitizer
};

Scheduler scheduler;

[[noreturn]] void fail(const char* why, const Fiber& fiber) {
  std::fprintf(stderr, "cuda_emulation: %s: %s, line %d, thread (%u, %u, %u) of block (%u, %u, %u)\n", why,
               fiber.operation, fiber.line, fiber.index.x, fiber.index.y, fiber.index.z, blockIdx.x, blockIdx.y,
               blockIdx.z);
  std::abort();
}

// Switching stacks.

#if defined(__x86_64__)
// Pushes the callee-saved registers onto the stack that it leaves, and pops them from the one that it enters.
extern "C" void cuda_emulation_switch(void** left, void* entered);
asm(R"(
.text
.globl cuda_emulation_switch
.type cuda_emulation_switch, @function
cuda_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_emulation_switch, . - cuda_emulation_switch
)");
constexpr int kSavedRegisters = 6;
#endif

void switch_stacks(Stack* from, Stack* to, bool from_ends) {
#if defined(SEGEXT_EMULATION_TSAN)
  constexpr unsigned kNoOrder = 1;
  __tsan_switch_to_fiber(to->tsan_fiber, kNoOrder);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(from_ends ? nullptr : &from->sanitizer_state, to->bottom, to->bytes);
#else
  (void)from_ends;
#endif
#if defined(__x86_64__)
  cuda_emulation_switch(&from->pointer, to->pointer);
#else
  swapcontext(&from->context, &to->context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from->sanitizer_state, nullptr, nullptr);
#endif
}

void tsan_release(void* object) {
#if defined(SEGEXT_EMULATION_TSAN)
  __tsan_release(object);
#else
  (void)object;
#endif
}

void tsan_acquire(void* object) {
#if defined(SEGEXT_EMULATION_TSAN)
  __tsan_acquire(object);
#else
  (void)object;
#endif
}

// Switches from a fiber back to the scheduler.
void yield() {
  Fiber& fiber = *scheduler.current;
  switch_stacks(&fiber.stack, &scheduler.main, fiber.state == State::kDone);
}

void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler.main.bottom, &scheduler.main.bytes);
#endif
  tsan_acquire(&scheduler.edge);
  scheduler.call(scheduler.closure);
  scheduler.current->state = State::kDone;
  scheduler.current->operation = "end of thread";
  tsan_release(&scheduler.edge);
  yield();
  std::abort();
}

void resume(Fiber* fiber) {
  scheduler.current = fiber;
  threadIdx = fiber->index;
  switch_stacks(&scheduler.main, &fiber->stack, false);
  scheduler.current = nullptr;
  if (fiber->state == State::kDone && !fiber->copies.empty()) fail("nobody waits for asynchronous copies", *fiber);
}

void start_at_fiber_main(Fiber* fiber) {
  fiber->state = State::kRunnable;
#if defined(__x86_64__)
  constexpr uintptr_t kAlignment = 64;
  constexpr unsigned kSpread = 61;  // so that stacks start in different cache sets
  const uintptr_t end = reinterpret_cast<uintptr_t>(fiber->memory.get() + kStackBytes) & ~(kAlignment - 1);
  void** top = reinterpret_cast<void**>(end - fiber->number % kSpread * 3 * kAlignment);
  *--top = nullptr;  // where fiber_main would return to
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int k = 0; k < kSavedRegisters; ++k) *--top = nullptr;
  fiber->stack.pointer = top;
#else
  getcontext(&fiber->stack.context);
  fiber->stack.context.uc_stack.ss_sp = fiber->memory.get();
  fiber->stack.context.uc_stack.ss_size = kStackBytes;
  fiber->stack.context.uc_link = nullptr;
  makecontext(&fiber->stack.context, fiber_main, 0);
#endif
}

// Waits until all lanes of `mask` have contributed a value, and returns the warp's values.
const uint64_t* exchange_values(unsigned mask, uint64_t value, const char* operation, int line) {
  Fiber& fiber = *scheduler.current;
  fiber.state = State::kInExchange;
  fiber.mask = mask;
  fiber.value = value;
  fiber.operation = operation;
  fiber.line = line;
  const unsigned lane = fiber.number % kWarpThreads;
  if ((mask >> lane & 1) == 0) fail("a lane is not in its own mask", fiber);
  yield();
  return &scheduler.exchanged[fiber.number - lane];
}

// Completes the exchanges of a warp in which all lanes of the mask wait. The lanes go on when it is their turn.
bool complete_exchanges(unsigned first, unsigned end) {
  auto& fibers = scheduler.fibers;
  bool completed = false;
  for (unsigned i = first; i < end; ++i) {
    if (fibers[i].state != State::kInExchange) continue;
    const unsigned mask = fibers[i].mask;
    unsigned arrived = 0;
    for (unsigned j = first; j < end; ++j) {
      const Fiber& other = fibers[j];
      if (other.state != State::kInExchange || other.mask != mask || (mask >> (j - first) & 1) == 0) continue;
      if (other.operation != fibers[i].operation && std::strcmp(other.operation, fibers[i].operation) != 0) {
        fail("lanes of one mask are in different operations", other);
      }
      arrived |= 1u << (j - first);
    }
    if (arrived != mask) continue;
    completed = true;
    for (unsigned j = first; j < end; ++j) {
      if ((mask >> (j - first) & 1) == 0) continue;
      scheduler.exchanged[j] = fibers[j].value;
      fibers[j].state = State::kRunnable;
    }
  }
  return completed;
}

std::vector<unsigned> thread_order() {
  std::vector<unsigned> order(scheduler.threads);
  for (unsigned i = 0; i < scheduler.threads; ++i) {
    order[i] = scheduler.order == ThreadOrder::kDescending ? scheduler.threads - 1 - i : i;
  }
  if (scheduler.order == ThreadOrder::kRandom) {
    std::mt19937 random(scheduler.seed + blockIdx.x);
    for (unsigned i = scheduler.threads; i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  }
  return order;
}

// Lets the threads continue from the barrier at which all wait; fails if some can never reach it.
void pass_barrier(unsigned done) {
  const Fiber* first = nullptr;
  for (unsigned i = 0; i < scheduler.threads; ++i) {
    const Fiber& fiber = scheduler.fibers[i];
    if (fiber.state == State::kDone) continue;
    if (fiber.state == State::kInExchange) fail("deadlock: a lane of the mask never arrives", fiber);
    if (first != nullptr && first->line != fiber.line) fail("divergent barrier: threads wait at different ones", fiber);
    first = &fiber;
  }
  if (done > 0) fail("some threads ended before the barrier", *first);
  for (unsigned i = 0; i < scheduler.threads; ++i) scheduler.fibers[i].state = State::kRunnable;
  ++scheduler.barrier.round;
}

void run_block() {
  auto& fibers = scheduler.fibers;
  for (unsigned i = 0; i < scheduler.threads; ++i) start_at_fiber_main(&fibers[i]);
  const std::vector<unsigned> order = thread_order();
  for (;;) {
    bool progress = false;
    for (const unsigned i : order) {
      if (fibers[i].state != State::kRunnable) continue;
      resume(&fibers[i]);
      progress = true;
    }
    for (unsigned first = 0; first < scheduler.threads; first += kWarpThreads) {
      const unsigned end = first + kWarpThreads;
      progress |= complete_exchanges(first, end < scheduler.threads ? end : scheduler.threads);
    }
    unsigned done = 0, waiting = 0;
    for (unsigned i = 0; i < scheduler.threads; ++i) {
      done += fibers[i].state == State::kDone;
      waiting += fibers[i].state == State::kAtBarrier;
    }
    if (done == scheduler.threads) return;
    if (!progress || done + waiting == scheduler.threads) pass_barrier(done);
  }
}

void prepare_fibers() {
  auto& fibers = scheduler.fibers;
  while (fibers.size() < scheduler.threads) {
    Fiber fiber;
    fiber.number = static_cast<unsigned>(fibers.size());
    fiber.memory.reset(new char[kStackBytes]);
    fiber.stack.bottom = fiber.memory.get();
    fiber.stack.bytes = kStackBytes;
#if defined(SEGEXT_EMULATION_TSAN)
    fiber.stack.tsan_fiber = __tsan_create_fiber(0);
    scheduler.main.tsan_fiber = __tsan_get_current_fiber();
#endif
    fibers.push_back(std::move(fiber));
  }
  for (unsigned i = 0; i < scheduler.threads; ++i) {
    fibers[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
  }
  scheduler.exchanged.assign((scheduler.threads + kWarpThreads - 1) / kWarpThreads * kWarpThreads, 0);
}

}  // namespace

void set_thread_order(ThreadOrder order, uint32_t seed) {
  scheduler.order = order;
  scheduler.seed = seed;
}

void set_compute_capability(int major) { scheduler.compute_capability = major; }
int compute_capability() { return scheduler.compute_capability; }

void set_multiprocessors(int count) { scheduler.multiprocessors = count; }
int multiprocessors() { return scheduler.multiprocessors; }

void set_launch_observer(void (*observer)(const void* kernel, int64_t threads, int64_t shared_bytes)) {
  scheduler.observer = observer;
}

void set_block_observer(void (*observer)()) { scheduler.block_observer = observer; }
void set_block_sample(unsigned count) { scheduler.sample = count; }
void set_runs(bool runs) { scheduler.runs = runs; }

bool in_thread() { return scheduler.current != nullptr; }
unsigned thread_number() { return scheduler.current->number; }
unsigned lane_index() { return thread_number() % kWarpThreads; }
void* dynamic_shared_memory() { return scheduler.shared.data(); }
size_t dynamic_shared_bytes() { return scheduler.shared.size(); }
std::vector<Copy>& pending_copies() { return scheduler.current->copies; }

void expect_aligned(const void* address, size_t bytes, const char* operation, int line) {
  if (reinterpret_cast<uintptr_t>(address) % bytes == 0) return;
  scheduler.current->operation = operation;
  scheduler.current->line = line;
  fail("a misaligned address", *scheduler.current);
}

void expect_shared(const void* address, size_t bytes, const char* operation, int line) {
  expect_aligned(address, bytes, operation, line);
  const auto first = reinterpret_cast<uintptr_t>(scheduler.shared.data());
  const auto begin = reinterpret_cast<uintptr_t>(address);
  if (begin >= first && begin + bytes <= first + scheduler.shared.size()) return;
  scheduler.current->operation = operation;
  scheduler.current->line = line;
  fail("an address outside the dynamic shared memory", *scheduler.current);
}

cudaError_t last_error() { return std::exchange(scheduler.error, cudaSuccess); }

void wait_for_block(const char* operation, int line) {
  Fiber& fiber = *scheduler.current;
  fiber.state = State::kAtBarrier;
  fiber.operation = operation;
  fiber.line = line;
  void* meeting = scheduler.barrier.object(scheduler.barrier.round);
  tsan_release(meeting);
  yield();
  tsan_acquire(meeting);
}

void wait_for_warp(unsigned mask, const char* operation, int line) {
  Meeting& own = scheduler.current->warp_barriers;
  void* meeting = own.object(own.round++);
  tsan_release(meeting);
  const uint64_t* meetings = exchange_values(mask, reinterpret_cast<uintptr_t>(meeting), operation, line);
  for (unsigned lane = 0; lane < kWarpThreads; ++lane) {
    if ((mask >> lane & 1) != 0) tsan_acquire(reinterpret_cast<void*>(meetings[lane]));
  }
}

uint64_t exchange(unsigned mask, uint64_t value, unsigned source_lane, const char* operation, int line) {
  const uint64_t* values = exchange_values(mask, value, operation, line);
  if ((mask >> source_lane & 1) == 0) fail("reads a lane outside the mask", *scheduler.current);
  return values[source_lane];
}

void exchange_all(uint64_t value, uint64_t (&values)[kWarpThreads], const char* operation, int line) {
  std::memcpy(values, exchange_values(0xffffffffu, value, operation, line), sizeof(values));
}

unsigned vote(unsigned mask, bool predicate, const char* operation, int line) {
  const uint64_t* values = exchange_values(mask, predicate, operation, line);
  unsigned result = 0;
  for (unsigned lane = 0; lane < kWarpThreads; ++lane) {
    if ((mask >> lane & 1) != 0 && values[lane] != 0) result |= 1u << lane;
  }
  return result;
}

cudaError_t run(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, void (*call)(void*), void* closure) {
  const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
  if (threads == 0 || threads > kMaxBlockThreads || grid.x == 0 || grid.x > kMaxGridX || grid.y == 0 ||
      grid.y > kMaxGridYZ || grid.z == 0 || grid.z > kMaxGridYZ) {
    return scheduler.error = cudaErrorInvalidConfiguration;
  }
  if (shared_bytes > kMaxSharedBytes) return scheduler.error = cudaErrorInvalidValue;
  if (scheduler.observer != nullptr) {
    scheduler.observer(kernel, static_cast<int64_t>(threads * grid.x * grid.y * grid.z),
                       static_cast<int64_t>(shared_bytes));
  }
  if (!scheduler.runs) return cudaSuccess;
  scheduler.threads = static_cast<unsigned>(threads);
  gridDim = grid;
  blockDim = block;
  scheduler.call = call;
  scheduler.closure = closure;
  prepare_fibers();
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
      const unsigned step = scheduler.sample == 0 ? 1 : (grid.x + scheduler.sample - 1) / scheduler.sample;
      for (blockIdx.x = step / 2; blockIdx.x < grid.x; blockIdx.x += step) {
        scheduler.shared = std::vector<unsigned char>(shared_bytes, kUninitialised);  // exact, for the sanitizers
        tsan_release(&scheduler.edge);
        run_block();
        tsan_acquire(&scheduler.edge);
        if (scheduler.block_observer != nullptr) scheduler.block_observer();
      }
    }
  }
  return cudaSuccess;
}

}  // namespace cuda_emulation
