// The part of CUDA C++ that our kernels use, on the host: blocks one after the other, the threads
// of a block as fibers on one thread of the system. A fiber runs until it meets a barrier or a
// warp-wide operation that others have not reached. Included before a kernel's source.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define EMULATED_CUDA 1
#define __global__
#define __device__
#define __constant__
#define __shared__ static __attribute__((section("emulated_shared")))
#define __forceinline__ inline
#define __align__(n) alignas(n)
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(name) unsigned char *name = emulated::dynamicShared

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

static uint3 threadIdx;
static uint3 blockIdx;
static dim3 blockDim;
static dim3 gridDim;
static constexpr int warpSize = 32;

// The section of all shared arrays, absent where there are none.
extern "C" __attribute__((weak, visibility("hidden"))) unsigned char __start_emulated_shared[];
extern "C" __attribute__((weak, visibility("hidden"))) unsigned char __stop_emulated_shared[];

namespace emulated {

// What a kernel's object offers to the driver.
struct Kernel {
  const char *name;
  void (*invoke)(void **arguments);
  const size_t *sizes;  // of the arguments
  int count;
  int maxThreads;  // __launch_bounds__, 0 for none
};

struct Global {
  const char *name;
  void *address;
  size_t size;
};

static unsigned char *dynamicShared;

enum State { NEW, READY, AT_BARRIER, IN_WARP, DONE };

struct Deposit {
  unsigned words[16];
};

// An asynchronous copy that was not waited for yet.
struct Copy {
  void *target;
  const void *source;
  int bytes;
  int read;

  void run() const {
    memset(target, 0, bytes);
    memcpy(target, source, read);
  }
};

struct Fiber {
  static constexpr int COPIES = 128;
#if defined(__x86_64__)
  void *stackPointer;
#else
  ucontext_t context;
#endif
  char *stack;
  State state;
  uint3 index;
  int number;
  unsigned waitMask;
  unsigned peers;  // who took part in the operation last met
  int operation;
  unsigned round;
  Deposit deposits[2];
  int copies;
  Copy copy[COPIES];
};

static constexpr size_t STACK = 128 << 10;
static Fiber *fibers;
static Fiber *current;
static int threads;
static int live;
static int atBarrier;
static bool progress;
static const char *failure;
static int orderOfThreads;  // 0 ascending, 1 descending, else the seed of a shuffle
static void (*body)(void **);
static void **bodyArguments;

#if defined(__x86_64__)
static void *schedulerStack;
__attribute__((naked, noinline)) static void switchStacks(void **save, void *to) {
  asm volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}
static void leave() { switchStacks(&current->stackPointer, schedulerStack); }
#else
static ucontext_t scheduler;
static void leave() { swapcontext(&current->context, &scheduler); }
#endif

static void finished() {
  current->state = DONE;
  live--;
  progress = true;
}

static void fiberMain() {
  current->copies = 0;
  body(bodyArguments);
  finished();
  leave();
  __builtin_trap();
}

static void prepare(Fiber &f) {
#if defined(__x86_64__)
  void **top = (void **)(f.stack + STACK);
  *--top = nullptr;  // where the stack must stand on a call: 8 off a multiple of 16
  *--top = (void *)fiberMain;
  for (int i = 0; i < 6; i++) {
    *--top = nullptr;
  }
  f.stackPointer = top;
#else
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack;
  f.context.uc_stack.ss_size = STACK;
  f.context.uc_link = nullptr;
  makecontext(&f.context, fiberMain, 0);
#endif
}

static void enter(Fiber &f) {
  current = &f;
  threadIdx = f.index;
#if defined(__x86_64__)
  switchStacks(&schedulerStack, f.stackPointer);
#else
  swapcontext(&scheduler, &f.context);
#endif
}

static void block() {
  Fiber *self = current;
  leave();
  current = self;
  threadIdx = self->index;
}

static void releaseBarrier() {
  if (live > 0 && atBarrier == live) {
    for (int i = 0; i < threads; i++) {
      if (fibers[i].state == AT_BARRIER) {
        fibers[i].state = READY;
      }
    }
    atBarrier = 0;
    progress = true;
  }
}

// Lanes of a warp that still run; those that have ended no longer take part.
static unsigned liveLanes(int warp) {
  unsigned lanes = 0;
  for (int l = 0; l < 32 && warp * 32 + l < threads; l++) {
    if (fibers[warp * 32 + l].state != DONE) {
      lanes |= 1u << l;
    }
  }
  return lanes;
}

// Releases the lanes of a warp-wide operation when all of its mask have come.
static void releaseWarp(int warp, unsigned mask, int operation) {
  unsigned wanted = mask & liveLanes(warp);
  for (int l = 0; l < 32; l++) {
    Fiber &f = fibers[warp * 32 + l];
    if ((wanted >> l & 1) && !(f.state == IN_WARP && f.waitMask == mask)) {
      return;
    }
  }
  for (int l = 0; l < 32; l++) {
    Fiber &f = fibers[warp * 32 + l];
    if (wanted >> l & 1) {
      if (f.operation != operation) {
        failure = "lanes of a warp meet in different warp-wide operations";
      }
      f.state = READY;
      f.peers = wanted;
      progress = true;
    }
  }
}

inline void barrier() {
  Fiber *self = current;
  self->state = AT_BARRIER;
  atBarrier++;
  progress = true;
  releaseBarrier();
  if (self->state != READY) {
    block();
  }
}

// Leaves the words for the others of the mask, and waits for theirs, which of(lane) then gives.
struct Exchange {
  int warp;
  unsigned round;

  Exchange(unsigned mask, int operation, const void *words, size_t bytes) {
    Fiber *self = current;
    warp = self->number / 32;
    round = self->round++;
    if (!(mask >> self->number % 32 & 1)) {
      failure = "a lane outside the mask of a warp-wide operation";
    }
    memcpy(self->deposits[round % 2].words, words, bytes);
    self->waitMask = mask;
    self->operation = operation;
    self->state = IN_WARP;
    progress = true;
    releaseWarp(warp, mask, operation);
    if (self->state != READY) {
      block();
    }
  }

  const unsigned *of(int lane) const {
    return fibers[warp * 32 + lane].deposits[round % 2].words;
  }

  bool has(int lane) const { return current->peers >> lane & 1; }
};

// Runs a fiber until it waits or ends, and wakes those who waited for that.
static void advance(Fiber &f) {
  if (f.state == NEW) {
    prepare(f);
    f.state = READY;
  }
  enter(f);
  if (f.state == DONE) {
    releaseBarrier();
    int first = f.number / 32 * 32;
    for (int l = first; l < first + 32 && l < threads; l++) {
      if (fibers[l].state == IN_WARP) {
        releaseWarp(f.number / 32, fibers[l].waitMask, fibers[l].operation);
      }
    }
  }
}

// Each warp runs as far as it can before the next one does, so that it overtakes the others where
// no barrier holds it back.
static bool runBlock() {
  live = threads;
  atBarrier = 0;
  std::vector<int> order(threads);
  for (int i = 0; i < threads; i++) {
    order[i] = i;
    fibers[i].state = NEW;
    fibers[i].round = 0;
  }
  if (orderOfThreads == 1) {
    std::reverse(order.begin(), order.end());
  } else if (orderOfThreads >= 2) {
    static std::mt19937 random;
    random.seed((unsigned)orderOfThreads + blockIdx.x * 7919u + blockIdx.y);
    std::shuffle(order.begin(), order.end(), random);
  }
  std::vector<std::vector<int>> warps;
  std::vector<int> placeOfWarp((threads + 31) / 32, -1);
  for (int i : order) {
    int &place = placeOfWarp[i / 32];
    if (place < 0) {
      place = (int)warps.size();
      warps.emplace_back();
    }
    warps[place].push_back(i);
  }
  while (live > 0 && failure == nullptr) {
    progress = false;
    for (auto &warp : warps) {
      bool ran = true;
      while (ran && failure == nullptr) {
        ran = false;
        for (int i : warp) {
          if (fibers[i].state == NEW || fibers[i].state == READY) {
            advance(fibers[i]);
            ran = true;
          }
        }
      }
    }
    if (!progress) {
      failure = "threads wait for others that never come (a barrier in divergent code)";
    }
  }
  return failure == nullptr;
}

template <auto F>
struct Invoker;

template <typename... A, void (*F)(A...)>
struct Invoker<F> {
  static constexpr size_t sizes[] = {sizeof(A)..., 0};
  static constexpr int count = sizeof...(A);

  static void invoke(void **arguments) { call(arguments, std::index_sequence_for<A...>()); }

  template <size_t... I>
  static void call(void **arguments, std::index_sequence<I...>) {
    F(*(A *)arguments[I]...);
  }
};

#define EMULATED_KERNEL(name, bound)                                        \
  {#name, emulated::Invoker<&name>::invoke, emulated::Invoker<&name>::sizes, \
   emulated::Invoker<&name>::count, bound},
#define EMULATED_GLOBAL(name) {#name, (void *)&name, sizeof(name)},

}  // namespace emulated

// Runs a kernel; null, or what went wrong.
extern "C" __attribute__((visibility("default"))) const char *emulated_run(
    const emulated::Kernel *kernel,
    dim3 grid,
    dim3 blockSize,
    void **arguments,
    void *shared,
    size_t sharedBytes,
    int order) {
  using namespace emulated;
  if (fibers == nullptr) {
    fibers = new Fiber[1024];
    for (int i = 0; i < 1024; i++) {
      char *area = (char *)mmap(
          nullptr, STACK + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      mprotect(area, 4096, PROT_NONE);
      fibers[i].stack = area + 4096;
    }
  }
  orderOfThreads = order;
  failure = nullptr;
  body = kernel->invoke;
  bodyArguments = arguments;
  dynamicShared = (unsigned char *)shared;
  gridDim = grid;
  blockDim = blockSize;
  threads = blockSize.x * blockSize.y * blockSize.z;
  for (int i = 0; i < threads; i++) {
    fibers[i].number = i;
    fibers[i].index = {
        i % blockSize.x, i / blockSize.x % blockSize.y, i / (blockSize.x * blockSize.y)};
  }
  for (unsigned z = 0; z < grid.z; z++) {
    for (unsigned y = 0; y < grid.y; y++) {
      for (unsigned x = 0; x < grid.x; x++) {
        blockIdx = {x, y, z};
        memset(shared, 0xff, sharedBytes);  // NaN
        if (__start_emulated_shared != nullptr) {
          memset(
              __start_emulated_shared,
              0xff,
              (size_t)(__stop_emulated_shared - __start_emulated_shared));
        }
        if (!runBlock()) {
          return failure;
        }
      }
    }
  }
  return nullptr;
}

// The built-in functions.

inline void __syncthreads() { emulated::barrier(); }

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  emulated::Exchange all(mask, 1, &mask, sizeof mask);
}

template <typename T>
inline T emulated_shuffle(unsigned mask, int operation, T value, int lane) {
  emulated::Exchange all(mask, operation, &value, sizeof value);
  T result = value;
  if (lane >= 0 && lane < 32 && all.has(lane)) {
    memcpy(&result, all.of(lane), sizeof result);
  }
  return result;
}

inline int emulated_lane() { return emulated::current->number % 32; }

template <typename T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  int self = emulated_lane();
  return emulated_shuffle(mask, 2, value, self / width * width + lane % width);
}

template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return emulated_shuffle(mask, 3, value, emulated_lane() ^ bits);
}

template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, int delta) {
  int lane = emulated_lane() + delta;
  return emulated_shuffle(mask, 4, value, lane < 32 ? lane : -1);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  unsigned own = predicate != 0;
  emulated::Exchange all(mask, 5, &own, sizeof own);
  unsigned result = 0;
  for (int lane = 0; lane < 32; lane++) {
    if (all.has(lane)) {
      result |= all.of(lane)[0] << lane;
    }
  }
  return result;
}

inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }

inline int min(int x, int y) { return x < y ? x : y; }
inline int __ffs(unsigned x) { return __builtin_ffs((int)x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }

inline float __uint_as_float(unsigned x) {
  float y;
  memcpy(&y, &x, 4);
  return y;
}
inline unsigned __float_as_uint(float x) {
  unsigned y;
  memcpy(&y, &x, 4);
  return y;
}
inline float __int_as_float(int x) { return __uint_as_float((unsigned)x); }

template <typename T>
inline T __ldg(const T *p) {
  return *p;
}

template <typename T>
inline T atomicAdd(T *address, T value) {
  T old = *address;
  *address = old + value;
  return old;
}

inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }

namespace emulated {

inline float truncateToTf32(unsigned x) { return __uint_as_float(x & 0xffffe000u); }

inline float halfAt(const unsigned *words, int i) {
  return __uint_as_float(i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xffff0000u);
}

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32, D = A B + D. In group g = lane / 4 with
// t = lane % 4, register a[i] holds A(g + 8 (i % 2), 2t + 8 (i / 2) + {0, 1}), b[i] holds
// B(2t + 8i + {0, 1}, g), d[i] is D(g + 8 (i / 2), 2t + i % 2).
inline void mmaBf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  unsigned own[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  Exchange all(0xffffffffu, 6, own, sizeof own);
  int g = emulated_lane() / 4;
  int t = emulated_lane() % 4;
  for (int i = 0; i < 4; i++) {
    int row = i / 2;
    int column = 2 * t + i % 2;
    float sum = 0;
    for (int k = 0; k < 16; k++) {
      const unsigned *rowOf = all.of(g * 4 + k % 8 / 2);
      const unsigned *columnOf = all.of(column * 4 + k % 8 / 2);
      unsigned x = rowOf[row + 2 * (k / 8)];
      unsigned y = columnOf[4 + k / 8];
      sum += halfAt(&x, k % 2) * halfAt(&y, k % 2);
    }
    d[i] += sum;
  }
}

// mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32: a[i] holds A(g + 8 (i % 2), t + 4 (i / 2)),
// b[i] holds B(t + 4i, g), d as above. The lower 13 bits of the factors are not read.
inline void mmaTf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  unsigned own[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  Exchange all(0xffffffffu, 7, own, sizeof own);
  int g = emulated_lane() / 4;
  int t = emulated_lane() % 4;
  for (int i = 0; i < 4; i++) {
    int row = i / 2;
    int column = 2 * t + i % 2;
    float sum = 0;
    for (int k = 0; k < 8; k++) {
      sum += truncateToTf32(all.of(g * 4 + k % 4)[row + 2 * (k / 4)])
          * truncateToTf32(all.of(column * 4 + k % 4)[4 + k / 4]);
    }
    d[i] += sum;
  }
}

// ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16: lane l gives the address of row l % 8 of
// matrix l / 8; result i holds, of matrix i, elements (g, 2t + {0, 1}), or those of its transpose.
inline void loadMatrices(unsigned (&r)[4], const void *row, bool transposed) {
  Exchange all(0xffffffffu, transposed ? 8 : 9, &row, sizeof row);
  int g = emulated_lane() / 4;
  int t = emulated_lane() % 4;
  if ((uintptr_t)row % 16 != 0) {
    failure = "ldmatrix of a row that is not aligned to 16 bytes";
  }
  auto element = [&](int matrix, int i, int j) {
    const unsigned short *p;
    memcpy(&p, all.of(matrix * 8 + i), sizeof p);
    return (unsigned)p[j];
  };
  for (int i = 0; i < 4; i++) {
    r[i] = transposed ? element(i, 2 * t, g) | element(i, 2 * t + 1, g) << 16
                      : element(i, g, 2 * t) | element(i, g, 2 * t + 1) << 16;
  }
}

// cp.async.shared.global: the first `read` bytes of so many, and zeros. Every other thread's copies
// are done at once, those of the others when they are waited for: a kernel must not rely on either.
inline void copyAsync(void *target, const void *source, int bytes, int read) {
  if (((uintptr_t)target | (uintptr_t)source) % bytes != 0) {
    failure = "cp.async that is not aligned to its size";
  }
  Copy copy = {target, source, bytes, read};
  if (current->number % 2 == 0 || current->copies == Fiber::COPIES) {
    copy.run();
  } else {
    current->copy[current->copies++] = copy;
  }
}

inline void waitForCopies() {
  for (int i = 0; i < current->copies; i++) {
    current->copy[i].run();
  }
  current->copies = 0;
}

// cvt.rna.tf32.f32: to the nearest, ties away from zero.
inline unsigned toTf32(float x) { return (__float_as_uint(x) + 0x1000u) & 0xffffe000u; }

}  // namespace emulated
