// An emulated CUDA device: the parts of the driver API, of NVRTC, of cuBLASLt and of NCCL that the
// engine calls, on the host. NVRTC compiles the kernels' sources with g++ (see cuda_on_host.h).
// Every allocation lies between pages that cannot be accessed, fresh memory is poisoned with NaN,
// and wrong use gives the error codes of the real libraries.
//
// A stream is a queue. By default its work is done at once, on the caller's thread; on request it
// waits until somebody waits for it, and is then done in an order that is as unlike that of the
// calls as the waits for events allow, so that a missing wait shows. A stream that captures records
// its work instead.

#include <dirent.h>
#include <dlfcn.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

enum Code {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  NO_BINARY_FOR_GPU = 209,
  INVALID_HANDLE = 400,
  ILLEGAL_STATE = 401,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  LAUNCH_OUT_OF_RESOURCES = 701,
  LAUNCH_FAILED = 719,
  NOT_SUPPORTED = 801,
  STREAM_CAPTURE_UNSUPPORTED = 900,
  STREAM_CAPTURE_INVALIDATED = 901,
  STREAM_CAPTURE_UNMATCHED = 903,
  STREAM_CAPTURE_ISOLATION = 905,
  UNKNOWN = 999,
};

struct CodeName {
  int code;
  const char *name;
  const char *text;
};

constexpr CodeName CODES[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY_FOR_GPU,
     "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image is available for execution on the device"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in this state"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS,
     "CUDA_ERROR_ILLEGAL_ADDRESS",
     "an illegal memory access was encountered"},
    {LAUNCH_OUT_OF_RESOURCES,
     "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
     "too many resources requested for launch"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {STREAM_CAPTURE_UNSUPPORTED,
     "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {STREAM_CAPTURE_INVALIDATED,
     "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {STREAM_CAPTURE_UNMATCHED,
     "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
     "the capture was not started in this stream"},
    {STREAM_CAPTURE_ISOLATION,
     "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
     "dependency created on uncaptured work in another stream"},
    {UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

// The layouts of cuda_on_host.h.
struct Dim3 {
  unsigned x, y, z;
};

struct Kernel {
  const char *name;
  void (*invoke)(void **);
  const size_t *sizes;
  int count;
  int maxThreads;
};

struct Global {
  const char *name;
  void *address;
  size_t size;
};

using Run = const char *(*)(const Kernel *, Dim3, Dim3, void **, void *, size_t, int);

struct Allocation {
  void *mapping;
  size_t mapped;
  size_t bytes;
  bool device;
};

struct Graph {
  std::vector<std::function<int()>> work;
  bool valid = true;
};

// Work of a stream; it can begin once it is ready, which without a condition it is.
struct Operation {
  std::function<int()> work;
  std::function<bool()> ready;
};

struct Stream {
  std::shared_ptr<Graph> capture;
  bool origin = false;
  int mode = 0;
  int device = 0;
  std::deque<Operation> queue;
};

struct Event {
  double seconds = -1;
  std::shared_ptr<Graph> capture;
  Stream *stream = nullptr;  // where it was recorded last; may be gone
  long recorded = 0;
  long done = 0;
};

struct Module;

struct Function {
  const Kernel *kernel;
  Module *module;
  int maxShared = 48 << 10;
};

struct Module {
  int device = 0;
  void *object = nullptr;
  Run run = nullptr;
  std::map<std::string, std::unique_ptr<Function>> functions;
};

std::recursive_mutex lock;
bool initialised;
int sticky;
std::string lastError;
std::map<uintptr_t, Allocation> allocations;
size_t held;
size_t memoryLimit = 4ull << 30;
long allocationCount;
long launchCount;
int failCountdown;
int failCode;
int threadOrder;
int majorCapability = 9;
int minorCapability = 0;
int driverVersion = 13000;
int deviceCount = 1;
uint32_t refusedEpilogues;
int streamOrder;  // 0 at once, 1 as late as the waits allow, from 2 on random by that seed
std::mt19937 streamRandom;
std::condition_variable_any somethingDone;
Stream defaultStream;
std::map<Stream *, std::unique_ptr<Stream>> streams;
std::map<Event *, std::shared_ptr<Event>> events;
std::map<Module *, std::unique_ptr<Module>> modules;
std::set<Function *> functions;
std::map<Graph *, std::shared_ptr<Graph>> graphs;
std::map<Graph *, std::shared_ptr<Graph>> executables;
constexpr int MOST_DEVICES = 4;
int contexts[MOST_DEVICES];  // their addresses are the handles
thread_local void *currentContext;

int currentDevice() { return (int)((int *)currentContext - contexts); }

struct Settings {
  Settings() {
    if (const char *bytes = getenv("EMULATED_CUDA_MEMORY")) {
      memoryLimit = strtoull(bytes, nullptr, 10);
    }
    if (const char *order = getenv("EMULATED_CUDA_ORDER")) {
      threadOrder = atoi(order);
    }
    if (const char *count = getenv("EMULATED_CUDA_DEVICES")) {
      deviceCount = atoi(count);
    }
    if (const char *order = getenv("EMULATED_CUDA_STREAMS")) {
      streamOrder = atoi(order);
      streamRandom.seed((unsigned)streamOrder);
    }
  }
} settings;

int fail(int code, const char *format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  lastError = text;
  return code;
}

using Guard = std::lock_guard<std::recursive_mutex>;

// What every call but the first few checks.
#define ENTER                                                          \
  Guard guard(lock);                                                   \
  if (!initialised) return fail(NOT_INITIALIZED, "cuInit was not called"); \
  if (sticky) return sticky;                                           \
  if (!currentContext) return fail(INVALID_CONTEXT, "%s: no context is current on this thread", __func__);

Stream *streamOf(void *handle) {
  if (handle == nullptr || handle == (void *)1 || handle == (void *)2) {
    return &defaultStream;
  }
  auto found = streams.find((Stream *)handle);
  return found == streams.end() ? nullptr : found->second.get();
}

#define STREAM(handle)                  \
  Stream *stream = streamOf(handle);    \
  if (stream == nullptr) return fail(INVALID_HANDLE, "%s: not a stream", __func__);

// A call that may not be made while a capture is on invalidates it.
int forbidWhileCapturing(const char *what) {
  int code = SUCCESS;
  for (auto &entry : streams) {
    Stream *s = entry.second.get();
    if (s->capture && s->mode != 2) {
      s->capture->valid = false;
      code = fail(STREAM_CAPTURE_UNSUPPORTED, "%s while a stream captures", what);
    }
  }
  return code;
}

void dropWork() {
  for (auto &entry : streams) {
    entry.second->queue.clear();
  }
  defaultStream.queue.clear();
  for (auto &entry : events) {
    entry.second->done = entry.second->recorded;
  }
}

// The stream that goes on next: the one that is waited for if it can, or one of all that can.
Stream *nextStream(Stream *wanted) {
  std::vector<Stream *> ready;
  auto add = [&](Stream *s) {
    if (!s->queue.empty() && (!s->queue.front().ready || s->queue.front().ready())) {
      ready.push_back(s);
    }
  };
  add(&defaultStream);
  for (auto &entry : streams) {
    add(entry.second.get());
  }
  if (ready.empty()) {
    return nullptr;
  }
  if (streamOrder >= 2) {
    return ready[streamRandom() % ready.size()];
  }
  for (Stream *s : ready) {
    if (s == wanted) {
      return s;
    }
  }
  return ready.front();
}

// Does queued work until there is what is waited for.
int drain(Stream *wanted, const std::function<bool()> &reached) {
  int code = SUCCESS;
  while (!reached()) {
    Stream *next = nextStream(wanted);
    if (next == nullptr) {
      // Another thread has to submit something: the other devices' part of a reduction.
      if (somethingDone.wait_for(lock, std::chrono::seconds(60)) == std::cv_status::timeout) {
        return fail(UNKNOWN, "a stream waits for what nobody does");
      }
    } else {
      Operation operation = std::move(next->queue.front());
      next->queue.pop_front();
      int result = operation.work();
      code = code ? code : result;
      somethingDone.notify_all();
    }
    if (sticky) {
      dropWork();
      return sticky;
    }
  }
  return code;
}

int drain(Stream *stream) {
  return drain(stream, [stream] { return stream->queue.empty(); });
}

// All streams of the current device, as freeing memory does.
int drainDevice() {
  int code = SUCCESS;
  int device = currentDevice();
  std::vector<Stream *> all;
  for (auto &entry : streams) {
    if (entry.second->device == device) {
      all.push_back(entry.first);
    }
  }
  for (Stream *s : all) {
    int result = streams.count(s) ? drain(s) : (int)SUCCESS;
    code = code ? code : result;
  }
  return code;
}

// Queues work, or records it.
int submit(Stream *stream, std::function<int()> work, std::function<bool()> ready = nullptr) {
  if (stream->capture) {
    if (!stream->capture->valid) {
      return fail(STREAM_CAPTURE_INVALIDATED, "the capture was invalidated before");
    }
    stream->capture->work.push_back(std::move(work));
    return SUCCESS;
  }
  if (stream == &defaultStream) {
    if (int code = forbidWhileCapturing("work on the default stream")) {
      return code;
    }
  }
  stream->queue.push_back({std::move(work), std::move(ready)});
  return streamOrder == 0 || stream == &defaultStream ? drain(stream) : (int)SUCCESS;
}

// The live device allocation that holds a range, or null.
const Allocation *find(uintptr_t address, size_t bytes) {
  auto next = allocations.upper_bound(address);
  if (next == allocations.begin()) {
    return nullptr;
  }
  auto &entry = *std::prev(next);
  bool inside = address >= entry.first && address + bytes <= entry.first + entry.second.bytes;
  return inside ? &entry.second : nullptr;
}

int checkDevice(uintptr_t address, size_t bytes, const char *what) {
  const Allocation *a = find(address, bytes);
  if (bytes > 0 && (a == nullptr || !a->device)) {
    return fail(
        INVALID_VALUE,
        "%s: %zu bytes at %p are not within an allocation of the device",
        what,
        bytes,
        (void *)address);
  }
  return SUCCESS;
}

size_t pages(size_t bytes) { return (bytes + 4095) / 4096 * 4096; }

int allocate(void **result, size_t bytes, bool device) {
  if (result == nullptr || bytes == 0) {
    return fail(INVALID_VALUE, "an allocation of 0 bytes");
  }
  if (device && held + bytes > memoryLimit) {
    return fail(OUT_OF_MEMORY, "%zu bytes asked, %zu of %zu held", bytes, held, memoryLimit);
  }
  size_t rounded = (bytes + 15) / 16 * 16;
  size_t inner = pages(rounded);
  size_t mapped = inner + 8192;
  char *mapping =
      (char *)mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED || mprotect(mapping + 4096, inner, PROT_READ | PROT_WRITE) != 0) {
    return fail(OUT_OF_MEMORY, "the host has no room for %zu bytes", bytes);
  }
  char *start = mapping + 4096 + inner - rounded;
  memset(mapping + 4096, 0xff, inner);
  allocations[(uintptr_t)start] = {mapping, mapped, bytes, device};
  if (device) {
    held += bytes;
    allocationCount++;
  }
  *result = start;
  return SUCCESS;
}

int release(void *address, bool device) {
  if (address == nullptr) {
    return SUCCESS;
  }
  auto found = allocations.find((uintptr_t)address);
  if (found == allocations.end() || found->second.device != device) {
    return fail(INVALID_VALUE, "%p was not allocated, or was freed before", address);
  }
  if (device) {
    held -= found->second.bytes;
  }
  munmap(found->second.mapping, found->second.mapped);
  allocations.erase(found);
  return SUCCESS;
}

// Faults of kernels come back to the launch; all others go to whoever handled them before.
sigjmp_buf launchFrame;
volatile bool launching;
pthread_t launchThread;
void *volatile faultAddress;
struct sigaction before[2];
constexpr int SIGNALS[] = {SIGSEGV, SIGBUS};

void onFault(int signal, siginfo_t *info, void *machine) {
  if (launching && pthread_equal(pthread_self(), launchThread)) {
    faultAddress = info->si_addr;
    siglongjmp(launchFrame, 1);
  }
  struct sigaction &old = before[signal == SIGBUS];
  if (old.sa_flags & SA_SIGINFO) {
    old.sa_sigaction(signal, info, machine);
  } else if (old.sa_handler == SIG_DFL || old.sa_handler == SIG_IGN) {
    sigaction(signal, &old, nullptr);
  } else {
    old.sa_handler(signal);
  }
}

// Runs something that reads and writes device memory; false when it left it.
bool guarded(const std::function<void()> &work) {
  struct sigaction action = {};
  action.sa_sigaction = onFault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
  for (int i = 0; i < 2; i++) {
    sigaction(SIGNALS[i], &action, &before[i]);
  }
  launchThread = pthread_self();
  bool whole = sigsetjmp(launchFrame, 1) == 0;
  if (whole) {
    launching = true;
    work();
  }
  launching = false;
  for (int i = 0; i < 2; i++) {
    sigaction(SIGNALS[i], &before[i], nullptr);
  }
  return whole;
}

int failByRequest() {
  if (failCountdown > 0 && --failCountdown == 0) {
    if (failCode == ILLEGAL_ADDRESS || failCode == LAUNCH_FAILED) {
      sticky = failCode;
    }
    return fail(failCode, "a failure that was asked for");
  }
  return SUCCESS;
}

int illegalAddress(const char *what) {
  const char *near = "";
  for (auto &entry : allocations) {
    uintptr_t a = (uintptr_t)faultAddress;
    uintptr_t mapping = (uintptr_t)entry.second.mapping;
    if (a >= mapping && a < mapping + entry.second.mapped) {
      near = a >= entry.first ? ", right behind an allocation" : ", right before an allocation";
    }
  }
  sticky = ILLEGAL_ADDRESS;
  return fail(ILLEGAL_ADDRESS, "%s: access to %p%s", what, faultAddress, near);
}

int launch(
    Function *f, Dim3 grid, Dim3 block, unsigned shared, std::vector<std::vector<char>> values) {
  launchCount++;
  if (int code = failByRequest()) {
    return code;
  }
  std::vector<void *> arguments;
  for (auto &value : values) {
    arguments.push_back(value.data());
  }
  // Dynamic shared memory too ends at a page without access.
  void *sharedMemory = nullptr;
  size_t rounded = (shared + 15) / 16 * 16;
  size_t inner = pages(rounded);
  char *mapping = nullptr;
  if (shared > 0) {
    mapping = (char *)mmap(
        nullptr, inner + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(mapping + inner, 4096, PROT_NONE);
    sharedMemory = mapping + inner - rounded;
  }
  const char *failure = nullptr;
  bool whole = guarded([&] {
    failure = f->module->run(
        f->kernel, grid, block, arguments.data(), sharedMemory, shared, threadOrder);
  });
  if (mapping != nullptr) {
    munmap(mapping, inner + 4096);
  }
  if (!whole) {
    return illegalAddress(f->kernel->name);
  }
  if (failure != nullptr) {
    sticky = LAUNCH_FAILED;
    return fail(LAUNCH_FAILED, "%s: %s", f->kernel->name, failure);
  }
  return SUCCESS;
}

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::string folderOfLibrary() {
  Dl_info info;
  dladdr((void *)&folderOfLibrary, &info);
  std::string path = info.dli_fname;
  size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

}  // namespace

// ---- for tests ----

EXPORT const char *emulatedLastError() { return lastError.c_str(); }

EXPORT int emulatedSetMemoryLimit(size_t bytes) {
  memoryLimit = bytes;
  return 0;
}

EXPORT void emulatedReset() {
  Guard guard(lock);
  dropWork();
  sticky = 0;
  failCountdown = 0;
  driverVersion = 13000;
  deviceCount = 1;
  refusedEpilogues = 0;
  lastError.clear();
}

EXPORT void emulatedFailLaunch(int countdown, int code) {
  failCountdown = countdown;
  failCode = code;
}

EXPORT long emulatedAllocations() { return allocationCount; }
EXPORT long emulatedLaunches() { return launchCount; }
EXPORT long emulatedBytes() { return (long)held; }
EXPORT void emulatedSetOrder(int order) { threadOrder = order; }
EXPORT void emulatedSetDriverVersion(int version) { driverVersion = version; }
EXPORT void emulatedSetDevices(int count) { deviceCount = count; }

// Epilogues, added up, for which cuBLASLt finds no algorithm.
EXPORT void emulatedRefuseEpilogues(uint32_t epilogues) { refusedEpilogues = epilogues; }

// How streams order their work: see streamOrder. Returns what it was.
EXPORT int emulatedSetStreams(int order) {
  Guard guard(lock);
  int old = streamOrder;
  streamOrder = order;
  streamRandom.seed((unsigned)order);
  return old;
}

EXPORT void emulatedSetCapability(int major, int minor) {
  majorCapability = major;
  minorCapability = minor;
}

// ---- the driver: errors, devices, contexts ----

EXPORT int cuGetErrorName(int code, const char **name) {
  for (const CodeName &c : CODES) {
    if (c.code == code) {
      *name = c.name;
      return SUCCESS;
    }
  }
  *name = nullptr;
  return INVALID_VALUE;
}

EXPORT int cuGetErrorString(int code, const char **text) {
  for (const CodeName &c : CODES) {
    if (c.code == code) {
      *text = c.text;
      return SUCCESS;
    }
  }
  *text = nullptr;
  return INVALID_VALUE;
}

EXPORT int cuInit(unsigned flags) {
  if (flags != 0) {
    return INVALID_VALUE;
  }
  initialised = true;
  return SUCCESS;
}

EXPORT int cuDriverGetVersion(int *version) {
  *version = driverVersion;
  return SUCCESS;
}

#define INITIALISED \
  if (!initialised) return fail(NOT_INITIALIZED, "cuInit was not called");

EXPORT int cuDeviceGetCount(int *count) {
  INITIALISED
  *count = deviceCount;
  return SUCCESS;
}

EXPORT int cuDeviceGet(int *device, int ordinal) {
  INITIALISED
  if (ordinal < 0 || ordinal >= deviceCount) {
    return fail(INVALID_DEVICE, "device %d of %d was asked", ordinal, deviceCount);
  }
  *device = ordinal;
  return SUCCESS;
}

EXPORT int cuDeviceGetName(char *name, int length, int device) {
  INITIALISED
  snprintf(name, (size_t)length, "Emulated device");
  return device >= 0 && device < deviceCount ? SUCCESS : INVALID_DEVICE;
}

EXPORT int cuDeviceGetUuid_v2(void *uuid, int) {
  memset(uuid, 0, 16);
  return SUCCESS;
}

EXPORT int cuDeviceTotalMem_v2(size_t *bytes, int) {
  INITIALISED
  *bytes = memoryLimit;
  return SUCCESS;
}

EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
  INITIALISED
  if (device < 0 || device >= deviceCount) {
    return INVALID_DEVICE;
  }
  switch (attribute) {
    case 1: *value = 1024; break;  // threads of a block
    case 2:
    case 3: *value = 1024; break;  // their extents
    case 4: *value = 64; break;
    case 5: *value = 0x7fffffff; break;  // extents of a grid
    case 6:
    case 7: *value = 65535; break;
    case 8: *value = 48 << 10; break;  // shared memory of a block
    case 9: *value = 64 << 10; break;  // constant memory
    case 10: *value = 32; break;  // warp
    case 12: *value = 65536; break;  // registers of a block
    case 13: *value = 1000000; break;  // clock, kHz
    case 14: *value = 512; break;  // alignment of textures
    case 16: *value = 4; break;  // multiprocessors
    case 36: *value = 1000000; break;  // memory clock
    case 37: *value = 5120; break;  // bus width
    case 38: *value = 50 << 20; break;  // L2
    case 39: *value = 2048; break;  // threads of a multiprocessor
    case 41: *value = 1; break;  // unified addresses
    case 75: *value = majorCapability; break;
    case 76: *value = minorCapability; break;
    case 81: *value = 228 << 10; break;  // shared memory of a multiprocessor
    case 97: *value = 232448; break;  // shared memory of a block that asks for it
    case 106: *value = 32; break;  // blocks of a multiprocessor
    case 115: *value = 1; break;  // memory pools
    default: *value = 0;
  }
  return SUCCESS;
}

EXPORT int cuDevicePrimaryCtxRetain(void **result, int device) {
  INITIALISED
  if (device < 0 || device >= deviceCount) {
    return INVALID_DEVICE;
  }
  *result = &contexts[device];
  return SUCCESS;
}

EXPORT int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }

EXPORT int cuCtxCreate_v2(void **result, unsigned, int device) {
  INITIALISED
  *result = &contexts[device];
  currentContext = &contexts[device];
  return SUCCESS;
}

EXPORT int cuCtxDestroy_v2(void *) {
  currentContext = nullptr;
  return SUCCESS;
}

EXPORT int cuCtxSetCurrent(void *c) {
  INITIALISED
  if (c != nullptr && ((int *)c < contexts || (int *)c >= contexts + MOST_DEVICES)) {
    return fail(INVALID_CONTEXT, "not a context");
  }
  currentContext = c;
  return SUCCESS;
}

EXPORT int cuCtxPushCurrent_v2(void *c) { return cuCtxSetCurrent(c); }

EXPORT int cuCtxPopCurrent_v2(void **c) {
  if (c != nullptr) {
    *c = currentContext;
  }
  currentContext = nullptr;
  return SUCCESS;
}

EXPORT int cuCtxGetCurrent(void **c) {
  *c = currentContext;
  return SUCCESS;
}

EXPORT int cuCtxGetDevice(int *device) {
  *device = currentContext ? currentDevice() : 0;
  return currentContext ? SUCCESS : INVALID_CONTEXT;
}

EXPORT int cuCtxSynchronize() {
  ENTER
  int code = forbidWhileCapturing("cuCtxSynchronize");
  return code ? code : drainDevice();
}

// ---- memory ----

EXPORT int cuMemGetInfo_v2(size_t *unused, size_t *total) {
  ENTER
  *unused = held < memoryLimit ? memoryLimit - held : 0;
  *total = memoryLimit;
  return SUCCESS;
}

EXPORT int cuMemAlloc_v2(void **result, size_t bytes) {
  ENTER
  if (int code = forbidWhileCapturing("cuMemAlloc")) {
    return code;
  }
  return allocate(result, bytes, true);
}

EXPORT int cuMemFree_v2(void *address) {
  ENTER
  if (int code = forbidWhileCapturing("cuMemFree")) {
    return code;
  }
  if (int code = drainDevice()) {
    return code;
  }
  return release(address, true);
}

EXPORT int cuMemAllocAsync(void **result, size_t bytes, void *s) {
  ENTER
  STREAM(s)
  if (stream->capture) {
    return fail(NOT_SUPPORTED, "allocations within a graph are not emulated");
  }
  return allocate(result, bytes, true);
}

EXPORT int cuMemFreeAsync(void *address, void *s) {
  ENTER
  STREAM(s)
  if (stream->capture) {
    return fail(NOT_SUPPORTED, "allocations within a graph are not emulated");
  }
  int code = drain(stream);
  return code ? code : release(address, true);
}

EXPORT int cuDeviceGetDefaultMemPool(void **pool, int) {
  INITIALISED
  *pool = &allocations;
  return SUCCESS;
}

EXPORT int cuMemPoolSetAttribute(void *, int, void *) { return SUCCESS; }
EXPORT int cuMemPoolTrimTo(void *, size_t) { return SUCCESS; }

EXPORT int cuMemHostAlloc(void **result, size_t bytes, unsigned) {
  ENTER
  return allocate(result, bytes, false);
}

EXPORT int cuMemAllocHost_v2(void **result, size_t bytes) {
  return cuMemHostAlloc(result, bytes, 0);
}

EXPORT int cuMemFreeHost(void *address) {
  ENTER
  if (int code = drainDevice()) {
    return code;
  }
  return release(address, false);
}

namespace {

int copy(Stream *stream, void *target, const void *source, size_t bytes, const char *what) {
  return submit(stream, [=] {
    return guarded([=] { memmove(target, source, bytes); }) ? SUCCESS : illegalAddress(what);
  });
}

int set(Stream *stream, char *target, size_t width, unsigned value, size_t n) {
  if (int code = checkDevice((uintptr_t)target, n * width, "cuMemset")) {
    return code;
  }
  return submit(stream, [=] {
    for (size_t i = 0; i < n; i++) {
      memcpy(target + i * width, &value, width);
    }
    return SUCCESS;
  });
}

}  // namespace

EXPORT int cuMemcpyHtoDAsync_v2(uintptr_t target, const void *source, size_t bytes, void *s) {
  ENTER
  STREAM(s)
  if (int code = checkDevice(target, bytes, "cuMemcpyHtoD")) {
    return code;
  }
  if (find((uintptr_t)source, bytes) == nullptr) {
    // Memory that is not page-locked has been read when the call returns.
    auto bounce = std::make_shared<std::vector<char>>((char *)source, (char *)source + bytes);
    return submit(stream, [=] {
      memcpy((void *)target, bounce->data(), bytes);
      return (int)SUCCESS;
    });
  }
  return copy(stream, (void *)target, source, bytes, "cuMemcpyHtoD");
}

EXPORT int cuMemcpyDtoHAsync_v2(void *target, uintptr_t source, size_t bytes, void *s) {
  ENTER
  STREAM(s)
  if (int code = checkDevice(source, bytes, "cuMemcpyDtoH")) {
    return code;
  }
  return copy(stream, target, (void *)source, bytes, "cuMemcpyDtoH");
}

EXPORT int cuMemcpyDtoDAsync_v2(uintptr_t target, uintptr_t source, size_t bytes, void *s) {
  ENTER
  STREAM(s)
  int code = checkDevice(source, bytes, "cuMemcpyDtoD, source");
  if (code == SUCCESS) {
    code = checkDevice(target, bytes, "cuMemcpyDtoD, target");
  }
  return code ? code : copy(stream, (void *)target, (void *)source, bytes, "cuMemcpyDtoD");
}

EXPORT int cuMemcpyHtoD_v2(uintptr_t target, const void *source, size_t bytes) {
  return cuMemcpyHtoDAsync_v2(target, source, bytes, nullptr);
}

EXPORT int cuMemcpyDtoH_v2(void *target, uintptr_t source, size_t bytes) {
  return cuMemcpyDtoHAsync_v2(target, source, bytes, nullptr);
}

EXPORT int cuMemcpyDtoD_v2(uintptr_t target, uintptr_t source, size_t bytes) {
  return cuMemcpyDtoDAsync_v2(target, source, bytes, nullptr);
}

EXPORT int cuMemsetD8Async(char *target, unsigned char value, size_t n, void *s) {
  ENTER
  STREAM(s)
  return set(stream, target, 1, value, n);
}

EXPORT int cuMemsetD16Async(char *target, unsigned short value, size_t n, void *s) {
  ENTER
  STREAM(s)
  return set(stream, target, 2, value, n);
}

EXPORT int cuMemsetD32Async(char *target, unsigned value, size_t n, void *s) {
  ENTER
  STREAM(s)
  return set(stream, target, 4, value, n);
}

EXPORT int cuMemsetD8_v2(char *target, unsigned char value, size_t n) {
  return cuMemsetD8Async(target, value, n, nullptr);
}

EXPORT int cuMemsetD16_v2(char *target, unsigned short value, size_t n) {
  return cuMemsetD16Async(target, value, n, nullptr);
}

EXPORT int cuMemsetD32_v2(char *target, unsigned value, size_t n) {
  return cuMemsetD32Async(target, value, n, nullptr);
}

// ---- streams, events, graphs ----

EXPORT int cuStreamCreate(void **result, unsigned) {
  ENTER
  auto stream = std::make_unique<Stream>();
  stream->device = currentDevice();
  *result = stream.get();
  streams[stream.get()] = std::move(stream);
  return SUCCESS;
}

EXPORT int cuStreamCreateWithPriority(void **result, unsigned flags, int) {
  return cuStreamCreate(result, flags);
}

EXPORT int cuStreamDestroy_v2(void *s) {
  Guard guard(lock);
  auto found = streams.find((Stream *)s);
  if (found == streams.end()) {
    return fail(INVALID_HANDLE, "not a stream");
  }
  int code = drain(found->first);
  streams.erase((Stream *)s);
  return code;
}

EXPORT int cuStreamSynchronize(void *s) {
  ENTER
  STREAM(s)
  if (stream->capture) {
    stream->capture->valid = false;
    return fail(STREAM_CAPTURE_UNSUPPORTED, "cuStreamSynchronize of a capturing stream");
  }
  return drain(stream);
}

EXPORT int cuStreamQuery(void *s) {
  ENTER
  STREAM(s)
  return stream->queue.empty() ? SUCCESS : NOT_READY;
}

EXPORT int cuEventCreate(void **result, unsigned) {
  ENTER
  auto event = std::make_shared<Event>();
  *result = event.get();
  events[event.get()] = std::move(event);
  return SUCCESS;
}

EXPORT int cuEventDestroy_v2(void *e) {
  Guard guard(lock);
  return events.erase((Event *)e) == 1 ? SUCCESS : fail(INVALID_HANDLE, "not an event");
}

#define EVENT(handle)                                       \
  auto foundEvent = events.find((Event *)handle);           \
  if (foundEvent == events.end()) return fail(INVALID_HANDLE, "%s: not an event", __func__); \
  std::shared_ptr<Event> event = foundEvent->second;

EXPORT int cuEventRecord(void *e, void *s) {
  ENTER
  STREAM(s)
  EVENT(e)
  event->capture = stream->capture;
  if (stream->capture) {
    return SUCCESS;
  }
  event->stream = stream;
  long version = ++event->recorded;
  return submit(stream, [event, version] {
    event->done = std::max(event->done, version);
    event->seconds = seconds();
    return (int)SUCCESS;
  });
}

EXPORT int cuStreamWaitEvent(void *s, void *e, unsigned) {
  ENTER
  STREAM(s)
  EVENT(e)
  if (event->capture) {
    stream->capture = event->capture;  // the stream joins the capture
    return SUCCESS;
  }
  if (stream->capture) {
    stream->capture->valid = false;
    return fail(STREAM_CAPTURE_ISOLATION, "a capturing stream waits for what is not captured");
  }
  long version = event->recorded;
  return submit(
      stream, [] { return (int)SUCCESS; }, [event, version] { return event->done >= version; });
}

EXPORT int cuEventSynchronize(void *e) {
  ENTER
  EVENT(e)
  if (event->capture) {
    event->capture->valid = false;
    return fail(STREAM_CAPTURE_UNSUPPORTED, "cuEventSynchronize of a captured event");
  }
  long version = event->recorded;
  return drain(event->stream, [event, version] { return event->done >= version; });
}

EXPORT int cuEventQuery(void *e) {
  ENTER
  EVENT(e)
  return event->done >= event->recorded ? SUCCESS : NOT_READY;
}

EXPORT int cuEventElapsedTime_v2(float *milliseconds, void *a, void *b) {
  ENTER
  auto from = events.find((Event *)a);
  auto to = events.find((Event *)b);
  if (from == events.end() || to == events.end() || from->second->seconds < 0
      || to->second->seconds < 0) {
    return fail(INVALID_HANDLE, "cuEventElapsedTime: an event that was not recorded");
  }
  *milliseconds = (float)(1000 * (to->second->seconds - from->second->seconds));
  return SUCCESS;
}

EXPORT int cuEventElapsedTime(float *milliseconds, void *a, void *b) {
  return cuEventElapsedTime_v2(milliseconds, a, b);
}

EXPORT int cuStreamBeginCapture_v2(void *s, int mode) {
  ENTER
  STREAM(s)
  if (stream == &defaultStream) {
    return fail(STREAM_CAPTURE_UNSUPPORTED, "the default stream cannot capture");
  }
  if (stream->capture) {
    return fail(ILLEGAL_STATE, "the stream captures already");
  }
  stream->capture = std::make_shared<Graph>();
  stream->origin = true;
  stream->mode = mode;
  return SUCCESS;
}

EXPORT int cuStreamIsCapturing(void *s, int *status) {
  ENTER
  STREAM(s)
  *status = !stream->capture ? 0 : stream->capture->valid ? 1 : 2;
  return SUCCESS;
}

EXPORT int cuStreamEndCapture(void *s, void **result) {
  ENTER
  STREAM(s)
  *result = nullptr;
  if (!stream->capture) {
    return fail(ILLEGAL_STATE, "the stream does not capture");
  }
  if (!stream->origin) {
    return fail(STREAM_CAPTURE_UNMATCHED, "the capture began on another stream");
  }
  std::shared_ptr<Graph> graph = stream->capture;
  for (auto &entry : streams) {
    if (entry.second->capture == graph) {
      entry.second->capture = nullptr;
      entry.second->origin = false;
    }
  }
  for (auto &entry : events) {
    if (entry.second->capture == graph) {
      entry.second->capture = nullptr;
    }
  }
  if (!graph->valid) {
    return fail(STREAM_CAPTURE_INVALIDATED, "the capture was invalidated");
  }
  graphs[graph.get()] = graph;
  *result = graph.get();
  return SUCCESS;
}

EXPORT int cuGraphGetNodes(void *g, void *nodes, size_t *count) {
  ENTER
  auto found = graphs.find((Graph *)g);
  if (found == graphs.end() || nodes != nullptr) {
    return fail(INVALID_VALUE, "cuGraphGetNodes: not a graph, or nodes asked for");
  }
  *count = found->second->work.size();
  return SUCCESS;
}

EXPORT int cuGraphInstantiateWithFlags(void **result, void *g, unsigned long long) {
  ENTER
  auto found = graphs.find((Graph *)g);
  if (found == graphs.end()) {
    return fail(INVALID_VALUE, "cuGraphInstantiate: not a graph");
  }
  auto executable = std::make_shared<Graph>(*found->second);
  executables[executable.get()] = executable;
  *result = executable.get();
  return SUCCESS;
}

EXPORT int cuGraphInstantiate(void **result, void *g, unsigned long long flags) {
  return cuGraphInstantiateWithFlags(result, g, flags);
}

EXPORT int cuGraphUpload(void *, void *) { return SUCCESS; }

EXPORT int cuGraphLaunch(void *x, void *s) {
  ENTER
  STREAM(s)
  auto found = executables.find((Graph *)x);
  if (found == executables.end()) {
    return fail(INVALID_VALUE, "cuGraphLaunch: not an executable graph");
  }
  std::shared_ptr<Graph> graph = found->second;
  return submit(stream, [graph] {
    for (auto &work : graph->work) {
      if (int code = work()) {
        return code;
      }
    }
    return (int)SUCCESS;
  });
}

EXPORT int cuGraphExecDestroy(void *x) {
  Guard guard(lock);
  return executables.erase((Graph *)x) == 1 ? SUCCESS : fail(INVALID_VALUE, "not a graph");
}

EXPORT int cuGraphDestroy(void *g) {
  Guard guard(lock);
  return graphs.erase((Graph *)g) == 1 ? SUCCESS : fail(INVALID_VALUE, "not a graph");
}

// ---- modules and launches ----

namespace {
constexpr char MAGIC[] = "EMULATED_CUBIN";
}

EXPORT int cuModuleLoadData(void **result, const void *image) {
  ENTER
  if (strncmp((const char *)image, MAGIC, sizeof MAGIC - 1) != 0) {
    return fail(INVALID_IMAGE, "not an image for the emulated device");
  }
  std::istringstream text((const char *)image + sizeof MAGIC - 1);
  int architecture;
  std::string path;
  text >> architecture >> std::ws;
  std::getline(text, path);
  if (architecture / 10 != majorCapability || architecture % 10 > minorCapability) {
    return fail(
        NO_BINARY_FOR_GPU,
        "the image is for sm_%d, the device is sm_%d%d",
        architecture,
        majorCapability,
        minorCapability);
  }
  void *object = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (object == nullptr) {
    return fail(INVALID_IMAGE, "%s", dlerror());
  }
  auto module = std::make_unique<Module>();
  module->device = currentDevice();
  module->object = object;
  module->run = (Run)dlsym(object, "emulated_run");
  auto *kernel = (const Kernel *)dlsym(object, "emulated_kernels");
  for (; kernel->name != nullptr; kernel++) {
    auto function = std::make_unique<Function>();
    function->kernel = kernel;
    function->module = module.get();
    functions.insert(function.get());
    module->functions[kernel->name] = std::move(function);
  }
  *result = module.get();
  modules[module.get()] = std::move(module);
  return SUCCESS;
}

EXPORT int cuModuleLoadDataEx(void **result, const void *image, unsigned, void *, void *) {
  return cuModuleLoadData(result, image);
}

EXPORT int cuModuleUnload(void *m) {
  ENTER
  if (int code = drainDevice()) {
    return code;
  }
  auto found = modules.find((Module *)m);
  if (found == modules.end()) {
    return fail(INVALID_HANDLE, "not a module");
  }
  for (auto &entry : found->second->functions) {
    functions.erase(entry.second.get());
  }
  auto *global = (const Global *)dlsym(found->second->object, "emulated_globals");
  for (; global->name != nullptr; global++) {
    allocations.erase((uintptr_t)global->address);
  }
  dlclose(found->second->object);
  modules.erase(found);
  return SUCCESS;
}

EXPORT int cuModuleGetFunction(void **result, void *m, const char *name) {
  ENTER
  auto module = modules.find((Module *)m);
  if (module == modules.end()) {
    return fail(INVALID_HANDLE, "not a module");
  }
  auto found = module->second->functions.find(name);
  if (found == module->second->functions.end()) {
    return fail(NOT_FOUND, "no kernel %s", name);
  }
  *result = found->second.get();
  return SUCCESS;
}

EXPORT int cuModuleGetGlobal_v2(uintptr_t *address, size_t *bytes, void *m, const char *name) {
  ENTER
  auto module = modules.find((Module *)m);
  if (module == modules.end()) {
    return fail(INVALID_HANDLE, "not a module");
  }
  auto *global = (const Global *)dlsym(module->second->object, "emulated_globals");
  for (; global->name != nullptr; global++) {
    if (strcmp(global->name, name) == 0) {
      uintptr_t a = (uintptr_t)global->address;
      allocations[a] = {nullptr, 0, global->size, true};  // so that it can be copied
      if (address != nullptr) {
        *address = a;
      }
      if (bytes != nullptr) {
        *bytes = global->size;
      }
      return SUCCESS;
    }
  }
  return fail(NOT_FOUND, "no global %s", name);
}

#define FUNCTION(handle)                                  \
  Function *function = (Function *)handle;                \
  if (functions.count(function) == 0) return fail(INVALID_HANDLE, "%s: not a function", __func__);

EXPORT int cuFuncSetAttribute(void *f, int attribute, int value) {
  ENTER
  FUNCTION(f)
  if (attribute == 8) {
    if (value < 0 || value > 232448) {
      return fail(INVALID_VALUE, "%d bytes of dynamic shared memory", value);
    }
    function->maxShared = value;
  }
  return SUCCESS;
}

EXPORT int cuFuncGetAttribute(int *value, int attribute, void *f) {
  ENTER
  FUNCTION(f)
  switch (attribute) {
    case 0: *value = function->kernel->maxThreads ? function->kernel->maxThreads : 1024; break;
    case 4: *value = 64; break;
    case 8: *value = function->maxShared; break;
    default: *value = 0;
  }
  return SUCCESS;
}

EXPORT int cuLaunchKernel(
    void *f,
    unsigned gridX,
    unsigned gridY,
    unsigned gridZ,
    unsigned blockX,
    unsigned blockY,
    unsigned blockZ,
    unsigned shared,
    void *s,
    void **parameters,
    void **extra) {
  ENTER
  STREAM(s)
  FUNCTION(f)
  const char *name = function->kernel->name;
  if (function->module->device != currentDevice() || stream->device != currentDevice()) {
    return fail(INVALID_HANDLE, "%s: a kernel or stream of another context", name);
  }
  uint64_t threads = (uint64_t)blockX * blockY * blockZ;
  if (gridX == 0 || gridY == 0 || gridZ == 0 || threads == 0 || gridX > 0x7fffffffu
      || gridY > 65535 || gridZ > 65535 || blockX > 1024 || blockY > 1024 || blockZ > 64
      || threads > 1024) {
    return fail(
        INVALID_VALUE,
        "%s: grid %u x %u x %u of blocks %u x %u x %u",
        name,
        gridX,
        gridY,
        gridZ,
        blockX,
        blockY,
        blockZ);
  }
  int most = function->kernel->maxThreads;
  if (most > 0 && threads > (uint64_t)most) {
    return fail(
        LAUNCH_OUT_OF_RESOURCES, "%s: %d threads, bound to %d", name, (int)threads, most);
  }
  if ((int)shared > function->maxShared) {
    return fail(
        INVALID_VALUE,
        "%s: %u bytes of shared memory, %d allowed",
        name,
        shared,
        function->maxShared);
  }
  if (extra != nullptr || (parameters == nullptr && function->kernel->count > 0)) {
    return fail(INVALID_VALUE, "%s: parameters must be given as kernelParams", name);
  }
  std::vector<std::vector<char>> values;
  for (int i = 0; i < function->kernel->count; i++) {
    if (parameters[i] == nullptr) {
      return fail(INVALID_VALUE, "%s: parameter %d is null", name, i);
    }
    const char *value = (const char *)parameters[i];
    values.emplace_back(value, value + function->kernel->sizes[i]);
  }
  Dim3 grid{gridX, gridY, gridZ};
  Dim3 block{blockX, blockY, blockZ};
  return submit(stream, [=] { return launch(function, grid, block, shared, values); });
}

// ---- NVRTC ----

namespace {

struct Program {
  std::string source;
  std::string name;
  std::map<std::string, std::string> headers;
  std::string log;
  std::string image;
};

std::set<Program *> programs;

enum Nvrtc {
  NVRTC_SUCCESS = 0,
  NVRTC_INVALID_INPUT = 3,
  NVRTC_INVALID_PROGRAM = 4,
  NVRTC_INVALID_OPTION = 5,
  NVRTC_COMPILATION = 6,
};

uint64_t hash(const std::string &text, uint64_t h = 1469598103934665603ull) {
  for (unsigned char c : text) {
    h = (h ^ c) * 1099511628211ull;
  }
  return h;
}

std::string read(const std::string &path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// The tables of a source's kernels and globals.
std::string tables(const std::string &source) {
  std::ostringstream out;
  out << "\nextern \"C\" __attribute__((visibility(\"default\"))) const emulated::Kernel "
         "emulated_kernels[] = {\n";
  std::regex kernel(
      "(?:KERNEL|__global__\\s+void)\\s+(?:__launch_bounds__\\((\\d*)[^)]*\\)\\s*)?(\\w+)\\s*\\(");
  for (std::sregex_iterator i(source.begin(), source.end(), kernel), end; i != end; ++i) {
    std::string bound = (*i)[1].str();
    out << "EMULATED_KERNEL(" << (*i)[2] << ", " << (bound.empty() ? "0" : bound) << ")\n";
  }
  out << "{nullptr, nullptr, nullptr, 0, 0}};\n"
         "extern \"C\" __attribute__((visibility(\"default\"))) const emulated::Global "
         "emulated_globals[] = {\n";
  std::regex global("__(?:device|constant)__\\s+(?:const\\s+)?int\\s+(\\w+)\\s*\\[");
  for (std::sregex_iterator i(source.begin(), source.end(), global), end; i != end; ++i) {
    out << "EMULATED_GLOBAL(" << (*i)[1] << ")\n";
  }
  out << "{nullptr, nullptr, 0}};\n";
  return out.str();
}

}  // namespace

EXPORT int nvrtcVersion(int *major, int *minor) {
  *major = 13;
  *minor = 0;
  return NVRTC_SUCCESS;
}

EXPORT int nvrtcGetNumSupportedArchs(int *count) {
  *count = 4;
  return NVRTC_SUCCESS;
}

EXPORT int nvrtcGetSupportedArchs(int *architectures) {
  const int all[] = {80, 90, 100, 120};
  memcpy(architectures, all, sizeof all);
  return NVRTC_SUCCESS;
}

EXPORT const char *nvrtcGetErrorString(int code) {
  switch (code) {
    case NVRTC_SUCCESS: return "NVRTC_SUCCESS";
    case NVRTC_INVALID_INPUT: return "NVRTC_ERROR_INVALID_INPUT";
    case NVRTC_INVALID_PROGRAM: return "NVRTC_ERROR_INVALID_PROGRAM";
    case NVRTC_INVALID_OPTION: return "NVRTC_ERROR_INVALID_OPTION";
    case NVRTC_COMPILATION: return "NVRTC_ERROR_COMPILATION";
    default: return "NVRTC_ERROR unknown";
  }
}

EXPORT int nvrtcCreateProgram(
    Program **result,
    const char *source,
    const char *name,
    int headerCount,
    const char *const *headers,
    const char *const *includeNames) {
  Guard guard(lock);
  if (result == nullptr || source == nullptr || headerCount < 0) {
    return NVRTC_INVALID_INPUT;
  }
  auto *program = new Program();
  program->source = source;
  program->name = name != nullptr ? name : "default_program";
  for (int i = 0; i < headerCount; i++) {
    program->headers[includeNames[i]] = headers[i];
  }
  programs.insert(program);
  *result = program;
  return NVRTC_SUCCESS;
}

EXPORT int nvrtcDestroyProgram(Program **program) {
  Guard guard(lock);
  if (program == nullptr || programs.erase(*program) == 0) {
    return NVRTC_INVALID_PROGRAM;
  }
  delete *program;
  *program = nullptr;
  return NVRTC_SUCCESS;
}

EXPORT int nvrtcCompileProgram(Program *program, int count, const char *const *options) {
  Guard guard(lock);
  if (programs.count(program) == 0) {
    return NVRTC_INVALID_PROGRAM;
  }
  int architecture = 75;
  std::string defines;
  for (int i = 0; i < count; i++) {
    std::string option = options[i];
    std::smatch match;
    if (std::regex_match(
            option, match, std::regex("(?:--gpu-architecture|-arch)=(?:sm|compute)_(\\d+)a?"))) {
      architecture = atoi(match[1].str().c_str());
      if (architecture < 75 || architecture > 121) {
        program->log = "nvrtc: error: invalid value for --gpu-architecture (-arch)\n";
        return NVRTC_INVALID_OPTION;
      }
    } else if (std::regex_match(option, std::regex("-D\\w+(=\\w+)?"))) {
      defines += " " + option;
    } else if (std::regex_match(option, match, std::regex("--define-macro=(\\w+(=\\w+)?)"))) {
      defines += " -D" + match[1].str();
    } else if (!std::regex_match(
                   option,
                   std::regex("(?:--std|-std)=c\\+\\+\\d+|--fmad=(true|false)|-lineinfo|"
                              "--generate-line-info|--device-as-default-execution-space|"
                              "-default-device|--restrict|--extra-device-vectorization|"
                              "--maxrregcount=\\d+|-w|--disable-warnings"))) {
      program->log = "nvrtc: error: unrecognized option " + option + " found\n";
      return NVRTC_INVALID_OPTION;
    }
  }
  const char *cacheSetting = getenv("EMULATED_CUDA_CACHE");
  std::string folder = cacheSetting != nullptr ? cacheSetting : folderOfLibrary() + "/kernels";
  std::string host = read(folderOfLibrary() + "/cuda_on_host.h");
  uint64_t key = hash(host, hash(defines, hash(program->source)));
  for (auto &header : program->headers) {
    key = hash(header.second, hash(header.first, key));
  }
  char hex[32];
  snprintf(hex, sizeof hex, "%016llx", (unsigned long long)key);
  std::string object = folder + "/" + hex + ".so";
  if (access(object.c_str(), R_OK) != 0) {
    std::string work = folder + "/" + hex + "." + std::to_string(getpid());
    mkdir(folder.c_str(), 0777);
    mkdir(work.c_str(), 0777);
    std::ofstream(work + "/kernel.cpp")
        << "#include \"" << folderOfLibrary() << "/cuda_on_host.h\"\n#line 1 \"" << program->name
        << "\"\n"
        << program->source << tables(program->source);
    for (auto &header : program->headers) {
      std::ofstream(work + "/" + header.first) << header.second;
    }
    const char *compiler = getenv("CXX");
    std::string command = std::string(compiler != nullptr ? compiler : "g++")
        + " -std=c++17 -O2 -fPIC -shared -fvisibility=hidden -fno-gnu-unique -fno-strict-aliasing"
          " -Wall -Wno-unknown-pragmas -Wno-unused-function -Wno-unused-variable"
          " -Wno-return-type -Wno-maybe-uninitialized"
        + defines + " -I'" + work + "' '" + work + "/kernel.cpp' -o '" + work + "/kernel.so' 2>&1";
    FILE *pipe = popen(command.c_str(), "r");
    program->log.clear();
    char buffer[4096];
    size_t n;
    while (pipe != nullptr && (n = fread(buffer, 1, sizeof buffer, pipe)) > 0) {
      program->log.append(buffer, n);
    }
    int status = pipe != nullptr ? pclose(pipe) : -1;
    bool done = status == 0 && rename((work + "/kernel.so").c_str(), object.c_str()) == 0;
    unlink((work + "/kernel.cpp").c_str());
    unlink((work + "/kernel.so").c_str());
    for (auto &header : program->headers) {
      unlink((work + "/" + header.first).c_str());
    }
    rmdir(work.c_str());
    if (!done) {
      return NVRTC_COMPILATION;
    }
  }
  program->image = std::string(MAGIC) + " " + std::to_string(architecture) + " " + object;
  program->image.push_back('\0');
  return NVRTC_SUCCESS;
}

EXPORT int nvrtcGetProgramLogSize(Program *program, size_t *bytes) {
  if (programs.count(program) == 0) {
    return NVRTC_INVALID_PROGRAM;
  }
  *bytes = program->log.size() + 1;
  return NVRTC_SUCCESS;
}

EXPORT int nvrtcGetProgramLog(Program *program, char *log) {
  if (programs.count(program) == 0) {
    return NVRTC_INVALID_PROGRAM;
  }
  memcpy(log, program->log.c_str(), program->log.size() + 1);
  return NVRTC_SUCCESS;
}

EXPORT int nvrtcGetCUBINSize(Program *program, size_t *bytes) {
  if (programs.count(program) == 0 || program->image.empty()) {
    return NVRTC_INVALID_PROGRAM;
  }
  *bytes = program->image.size();
  return NVRTC_SUCCESS;
}

EXPORT int nvrtcGetCUBIN(Program *program, char *image) {
  if (programs.count(program) == 0 || program->image.empty()) {
    return NVRTC_INVALID_PROGRAM;
  }
  memcpy(image, program->image.data(), program->image.size());
  return NVRTC_SUCCESS;
}

EXPORT int nvrtcGetPTXSize(Program *program, size_t *bytes) {
  return nvrtcGetCUBINSize(program, bytes);
}

EXPORT int nvrtcGetPTX(Program *program, char *image) { return nvrtcGetCUBIN(program, image); }

// ---- cuBLASLt ----

namespace {

enum Cublas {
  CUBLAS_SUCCESS = 0,
  CUBLAS_NOT_INITIALIZED = 1,
  CUBLAS_INVALID_VALUE = 7,
  CUBLAS_EXECUTION_FAILED = 13,
  CUBLAS_NOT_SUPPORTED = 15,
};

constexpr int R_32F = 0;
constexpr int R_16BF = 14;

struct Layout {
  uint32_t type;
  int32_t order = 0;
  uint64_t rows;
  uint64_t columns;
  int64_t ld;
  int32_t batch = 1;
  int64_t batchStride = 0;
};

struct Description {
  int32_t compute;
  int32_t scale;
  int32_t pointerMode = 0;
  int32_t transA = 0;
  int32_t transB = 0;
  uint32_t epilogue = 1;
  void *bias = nullptr;
  int64_t biasStride = 0;
  void *aux = nullptr;
  int64_t auxLd = 0;
  int64_t auxStride = 0;
  int32_t auxType = -1;
  int32_t biasType = -1;
};

struct Preference {
  uint64_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};  // of A, B, C and D
};

// What an algorithm was advised for, as the words of the opaque structure.
struct Algorithm {
  uint64_t magic;
  uint32_t alignment[4];
  uint32_t biasAlignment;
  uint32_t auxAlignment;
  uint32_t epilogue;
  uint32_t types;
  uint64_t extents[2];
  uint64_t more;
};

static_assert(sizeof(Algorithm) == 64, "cublasLtMatmulAlgo_t");

constexpr uint64_t MAGIC_ALGORITHM = 0x656d756c61746564;

enum Epilogue : uint32_t {
  EPILOGUE_DEFAULT = 1,
  EPILOGUE_BIAS = 4,
  EPILOGUE_GELU = 32,
  EPILOGUE_GELU_BIAS = 36,
  EPILOGUE_GELU_AUX = 160,
  EPILOGUE_GELU_AUX_BIAS = 164,
  EPILOGUE_DGELU = 192,
  EPILOGUE_DGELU_BGRAD = 208,
  EPILOGUE_BGRADA = 256,
  EPILOGUE_BGRADB = 512,
};

bool readsBias(uint32_t epilogue) { return epilogue & EPILOGUE_BIAS; }

bool writesBias(uint32_t epilogue) { return epilogue & (16 | EPILOGUE_BGRADA | EPILOGUE_BGRADB); }

bool usesAux(uint32_t epilogue) { return epilogue & 128; }

uint32_t alignmentOf(const void *pointer) {
  uintptr_t address = (uintptr_t)pointer;
  return address == 0 ? 256 : (uint32_t)std::min<uintptr_t>(256, address & -address);
}

// The library's handles point at one word; ours point at the object and are known by address.
std::set<void *> ltObjects;
int ltHandle;

size_t width(uint32_t type) { return type == R_32F ? 4 : 2; }

float element(const void *data, uint32_t type, int64_t i) {
  if (type == R_32F) {
    return ((const float *)data)[i];
  }
  uint32_t bits = (uint32_t)((const uint16_t *)data)[i] << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

uint16_t toBf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return (uint16_t)(bits >> 16 | 0x40);
  }
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

void setElement(void *data, uint32_t type, int64_t i, float x) {
  if (type == R_32F) {
    ((float *)data)[i] = x;
  } else {
    ((uint16_t *)data)[i] = toBf16(x);
  }
}

int64_t at(const Layout &l, int64_t row, int64_t column) {
  return l.order == 0 ? column * l.ld + row : row * l.ld + column;
}

int64_t extent(const Layout &l) {
  if (l.rows == 0 || l.columns == 0) {
    return 0;
  }
  return at(l, (int64_t)l.rows - 1, (int64_t)l.columns - 1) + 1 + (l.batch - 1) * l.batchStride;
}

// How the factors of a product are rounded before it.
float rounded(float x, int compute) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (compute == 77) {  // TF32
    bits = (bits + 0x1000u) & 0xffffe000u;
  } else if (compute == 75) {  // bfloat16
    bits = (uint32_t)toBf16(x) << 16;
  }
  memcpy(&x, &bits, 4);
  return x;
}

double gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

double geluSlope(double x) {
  double k = std::sqrt(2 / M_PI);
  double t = std::tanh(k * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x);
}

const char *unsupported(
    const Description &d, const Layout &a, const Layout &b, const Layout &c, const Layout &r) {
  auto known = [](uint32_t type) { return type == R_32F || type == R_16BF; };
  if (!known(a.type) || !known(r.type) || a.type != b.type || c.type != r.type) {
    return "types of the matrices";
  }
  if (a.type == R_32F && r.type != R_32F) {
    return "a float32 product into bfloat16";
  }
  if (d.scale != R_32F || d.pointerMode != 0) {
    return "scale type or pointer mode";
  }
  if (d.compute != 68 && d.compute != 69 && d.compute != 75 && d.compute != 77) {
    return "compute type";
  }
  uint64_t m = d.transA ? a.columns : a.rows;
  uint64_t k = d.transA ? a.rows : a.columns;
  uint64_t n = d.transB ? b.rows : b.columns;
  uint64_t kb = d.transB ? b.columns : b.rows;
  if (k != kb || r.rows != m || r.columns != n || c.rows != m || c.columns != n) {
    return "extents of the matrices";
  }
  for (const Layout *l : {&a, &b, &c, &r}) {
    if (l->ld < (int64_t)(l->order == 0 ? l->rows : l->columns)) {
      return "leading dimension";
    }
    if (l->batch != r.batch) {
      return "batch counts";
    }
  }
  constexpr uint32_t EPILOGUES[] = {
      EPILOGUE_DEFAULT,
      EPILOGUE_BIAS,
      EPILOGUE_GELU,
      EPILOGUE_GELU_BIAS,
      EPILOGUE_GELU_AUX,
      EPILOGUE_GELU_AUX_BIAS,
      EPILOGUE_DGELU,
      EPILOGUE_DGELU_BGRAD,
      EPILOGUE_BGRADA,
      EPILOGUE_BGRADB};
  bool found = false;
  for (uint32_t e : EPILOGUES) {
    found |= e == d.epilogue;
  }
  if (!found) {
    return "epilogue";
  }
  if (d.epilogue & refusedEpilogues) {
    return "an epilogue that is refused on request";
  }
  bool usesBias = readsBias(d.epilogue) || writesBias(d.epilogue);
  if (usesBias && d.bias == nullptr) {
    return "bias pointer";
  }
  if (usesBias && d.biasType >= 0 && (uint32_t)d.biasType != r.type) {
    return "a bias of another type than the result";
  }
  if (usesBias && r.batch > 1 && d.biasStride == 0 && writesBias(d.epilogue)) {
    return "one bias gradient for several products";
  }
  if (usesAux(d.epilogue)) {
    if (d.aux == nullptr || d.auxLd < (int64_t)m || d.auxLd % 8 != 0) {
      return "auxiliary matrix";
    }
    if (d.auxType >= 0 && (uint32_t)d.auxType != r.type) {
      return "an auxiliary matrix of another type than the result";
    }
  }
  // Reductions over k, and what goes back through GELU, have no algorithm for k = 1 in all versions.
  if (k == 1 && (writesBias(d.epilogue) || (d.epilogue & EPILOGUE_DGELU) == EPILOGUE_DGELU)) {
    return "a bias gradient or a slope of GELU with k = 1";
  }
  if (d.epilogue != EPILOGUE_DEFAULT && d.epilogue != EPILOGUE_BGRADA && r.order != 0) {
    return "an epilogue on a row-major result";
  }
  return nullptr;
}

void multiply(
    const Description &d,
    float alpha,
    const void *a,
    const Layout &al,
    const void *b,
    const Layout &bl,
    float beta,
    const void *c,
    const Layout &cl,
    void *r,
    const Layout &rl) {
  int64_t m = (int64_t)rl.rows;
  int64_t n = (int64_t)rl.columns;
  int64_t k = (int64_t)(d.transA ? al.rows : al.columns);
  std::vector<float> left(m * k);
  std::vector<float> right(n * k);
  std::vector<float> sum(m);
  for (int batch = 0; batch < rl.batch; batch++) {
    auto in = [&](const void *data, const Layout &l, int64_t row, int64_t column) {
      return element(data, l.type, batch * l.batchStride + at(l, row, column));
    };
    for (int64_t p = 0; p < k; p++) {
      for (int64_t i = 0; i < m; i++) {
        left[p * m + i] = rounded(d.transA ? in(a, al, p, i) : in(a, al, i, p), d.compute);
      }
    }
    for (int64_t j = 0; j < n; j++) {
      for (int64_t p = 0; p < k; p++) {
        right[j * k + p] = rounded(d.transB ? in(b, bl, j, p) : in(b, bl, p, j), d.compute);
      }
    }
    auto addTo = [&](std::vector<double> &sums, int64_t i, double x) { sums[i] += x; };
    std::vector<double> gradient;
    if (d.epilogue == EPILOGUE_DGELU_BGRAD || d.epilogue == EPILOGUE_BGRADA) {
      gradient.assign(m, 0);
    } else if (d.epilogue == EPILOGUE_BGRADB) {
      gradient.assign(n, 0);
    }
    for (int64_t j = 0; j < n; j++) {
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (int64_t p = 0; p < k; p++) {
        float x = right[j * k + p];
        const float *column = &left[p * m];
        for (int64_t i = 0; i < m; i++) {
          sum[i] += column[i] * x;
        }
        if (d.epilogue == EPILOGUE_BGRADB) {
          addTo(gradient, j, x);
        }
      }
      for (int64_t i = 0; i < m; i++) {
        double x = (double)alpha * sum[i];
        int64_t o = batch * rl.batchStride + at(rl, i, j);
        if (beta != 0) {
          x += (double)beta * element(c, cl.type, batch * cl.batchStride + at(cl, i, j));
        }
        if (readsBias(d.epilogue)) {
          x += element(d.bias, rl.type, batch * d.biasStride + i);
        }
        int64_t auxAt = batch * d.auxStride + j * d.auxLd + i;
        uint32_t auxType = d.auxType >= 0 ? (uint32_t)d.auxType : rl.type;
        if (d.epilogue & 64) {
          x *= geluSlope(element(d.aux, auxType, auxAt));
        } else if (d.epilogue & 32) {
          if (d.epilogue & 128) {
            setElement(d.aux, auxType, auxAt, (float)x);
          }
          x = gelu(x);
        }
        if (d.epilogue == EPILOGUE_DGELU_BGRAD) {
          addTo(gradient, i, x);
        }
        setElement(r, rl.type, o, (float)x);
      }
    }
    if (d.epilogue == EPILOGUE_BGRADA) {
      for (int64_t p = 0; p < k; p++) {
        for (int64_t i = 0; i < m; i++) {
          addTo(gradient, i, left[p * m + i]);
        }
      }
    }
    for (size_t i = 0; i < gradient.size(); i++) {
      setElement(d.bias, rl.type, batch * d.biasStride + (int64_t)i, (float)gradient[i]);
    }
  }
}

template <typename T>
int setField(T &field, const void *value, size_t bytes) {
  if (value == nullptr || bytes != sizeof(T)) {
    return fail(CUBLAS_INVALID_VALUE, "an attribute of %zu bytes, %zu given", sizeof(T), bytes);
  }
  memcpy(&field, value, bytes);
  return CUBLAS_SUCCESS;
}

}  // namespace

EXPORT const char *cublasLtGetStatusName(int status) {
  switch (status) {
    case CUBLAS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
    default: return "CUBLAS_STATUS_UNKNOWN";
  }
}

EXPORT const char *cublasLtGetStatusString(int status) { return cublasLtGetStatusName(status); }
EXPORT size_t cublasLtGetVersion() { return 130000; }
EXPORT size_t cublasLtGetCudartVersion() { return 13000; }

EXPORT int cublasLtCreate(void **handle) {
  if (!initialised || !currentContext) {
    return fail(CUBLAS_NOT_INITIALIZED, "cublasLtCreate without a context");
  }
  *handle = &ltHandle;
  return CUBLAS_SUCCESS;
}

EXPORT int cublasLtDestroy(void *handle) {
  return handle == &ltHandle ? CUBLAS_SUCCESS : CUBLAS_INVALID_VALUE;
}

#define LT_OBJECT(T)                                                                       \
  EXPORT int cublasLt##T##Destroy(void *object) {                                          \
    Guard guard(lock);                                                                     \
    return ltObjects.erase(object) ? CUBLAS_SUCCESS : fail(CUBLAS_INVALID_VALUE, "not a " #T); \
  }

LT_OBJECT(MatmulDesc)
LT_OBJECT(MatrixLayout)
LT_OBJECT(MatmulPreference)

EXPORT int cublasLtMatmulDescCreate(void **result, int compute, int scale) {
  Guard guard(lock);
  auto *d = new Description();
  d->compute = compute;
  d->scale = scale;
  ltObjects.insert(d);
  *result = d;
  return CUBLAS_SUCCESS;
}

EXPORT int cublasLtMatrixLayoutCreate(
    void **result, int type, uint64_t rows, uint64_t columns, int64_t ld) {
  Guard guard(lock);
  auto *l = new Layout();
  l->type = (uint32_t)type;
  l->rows = rows;
  l->columns = columns;
  l->ld = ld;
  ltObjects.insert(l);
  *result = l;
  return CUBLAS_SUCCESS;
}

EXPORT int cublasLtMatmulPreferenceCreate(void **result) {
  Guard guard(lock);
  auto *p = new Preference();
  ltObjects.insert(p);
  *result = p;
  return CUBLAS_SUCCESS;
}

EXPORT int cublasLtMatmulDescSetAttribute(
    Description *d, int attribute, const void *value, size_t bytes) {
  Guard guard(lock);
  if (ltObjects.count(d) == 0) {
    return fail(CUBLAS_INVALID_VALUE, "not a description of a product");
  }
  switch (attribute) {
    case 0: return setField(d->compute, value, bytes);
    case 1: return setField(d->scale, value, bytes);
    case 2: return setField(d->pointerMode, value, bytes);
    case 3: return setField(d->transA, value, bytes);
    case 4: return setField(d->transB, value, bytes);
    case 7: return setField(d->epilogue, value, bytes);
    case 8: return setField(d->bias, value, bytes);
    case 10: return setField(d->biasStride, value, bytes);
    case 11: return setField(d->aux, value, bytes);
    case 12: return setField(d->auxLd, value, bytes);
    case 13: return setField(d->auxStride, value, bytes);
    case 22: return setField(d->auxType, value, bytes);
    case 26: return setField(d->biasType, value, bytes);
    default: return fail(CUBLAS_INVALID_VALUE, "attribute %d is not emulated", attribute);
  }
}

EXPORT int cublasLtMatrixLayoutSetAttribute(
    Layout *l, int attribute, const void *value, size_t bytes) {
  Guard guard(lock);
  if (ltObjects.count(l) == 0) {
    return fail(CUBLAS_INVALID_VALUE, "not a layout");
  }
  switch (attribute) {
    case 0: return setField(l->type, value, bytes);
    case 1: return setField(l->order, value, bytes);
    case 2: return setField(l->rows, value, bytes);
    case 3: return setField(l->columns, value, bytes);
    case 4: return setField(l->ld, value, bytes);
    case 5: return setField(l->batch, value, bytes);
    case 6: return setField(l->batchStride, value, bytes);
    default: return fail(CUBLAS_INVALID_VALUE, "attribute %d is not emulated", attribute);
  }
}

EXPORT int cublasLtMatmulPreferenceSetAttribute(
    Preference *p, int attribute, const void *value, size_t bytes) {
  Guard guard(lock);
  if (ltObjects.count(p) == 0) {
    return fail(CUBLAS_INVALID_VALUE, "not a preference");
  }
  if (attribute == 1) {
    return setField(p->workspace, value, bytes);
  }
  if (attribute >= 5 && attribute <= 8) {
    return setField(p->alignment[attribute - 5], value, bytes);
  }
  return value != nullptr && attribute >= 0 && attribute <= 12 ? CUBLAS_SUCCESS
                                                               : CUBLAS_INVALID_VALUE;
}

struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

EXPORT int cublasLtMatmulAlgoGetHeuristic(
    void *handle,
    Description *d,
    Layout *a,
    Layout *b,
    Layout *c,
    Layout *r,
    Preference *p,
    int wanted,
    HeuristicResult *results,
    int *count) {
  Guard guard(lock);
  for (void *object : {(void *)d, (void *)a, (void *)b, (void *)c, (void *)r, (void *)p}) {
    if (ltObjects.count(object) == 0) {
      return fail(CUBLAS_INVALID_VALUE, "cublasLtMatmulAlgoGetHeuristic: an unknown object");
    }
  }
  if (handle != &ltHandle || wanted < 1) {
    return fail(CUBLAS_INVALID_VALUE, "cublasLtMatmulAlgoGetHeuristic: handle or count");
  }
  *count = 0;
  if (const char *reason = unsupported(*d, *a, *b, *c, *r)) {
    return fail(CUBLAS_NOT_SUPPORTED, "no algorithm: %s", reason);
  }
  *results = {};
  Algorithm &algorithm = results->algorithm;
  algorithm.magic = MAGIC_ALGORITHM;
  memcpy(algorithm.alignment, p->alignment, sizeof p->alignment);
  algorithm.biasAlignment = alignmentOf(d->bias);
  algorithm.auxAlignment = alignmentOf(d->aux);
  algorithm.epilogue = d->epilogue;
  algorithm.types = a->type | r->type << 8;
  algorithm.extents[0] = r->rows;
  algorithm.extents[1] = r->columns;
  results->workspace = p->workspace < 4096 ? 0 : 4096;
  results->waves = 1;
  *count = 1;
  return CUBLAS_SUCCESS;
}

EXPORT int cublasLtMatmul(
    void *handle,
    Description *d,
    const float *alpha,
    const void *a,
    Layout *al,
    const void *b,
    Layout *bl,
    const float *beta,
    const void *c,
    Layout *cl,
    void *r,
    Layout *rl,
    const Algorithm *algorithm,
    void *workspace,
    size_t workspaceBytes,
    void *s) {
  Guard guard(lock);
  if (sticky) {
    return CUBLAS_EXECUTION_FAILED;
  }
  for (void *object : {(void *)d, (void *)al, (void *)bl, (void *)cl, (void *)rl}) {
    if (ltObjects.count(object) == 0) {
      return fail(CUBLAS_INVALID_VALUE, "cublasLtMatmul: an unknown object");
    }
  }
  Stream *stream = streamOf(s);
  if (handle != &ltHandle || stream == nullptr || alpha == nullptr || beta == nullptr
      || (algorithm != nullptr && algorithm->magic != MAGIC_ALGORITHM)) {
    return fail(CUBLAS_INVALID_VALUE, "cublasLtMatmul: handle, stream, factors or algorithm");
  }
  if (!currentContext || stream->device != currentDevice()) {
    return fail(CUBLAS_INVALID_VALUE, "cublasLtMatmul: a stream of another context");
  }
  if (const char *reason = unsupported(*d, *al, *bl, *cl, *rl)) {
    return fail(CUBLAS_NOT_SUPPORTED, "cublasLtMatmul: %s", reason);
  }
  struct {
    const void *data;
    Layout *layout;
    const char *name;
  } matrices[] = {{a, al, "A"}, {b, bl, "B"}, {r, rl, "D"}, {c, cl, "C"}};
  for (auto &matrix : matrices) {
    size_t bytes = (size_t)extent(*matrix.layout) * width(matrix.layout->type);
    if (matrix.data == c && *beta == 0) {
      continue;
    }
    if ((uintptr_t)matrix.data % width(matrix.layout->type) != 0
        || checkDevice((uintptr_t)matrix.data, bytes, matrix.name)) {
      return fail(
          CUBLAS_INVALID_VALUE,
          "cublasLtMatmul: %s, %zu bytes at %p, is not within an allocation",
          matrix.name,
          bytes,
          matrix.data);
    }
  }
  if (workspaceBytes > 0 && checkDevice((uintptr_t)workspace, workspaceBytes, "workspace")) {
    return CUBLAS_INVALID_VALUE;
  }
  bool usesBias = readsBias(d->epilogue) || writesBias(d->epilogue);
  if (usesBias) {
    size_t length = d->epilogue == EPILOGUE_BGRADB ? rl->columns : rl->rows;
    size_t bytes = ((rl->batch - 1) * (size_t)d->biasStride + length) * width(rl->type);
    if (checkDevice((uintptr_t)d->bias, bytes, "cublasLtMatmul: bias")) {
      return CUBLAS_INVALID_VALUE;
    }
  }
  if (usesAux(d->epilogue)) {
    size_t bytes =
        ((rl->batch - 1) * (size_t)d->auxStride + (rl->columns - 1) * (size_t)d->auxLd + rl->rows)
        * width(rl->type);
    if (checkDevice((uintptr_t)d->aux, bytes, "cublasLtMatmul: auxiliary matrix")) {
      return CUBLAS_INVALID_VALUE;
    }
  }
  if (algorithm != nullptr) {
    const void *pointers[] = {a, b, c, r};
    for (int i = 0; i < 4; i++) {
      if (alignmentOf(pointers[i]) < algorithm->alignment[i]) {
        return fail(CUBLAS_INVALID_VALUE, "cublasLtMatmul: the algorithm needs more alignment");
      }
    }
    if ((usesBias && alignmentOf(d->bias) < algorithm->biasAlignment)
        || (usesAux(d->epilogue) && alignmentOf(d->aux) < algorithm->auxAlignment)
        || d->epilogue != algorithm->epilogue || (al->type | rl->type << 8) != algorithm->types
        || rl->rows != algorithm->extents[0] || rl->columns != algorithm->extents[1]) {
      return fail(CUBLAS_INVALID_VALUE, "cublasLtMatmul: the algorithm was advised for another case");
    }
  }
  Description description = *d;
  Layout la = *al;
  Layout lb = *bl;
  Layout lc = *cl;
  Layout lr = *rl;
  float x = *alpha;
  float y = *beta;
  int code = submit(stream, [=] {
    launchCount++;
    if (int requested = failByRequest()) {
      return requested;
    }
    if (workspaceBytes > 0) {
      memset(workspace, 0xff, workspaceBytes);  // nobody may keep anything there
    }
    return guarded([&] { multiply(description, x, a, la, b, lb, y, c, lc, r, lr); })
        ? (int)SUCCESS
        : illegalAddress("cublasLtMatmul");
  });
  return code == SUCCESS ? CUBLAS_SUCCESS : CUBLAS_EXECUTION_FAILED;
}

// ---- NCCL ----

namespace {

enum Nccl {
  NCCL_SUCCESS = 0,
  NCCL_SYSTEM_ERROR = 2,
  NCCL_INVALID_ARGUMENT = 4,
  NCCL_INVALID_USAGE = 5,
};

// One reduction, which is done once all ranks have come to it.
struct Meeting {
  struct Part {
    const void *source;
    void *target;
    size_t count;
    int type;
    int operation;
  };
  std::map<int, Part> parts;
  bool done = false;
};

struct Clique {
  int size;
  bool aborted = false;
  std::map<long, std::shared_ptr<Meeting>> meetings;
};

struct Communicator {
  std::shared_ptr<Clique> clique;
  int rank;
  int device;
  long calls = 0;
};

std::map<Communicator *, std::unique_ptr<Communicator>> communicators;

template <typename T>
void reduce(const Meeting &meeting, bool average) {
  std::vector<T> result(meeting.parts.begin()->second.count);
  for (auto &part : meeting.parts) {
    for (size_t i = 0; i < result.size(); i++) {
      result[i] += ((const T *)part.second.source)[i];
    }
  }
  for (auto &part : meeting.parts) {
    for (size_t i = 0; i < result.size(); i++) {
      ((T *)part.second.target)[i] = average ? result[i] / (T)meeting.parts.size() : result[i];
    }
  }
}

int meet(const std::shared_ptr<Clique> &clique, Meeting &meeting, int rank, Meeting::Part part) {
  if (clique->aborted) {
    return SUCCESS;
  }
  meeting.parts[rank] = part;
  const Meeting::Part &first = meeting.parts.begin()->second;
  if (part.count != first.count || part.type != first.type || part.operation != first.operation) {
    return fail(INVALID_VALUE, "ranks reduce different things");
  }
  if ((int)meeting.parts.size() == clique->size) {
    if (part.type == 7) {
      reduce<float>(meeting, part.operation == 4);
    } else {
      reduce<double>(meeting, part.operation == 4);
    }
    meeting.done = true;
  }
  return SUCCESS;
}

}  // namespace

EXPORT int ncclGetVersion(int *version) {
  *version = 22000;
  return NCCL_SUCCESS;
}

EXPORT const char *ncclGetErrorString(int result) {
  switch (result) {
    case NCCL_SUCCESS: return "no error";
    case NCCL_SYSTEM_ERROR: return "unhandled system error";
    case NCCL_INVALID_ARGUMENT: return "invalid argument";
    case NCCL_INVALID_USAGE: return "invalid usage";
    default: return "unknown result code";
  }
}

EXPORT int ncclCommInitAll(Communicator **result, int count, const int *devices) {
  Guard guard(lock);
  auto clique = std::make_shared<Clique>();
  clique->size = count;
  std::set<int> seen;
  for (int i = 0; i < count; i++) {
    if (devices[i] < 0 || devices[i] >= deviceCount || !seen.insert(devices[i]).second) {
      return fail(NCCL_INVALID_USAGE, "device %d is not there, or there twice", devices[i]);
    }
  }
  for (int i = 0; i < count; i++) {
    auto communicator = std::make_unique<Communicator>();
    communicator->clique = clique;
    communicator->rank = i;
    communicator->device = devices[i];
    result[i] = communicator.get();
    communicators[communicator.get()] = std::move(communicator);
  }
  return NCCL_SUCCESS;
}

EXPORT int ncclCommDestroy(Communicator *c) {
  Guard guard(lock);
  return communicators.erase(c) == 1 ? NCCL_SUCCESS : NCCL_INVALID_ARGUMENT;
}

EXPORT int ncclCommAbort(Communicator *c) {
  Guard guard(lock);
  auto found = communicators.find(c);
  if (found == communicators.end()) {
    return NCCL_INVALID_ARGUMENT;
  }
  found->second->clique->aborted = true;
  communicators.erase(found);
  somethingDone.notify_all();
  return NCCL_SUCCESS;
}

EXPORT int ncclAllReduce(
    const void *source, void *target, size_t count, int type, int operation, Communicator *c, void *s) {
  Guard guard(lock);
  Stream *stream = streamOf(s);
  auto found = communicators.find(c);
  if (sticky || stream == nullptr || found == communicators.end() || (type != 7 && type != 8)
      || (operation != 0 && operation != 4)) {
    return fail(NCCL_INVALID_ARGUMENT, "ncclAllReduce: communicator, stream, type or operation");
  }
  size_t bytes = count * (type == 7 ? 4 : 8);
  if (checkDevice((uintptr_t)source, bytes, "ncclAllReduce")
      || checkDevice((uintptr_t)target, bytes, "ncclAllReduce")) {
    return NCCL_INVALID_ARGUMENT;
  }
  if (!currentContext || stream->device != c->device || currentDevice() != c->device) {
    return fail(NCCL_INVALID_USAGE, "ncclAllReduce: a stream or context of another device");
  }
  std::shared_ptr<Clique> clique = c->clique;
  int rank = c->rank;
  std::shared_ptr<Meeting> &meeting = clique->meetings[c->calls++];
  if (!meeting) {
    meeting = std::make_shared<Meeting>();
  }
  std::shared_ptr<Meeting> mine = meeting;
  Meeting::Part part{source, target, count, type, operation};
  int code = submit(stream, [=] { return meet(clique, *mine, rank, part); });
  if (code == SUCCESS) {
    code = submit(
        stream,
        [] { return (int)SUCCESS; },
        [=] { return mine->done || clique->aborted; });
  }
  return code == SUCCESS ? NCCL_SUCCESS : NCCL_SYSTEM_ERROR;
}

// ---- the names of older headers ----

#define ALIAS(name, target) \
  EXPORT __attribute__((alias(#target))) int name();

#pragma GCC diagnostic ignored "-Wattribute-alias"
ALIAS(cuMemAlloc, cuMemAlloc_v2)
ALIAS(cuMemFree, cuMemFree_v2)
ALIAS(cuMemGetInfo, cuMemGetInfo_v2)
ALIAS(cuMemAllocHost, cuMemAllocHost_v2)
ALIAS(cuMemcpyHtoD, cuMemcpyHtoD_v2)
ALIAS(cuMemcpyDtoH, cuMemcpyDtoH_v2)
ALIAS(cuMemcpyDtoD, cuMemcpyDtoD_v2)
ALIAS(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2)
ALIAS(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2)
ALIAS(cuMemcpyDtoDAsync, cuMemcpyDtoDAsync_v2)
ALIAS(cuMemsetD8, cuMemsetD8_v2)
ALIAS(cuMemsetD16, cuMemsetD16_v2)
ALIAS(cuMemsetD32, cuMemsetD32_v2)
ALIAS(cuDeviceTotalMem, cuDeviceTotalMem_v2)
ALIAS(cuStreamDestroy, cuStreamDestroy_v2)
ALIAS(cuEventDestroy, cuEventDestroy_v2)
ALIAS(cuModuleGetGlobal, cuModuleGetGlobal_v2)
ALIAS(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2)
ALIAS(cuStreamBeginCapture, cuStreamBeginCapture_v2)
