// Compares every kernel with plain loops in double precision, through the CUDA driver and NVRTC:
// those of the emulated device, or real ones. Of the emulated device, also its errors, its graphs
// and its matrix products.
//
//   kernels_test DRIVER NVRTC FOLDER_OF_SOURCES [FAMILY...]
//
// Prints one line for each case that fails and a summary; the exit status tells.

#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace {

using i64 = long long;
using Doubles = std::vector<double>;

constexpr i64 F32 = 0;
constexpr i64 BF16 = 1;

void *driver;
void *nvrtc;
std::string sources;
std::string architecture;
int cases;
int failures;
std::string currentCase;
std::mt19937_64 randomBits(7);

void die(const std::string &what) {
  fprintf(stderr, "%s: %s\n", currentCase.c_str(), what.c_str());
  exit(2);
}

template <typename F>
F symbol(void *library, const char *name) {
  void *address = dlsym(library, name);
  if (address == nullptr) {
    die(std::string("no ") + name);
  }
  return (F)address;
}

template <typename... A>
void cuda(const char *name, A... arguments) {
  int code = symbol<int (*)(A...)>(driver, name)(arguments...);
  if (code != 0) {
    const char *text = nullptr;
    symbol<int (*)(int, const char **)>(driver, "cuGetErrorString")(code, &text);
    std::string detail;
    if (void *more = dlsym(driver, "emulatedLastError")) {
      detail = std::string(" (") + ((const char *(*)())more)() + ")";
    }
    die(std::string(name) + ": " + std::to_string(code) + " " + (text ? text : "") + detail);
  }
}

std::string read(const std::string &path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  if (text.str().empty()) {
    die("cannot read " + path);
  }
  return text.str();
}

void *load(const std::string &file, const std::vector<std::string> &defines = {}) {
  std::string source = read(sources + "/" + file);
  std::string header = read(sources + "/common.cuh");
  const char *headers[] = {header.c_str()};
  const char *names[] = {"common.cuh"};
  void *program;
  int code = symbol<int (*)(
      void **, const char *, const char *, int, const char *const *, const char *const *)>(
      nvrtc, "nvrtcCreateProgram")(&program, source.c_str(), file.c_str(), 1, headers, names);
  std::vector<const char *> options = {
      architecture.c_str(), "--std=c++17", "--device-as-default-execution-space"};
  for (auto &define : defines) {
    options.push_back(define.c_str());
  }
  if (code == 0) {
    code = symbol<int (*)(void *, int, const char *const *)>(nvrtc, "nvrtcCompileProgram")(
        program, (int)options.size(), options.data());
  }
  if (code != 0) {
    size_t size = 0;
    symbol<int (*)(void *, size_t *)>(nvrtc, "nvrtcGetProgramLogSize")(program, &size);
    std::string log(size, 0);
    symbol<int (*)(void *, char *)>(nvrtc, "nvrtcGetProgramLog")(program, &log[0]);
    die("NVRTC " + std::to_string(code) + " on " + file + "\n" + log);
  }
  size_t size = 0;
  symbol<int (*)(void *, size_t *)>(nvrtc, "nvrtcGetCUBINSize")(program, &size);
  std::string image(size, 0);
  symbol<int (*)(void *, char *)>(nvrtc, "nvrtcGetCUBIN")(program, &image[0]);
  symbol<int (*)(void **)>(nvrtc, "nvrtcDestroyProgram")(&program);
  void *module;
  cuda("cuModuleLoadData", &module, (const void *)image.data());
  return module;
}

void *function(void *module, const char *name) {
  void *f;
  cuda("cuModuleGetFunction", &f, module, name);
  return f;
}

struct Size {
  i64 x = 1;
  i64 y = 1;
  i64 z = 1;
};

template <typename... A>
void launch(void *f, Size grid, int block, unsigned shared, A... arguments) {
  void *parameters[] = {(void *)&arguments...};
  if (shared > 48 << 10) {
    cuda("cuFuncSetAttribute", f, 8, (int)shared);
  }
  cuda(
      "cuLaunchKernel",
      f,
      (unsigned)grid.x,
      (unsigned)grid.y,
      (unsigned)grid.z,
      (unsigned)block,
      1u,
      1u,
      shared,
      (void *)nullptr,
      (void **)parameters,
      (void **)nullptr);
  cuda("cuCtxSynchronize");
}

struct Ref {
  void *data;
  i64 type;
};

constexpr Ref NOTHING = {nullptr, 0};

float roundTo(i64 type, double x) {
  float y = (float)x;
  if (type == BF16) {
    uint32_t bits;
    memcpy(&bits, &y, 4);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&y, &bits, 4);
  }
  return y;
}

// Raw device memory of exactly this size; what nobody writes is NaN.
struct Buffer {
  char *address = nullptr;
  size_t bytes;

  explicit Buffer(size_t bytes) : bytes(bytes) {
    cuda("cuMemAlloc_v2", (void **)&address, bytes);
    cuda("cuMemsetD8_v2", address, (unsigned char)0xff, bytes);
  }
  Buffer(const Buffer &) = delete;
  ~Buffer() { cuda("cuMemFree_v2", (void *)address); }

  template <typename T>
  T *as() {
    return (T *)address;
  }

  template <typename T>
  std::vector<T> download() {
    std::vector<T> host(bytes / sizeof(T));
    cuda("cuMemcpyDtoH_v2", (void *)host.data(), address, bytes);
    return host;
  }

  template <typename T>
  void upload(const std::vector<T> &host) {
    cuda("cuMemcpyHtoD_v2", address, (const void *)host.data(), bytes);
  }
};

// A tensor on the device, and what it held when it was made, as doubles. It starts `shift`
// elements behind what is aligned.
struct Tensor {
  i64 type;
  int shift;
  i64 n;
  Doubles start;
  Buffer memory;

  Tensor(i64 type, i64 n, int shift = 0)
      : type(type), shift(shift), n(n), memory((size_t)(n + shift) * (type == F32 ? 4 : 2)) {}

  size_t width() const { return type == F32 ? 4 : 2; }

  Tensor &fill(const std::function<double(i64)> &f) {
    std::vector<char> host(memory.bytes, (char)0xff);
    start.resize(n);
    for (i64 i = 0; i < n; i++) {
      float x = roundTo(type, f(i));
      start[i] = x;
      uint32_t bits;
      memcpy(&bits, &x, 4);
      if (type == F32) {
        memcpy(&host[(i + shift) * 4], &bits, 4);
      } else {
        uint16_t upper = (uint16_t)(bits >> 16);
        memcpy(&host[(i + shift) * 2], &upper, 2);
      }
    }
    memory.upload(host);
    return *this;
  }

  Tensor &random(double scale = 1, double mean = 0) {
    std::normal_distribution<double> normal(mean, scale);
    return fill([&](i64) { return normal(randomBits); });
  }

  Ref ref(i64 offset = 0) const {
    return {memory.address + (offset + shift) * (i64)width(), type};
  }

  Doubles values() {
    Doubles x(n);
    std::vector<char> host = memory.download<char>();
    for (i64 i = 0; i < n; i++) {
      uint32_t bits = 0;
      if (type == F32) {
        memcpy(&bits, &host[(i + shift) * 4], 4);
      } else {
        uint16_t upper;
        memcpy(&upper, &host[(i + shift) * 2], 2);
        bits = (uint32_t)upper << 16;
      }
      float y;
      memcpy(&y, &bits, 4);
      x[i] = y;
    }
    return x;
  }

  // Compares with what should be there; `rounding` is the error of the arithmetic before the
  // result is rounded to its type, relative to the size of the tensor's elements.
  void expect(const char *what, const Doubles &expected, double rounding) {
    double size = 0;
    for (double e : expected) {
      size = std::max(size, std::fabs(e));
    }
    // Half a unit in the last place of bfloat16 is 2^-9 of the value, of float32 2^-24.
    double relative = type == BF16 ? 0x1p-8 : 0x1p-22;
    Doubles actual = values();
    cases++;
    double worst = 0;
    i64 where = -1;
    for (i64 i = 0; i < n; i++) {
      double bound = relative * std::fabs(expected[i]) + rounding * size;
      double excess = std::fabs(actual[i] - expected[i]) / (bound > 0 ? bound : 1e-300);
      if (actual[i] == expected[i]) {
        excess = 0;
      }
      if (!(excess <= worst)) {
        worst = excess;
        where = i;
      }
    }
    if (!(worst <= 1)) {
      failures++;
      printf(
          "FAIL %s: %s[%lld] is %.9g, should be %.9g (%.3g times the bound)\n",
          currentCase.c_str(),
          what,
          where,
          actual[where],
          expected[where],
          worst);
    }
  }
};

constexpr double EXACT = 0;
constexpr double FLOAT = 4e-7;  // a few roundings of float32
constexpr double SUMS = 2e-6;  // sums of up to some thousand terms, in float32

template <typename... A>
void startCase(const char *format, A... arguments) {
  char text[300];
  snprintf(text, sizeof text, format, arguments...);
  currentCase = text;
}

Size flat(i64 n) { return {std::max<i64>(1, std::min<i64>((n + 2047) / 2048, 64))}; }
Size rowsOf(i64 rows) { return {(rows + 3) / 4}; }
i64 ceilDiv(i64 a, i64 b) { return (a + b - 1) / b; }

double added(bool add, const Tensor &t, i64 i, double x) { return add ? t.start[i] + x : x; }

// ---- elementwise ----

double gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

double geluSlope(double x) {
  double k = std::sqrt(2 / M_PI);
  double t = std::tanh(k * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x);
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double silu(double x) { return x * sigmoid(x); }
double siluSlope(double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }

void elementwise() {
  void *module = load("elementwise.cu");
  for (int variant = 0; variant < 16; variant++) {
    i64 tx = variant & 1;
    i64 ty = variant >> 1 & 1;
    i64 tz = variant >> 2 & 1;
    int shift = variant >> 3 & 1;
    int add = (variant & 1) ^ (variant >> 2 & 1);
    i64 n = variant == 5 ? 70001 : 1237;
    startCase("elementwise variant %d", variant);
    Tensor x(tx, n, shift);
    Tensor y(ty, n, shift);
    x.random(2);
    y.random();
    auto result = [&] {
      auto z = std::make_unique<Tensor>(tz, n, shift);
      if (add) {
        z->random();
      }
      return z;
    };
    Doubles e(n);
    {
      Tensor z(tz, n, shift);
      launch(function(module, "fill"), flat(n), 256, 0, z.ref(), 1.5f, n);
      z.expect("fill", Doubles(n, 1.5), EXACT);
    }
    {
      auto z = result();
      launch(function(module, "scale"), flat(n), 256, 0, 0.7f, x.ref(), z->ref(), add, n);
      for (i64 i = 0; i < n; i++) e[i] = added(add, *z, i, (double)0.7f * x.start[i]);
      z->expect("scale", e, FLOAT);
    }
    {
      Tensor z(tz, n, shift);
      launch(
          function(module, "combine"), flat(n), 256, 0, 0.7f, x.ref(), -1.3f, y.ref(), z.ref(), n);
      for (i64 i = 0; i < n; i++) e[i] = (double)0.7f * x.start[i] - (double)1.3f * y.start[i];
      z.expect("combine", e, FLOAT);
    }
    {
      auto z = result();
      launch(function(module, "multiply"), flat(n), 256, 0, x.ref(), y.ref(), z->ref(), add, n);
      for (i64 i = 0; i < n; i++) e[i] = added(add, *z, i, x.start[i] * y.start[i]);
      z->expect("multiply", e, FLOAT);
    }
    struct {
      const char *name;
      const char *slopeName;
      double (*value)(double);
      double (*slope)(double);
    } activations[] = {
        {"gelu", "gelu_slope", gelu, geluSlope}, {"silu", "silu_slope", silu, siluSlope}};
    for (auto &a : activations) {
      for (i64 m : {(i64)0, n / 3, n}) {
        Tensor v(tz, n, shift);
        Tensor d(tz, std::max<i64>(m, 1), shift);
        bool tangentOnly = m == n && add;
        launch(
            function(module, a.name),
            flat(n),
            256,
            0,
            x.ref(),
            tangentOnly ? NOTHING : v.ref(),
            m > 0 ? y.ref() : NOTHING,
            m > 0 ? d.ref() : NOTHING,
            n,
            m);
        if (!tangentOnly) {
          for (i64 i = 0; i < n; i++) e[i] = a.value(x.start[i]);
          v.expect(a.name, e, FLOAT);
        }
        if (m > 0) {
          Doubles tangent(m);
          for (i64 i = 0; i < m; i++) tangent[i] = a.slope(x.start[i]) * y.start[i];
          d.expect("its tangent", tangent, FLOAT);
        }
      }
      auto z = result();
      launch(function(module, a.slopeName), flat(n), 256, 0, x.ref(), y.ref(), z->ref(), add, n);
      for (i64 i = 0; i < n; i++) e[i] = added(add, *z, i, a.slope(x.start[i]) * y.start[i]);
      z->expect(a.slopeName, e, FLOAT);
    }
    for (int width : {1, 10, 64, 1000}) {
      i64 rows = 7;
      Tensor p(tx, rows * width, shift);
      Tensor logits(ty, rows * width, shift);
      logits.random(3);
      launch(
          function(module, "softmax"), rowsOf(rows), 128, 0, logits.ref(), p.ref(), rows, width);
      Doubles expected(rows * width);
      for (i64 r = 0; r < rows; r++) {
        double sum = 0;
        for (int c = 0; c < width; c++) sum += std::exp(logits.start[r * width + c]);
        for (int c = 0; c < width; c++) {
          expected[r * width + c] = std::exp(logits.start[r * width + c]) / sum;
        }
      }
      p.expect("softmax", expected, SUMS);
      Doubles held = p.values();
      Tensor z(tz, rows * width, shift);
      z.random();
      Tensor d(ty, rows * width, shift);
      d.random();
      launch(
          function(module, "softmax_slope"),
          rowsOf(rows),
          128,
          0,
          p.ref(),
          d.ref(),
          z.ref(),
          add,
          rows,
          width);
      for (i64 r = 0; r < rows; r++) {
        double sum = 0;
        for (int c = 0; c < width; c++) sum += held[r * width + c] * d.start[r * width + c];
        for (int c = 0; c < width; c++) {
          i64 i = r * width + c;
          expected[i] = added(add, z, i, held[i] * (d.start[i] - sum));
        }
      }
      z.expect("softmax_slope", expected, SUMS);
    }
    for (i64 period : {(i64)1, (i64)24, (i64)37}) {
      i64 size = period * 29;
      Tensor a(tx, size, shift);
      Tensor table(ty, period, shift);
      Tensor z(tz, size, shift);
      a.random();
      table.random();
      launch(
          function(module, "add_table"),
          flat(size),
          256,
          0,
          a.ref(),
          table.ref(),
          z.ref(),
          size,
          period);
      Doubles expected(size);
      for (i64 i = 0; i < size; i++) expected[i] = a.start[i] + table.start[i % period];
      z.expect("add_table", expected, FLOAT);
    }
    for (i64 columns : {(i64)1, (i64)36, (i64)130, (i64)256}) {
      i64 rows = 53;
      Tensor a(tx, rows * columns, shift);
      a.random();
      Tensor z(tz, columns, shift);
      z.random();
      i64 chunk = variant % 3 == 0 ? rows : 16;
      i64 chunks = ceilDiv(rows, chunk);
      Size grid{ceilDiv(columns, 128), chunks};
      void *f = function(module, "column_sums");
      if (chunks == 1) {
        launch(f, grid, 256, 0, a.ref(), z.ref(), add, rows, columns, chunk);
      } else {
        Tensor partial(F32, chunks * columns);
        launch(f, grid, 256, 0, a.ref(), partial.ref(), 0, rows, columns, chunk);
        launch(
            f,
            Size{grid.x, 1},
            256,
            0,
            partial.ref(),
            z.ref(),
            add,
            chunks,
            columns,
            chunks);
      }
      Doubles expected(columns);
      for (i64 c = 0; c < columns; c++) {
        double sum = 0;
        for (i64 r = 0; r < rows; r++) sum += a.start[r * columns + c];
        expected[c] = added(add, z, c, sum);
      }
      z.expect("column_sums", expected, SUMS);
    }
    {
      int width = 150;
      int chunks = 5;
      int samples = 3;
      i64 stride = 400;
      Tensor partial(F32, (i64)samples * chunks * width);
      partial.random();
      Tensor z(tz, samples * stride, shift);
      z.random();
      launch(
          function(module, "chunk_sums"),
          Size{ceilDiv(width, 128), samples},
          128,
          0,
          (const float *)partial.ref().data,
          z.ref(),
          add,
          width,
          stride,
          chunks);
      Doubles expected = z.start;
      for (i64 s = 0; s < samples; s++) {
        for (int c = 0; c < width; c++) {
          double sum = 0;
          for (int k = 0; k < chunks; k++) sum += partial.start[(s * chunks + k) * width + c];
          expected[s * stride + c] = added(add, z, s * stride + c, sum);
        }
      }
      z.expect("chunk_sums", expected, FLOAT);
    }
  }
}

// ---- norm ----

struct Row {
  double mean = 0;
  double inverse = 1;
};

Row statistics(int kind, double epsilon, const double *x, int width) {
  Row row;
  if (kind == 0) {
    return row;
  }
  double sum = 0;
  for (int c = 0; c < width; c++) sum += x[c];
  row.mean = kind == 2 ? sum / width : 0;
  double squares = 0;
  for (int c = 0; c < width; c++) squares += (x[c] - row.mean) * (x[c] - row.mean);
  row.inverse = 1 / std::sqrt(squares / width + epsilon);
  return row;
}

// (d − mean(d) − x̂ mean(x̂ d)) / σ.
Doubles normSlope(int kind, const Row &row, const double *x, const Doubles &d) {
  int width = (int)d.size();
  Doubles result = d;
  if (kind == 0) {
    return result;
  }
  double sum = 0;
  double products = 0;
  for (int c = 0; c < width; c++) {
    sum += d[c];
    products += d[c] * (x[c] - row.mean) * row.inverse;
  }
  for (int c = 0; c < width; c++) {
    double hat = (x[c] - row.mean) * row.inverse;
    result[c] = (d[c] - (kind == 2 ? sum / width : 0) - hat * products / width) * row.inverse;
  }
  return result;
}

// Threads of a block that shares out columns, as CudaNorm.columnBlock has it.
int columnBlock(int width) {
  i64 threads = width % 4 == 0 ? width / 4 : width;
  return threads <= 128 ? 256 : (int)std::min<i64>(512, ceilDiv(threads, 32) * 32);
}

void norm() {
  void *module = load("norm.cu");
  void *sums = load("elementwise.cu");
  struct Shape {
    int width;
    int inner;  // > 1: as q within [q|k|v] of so many heads
    i64 samples;
    i64 tokens;
  };
  Shape shapes[] = {
      {8, 1, 3, 5}, {384, 1, 2, 9}, {1152, 1, 1, 3}, {13, 1, 2, 40}, {2048, 1, 1, 2},
      {24, 4, 1, 17}, {3, 1, 2, 3}, {6, 3, 1, 50}, {1100, 1, 1, 40}};
  int number = 0;
  for (const Shape &s : shapes) {
    for (int kind = 0; kind < 3; kind++) {
      for (int mode = 0; mode < 3; mode++) {  // modulated, gain, neither
        number++;
        i64 t = number & 1;
        i64 t2 = number >> 1 & 1;
        int shift = number % 3 == 0;
        int add = number >> 2 & 1;
        float epsilon = 1e-6f;
        float unit = mode == 1 ? 0.0f : 1.0f;
        i64 rows = s.samples * s.tokens * s.inner;
        i64 stride = s.inner == 1 ? s.width : 3 * s.inner * s.width;
        i64 total = rows / s.inner * stride;
        i64 rowsPerSample = mode == 0 && s.inner == 1 ? s.tokens : rows;
        i64 samples = rows / rowsPerSample;
        i64 modStride = mode == 0 ? 6 * s.width : 0;
        startCase("norm kind %d mode %d width %d inner %d", kind, mode, s.width, s.inner);
        Tensor x(t, total, shift);
        x.random(1.5, 3);
        Tensor mod(F32, mode == 0 ? samples * modStride : s.width, shift);
        mod.random(0.5);
        Ref scale = mode == 2 ? NOTHING : mod.ref(mode == 0 ? s.width : 0);
        Ref shiftRef = mode == 0 ? mod.ref() : NOTHING;
        auto scaleAt = [&](i64 row, int c) {
          return mode == 2   ? 0.0
              : mode == 1 ? mod.start[c]
                          : mod.start[row / rowsPerSample * modStride + s.width + c];
        };
        auto startOf = [&](i64 row) { return row / s.inner * stride + row % s.inner * s.width; };

        i64 m = (samples + 1) / 2;
        i64 tangentRows = rowsPerSample * m;
        bool withDx = number % 4 != 0;
        bool withMod = mode == 0 && number % 5 != 0;
        bool together = number % 2 == 0;
        Tensor dx(t2, total, shift);
        dx.random();
        Tensor dMod(F32, mode == 0 ? samples * modStride : 1, shift);
        dMod.random();
        Tensor y(t2, total, shift);
        Tensor dy(t2, total, shift);
        y.fill([](i64) { return 0; });
        dy.fill([](i64) { return 0; });
        Buffer stats(rows * 8);
        void *forward = function(module, "norm_forward");
        auto run = [&](bool value, bool tangent) {
          launch(
              forward,
              rowsOf(value ? rows : tangentRows),
              128,
              0,
              kind,
              epsilon,
              unit,
              s.width,
              s.inner,
              stride,
              stride,
              rowsPerSample,
              modStride,
              x.ref(),
              scale,
              shiftRef,
              value ? y.ref() : NOTHING,
              value ? stats.as<float>() : nullptr,
              tangent && withDx ? dx.ref() : NOTHING,
              tangent && withMod ? dMod.ref(s.width) : NOTHING,
              tangent && withMod ? dMod.ref() : NOTHING,
              tangent ? dy.ref() : NOTHING,
              value ? rows : tangentRows,
              tangent ? tangentRows : (i64)0);
        };
        if (together) {
          run(true, true);
        } else {
          run(true, false);
          run(false, true);
        }
        Doubles ey(total, 0.0);
        Doubles edy(total, 0.0);
        for (i64 row = 0; row < rows; row++) {
          const double *v = &x.start[startOf(row)];
          Row r = statistics(kind, epsilon, v, s.width);
          Doubles d(s.width, 0.0);
          for (int c = 0; c < s.width && withDx; c++) d[c] = dx.start[startOf(row) + c];
          d = normSlope(kind, r, v, d);
          i64 sample = row / rowsPerSample;
          for (int c = 0; c < s.width; c++) {
            double hat = (v[c] - r.mean) * r.inverse;
            double shiftValue = mode == 0 ? mod.start[sample * modStride + c] : 0;
            ey[startOf(row) + c] = hat * (unit + scaleAt(row, c)) + shiftValue;
            if (row < tangentRows) {
              double dScale = withMod ? dMod.start[sample * modStride + s.width + c] : 0;
              double dShift = withMod ? dMod.start[sample * modStride + c] : 0;
              edy[startOf(row) + c] = d[c] * (unit + scaleAt(row, c)) + hat * dScale + dShift;
            }
          }
        }
        double rounding = 4e-6;
        y.expect("y", ey, rounding);
        dy.expect("dy", edy, rounding);

        Tensor gy(t2, total, shift);
        gy.random();
        Tensor gx(t, total, shift);
        gx.random();
        int rowsPerBlock = number % 2 == 0 ? 7 : 40;
        i64 chunks = ceilDiv(rowsPerSample, rowsPerBlock);
        Tensor partialScale(F32, samples * chunks * s.width);
        Tensor partialShift(F32, samples * chunks * s.width);
        bool wantX = number % 7 != 0;
        launch(
            function(module, "norm_backward"),
            Size{chunks, samples},
            columnBlock(s.width),
            0,
            kind,
            unit,
            s.width,
            s.inner,
            stride,
            stride,
            stride,
            rowsPerSample,
            modStride,
            x.ref(),
            scale,
            (const float *)stats.as<float>(),
            gy.ref(),
            wantX ? gx.ref() : NOTHING,
            add,
            (float *)partialScale.ref().data,
            (float *)partialShift.ref().data,
            rowsPerBlock);
        Doubles egx = gx.start;
        Doubles eScale(samples * s.width, 0.0);
        Doubles eShift(samples * s.width, 0.0);
        for (i64 row = 0; row < rows; row++) {
          const double *v = &x.start[startOf(row)];
          Row r = statistics(kind, epsilon, v, s.width);
          Doubles h(s.width);
          i64 sample = row / rowsPerSample;
          for (int c = 0; c < s.width; c++) {
            double g = gy.start[startOf(row) + c];
            h[c] = g * (unit + scaleAt(row, c));
            eScale[sample * s.width + c] += g * (v[c] - r.mean) * r.inverse;
            eShift[sample * s.width + c] += g;
          }
          h = normSlope(kind, r, v, h);
          for (int c = 0; c < s.width && wantX; c++) {
            i64 i = startOf(row) + c;
            egx[i] = added(add, gx, i, h[c]);
          }
        }
        gx.expect("gx", egx, rounding);
        for (int part = 0; part < 2; part++) {
          Tensor &partial = part == 0 ? partialScale : partialShift;
          Tensor g(F32, samples * s.width);
          g.random();
          launch(
              function(sums, "chunk_sums"),
              Size{ceilDiv(s.width, 128), samples},
              128,
              0,
              (const float *)partial.ref().data,
              g.ref(),
              0,
              s.width,
              (i64)s.width,
              (int)chunks);
          g.expect(part == 0 ? "gScale" : "gShift", part == 0 ? eScale : eShift, rounding);
        }
      }
    }
  }
}

// ---- modulation ----

void modulation() {
  void *module = load("modulation.cu");
  void *sums = load("elementwise.cu");
  struct Shape {
    int width;
    i64 samples;
    i64 tokens;
  };
  int number = 0;
  for (const Shape &s : {Shape{8, 3, 5}, {384, 2, 9}, {13, 2, 40}, {1030, 2, 3}, {2048, 1, 2}}) {
    for (int variant = 0; variant < 8; variant++) {
      number++;
      i64 t = variant & 1;
      i64 t2 = variant >> 1 & 1;
      int shift = variant >> 2 & 1;
      i64 sampleSize = s.tokens * s.width;
      i64 n = s.samples * sampleSize;
      i64 modStride = 6 * s.width;
      i64 m = (s.samples + 1) / 2 * sampleSize;
      startCase("modulation width %d variant %d", s.width, variant);
      Tensor x(F32, n, shift);
      Tensor y(t, n, shift);
      Tensor mod(F32, s.samples * modStride, shift);
      Tensor dx(F32, n, shift);
      Tensor dy(t, n, shift);
      Tensor dMod(F32, s.samples * modStride, shift);
      for (Tensor *a : {&x, &y, &mod, &dx, &dy, &dMod}) a->random();
      i64 gate = 2 * s.width;
      auto gateOf = [&](const Tensor &values, i64 i) {
        return values.start[i / sampleSize * modStride + gate + i % s.width];
      };
      Tensor out(t2, n, shift);
      Tensor dOut(t2, m, shift);
      void *forward = function(module, "gated_residual");
      bool together = number % 2 == 0;
      bool withX = number % 3 != 0;
      bool withY = number % 5 != 0;
      bool withMod = number % 7 != 0;
      if (!together) {
        launch(
            forward,
            flat(n),
            256,
            0,
            x.ref(),
            y.ref(),
            mod.ref(gate),
            out.ref(),
            NOTHING,
            NOTHING,
            NOTHING,
            NOTHING,
            s.width,
            sampleSize,
            modStride,
            n,
            (i64)0);
      }
      launch(
          forward,
          flat(n),
          256,
          0,
          together ? x.ref() : NOTHING,
          y.ref(),
          mod.ref(gate),
          together ? out.ref() : NOTHING,
          withX ? dx.ref() : NOTHING,
          withY ? dy.ref() : NOTHING,
          withMod ? dMod.ref(gate) : NOTHING,
          dOut.ref(),
          s.width,
          sampleSize,
          modStride,
          together ? n : m,
          m);
      Doubles e(n);
      Doubles d(m);
      for (i64 i = 0; i < n; i++) {
        e[i] = x.start[i] + gateOf(mod, i) * y.start[i];
        if (i < m) {
          d[i] = (withX ? dx.start[i] : 0) + (withY ? gateOf(mod, i) * dy.start[i] : 0)
              + (withMod ? gateOf(dMod, i) * y.start[i] : 0);
        }
      }
      out.expect("out", e, FLOAT);
      dOut.expect("dOut", d, FLOAT);

      Tensor gOut(F32, n, shift);
      Tensor gx(F32, n, shift);
      Tensor gy(t, n, shift);
      for (Tensor *a : {&gOut, &gx, &gy}) a->random();
      int rowsPerBlock = 4;
      i64 chunks = ceilDiv(s.tokens, rowsPerBlock);
      Tensor partial(F32, s.samples * chunks * s.width);
      int addX = number & 1;
      int addY = number >> 1 & 1;
      launch(
          function(module, "gated_residual_backward"),
          Size{chunks, s.samples},
          columnBlock(s.width),
          0,
          y.ref(),
          mod.ref(gate),
          gOut.ref(),
          withX ? gx.ref() : NOTHING,
          addX,
          withY ? gy.ref() : NOTHING,
          addY,
          (float *)(withMod ? partial.ref().data : nullptr),
          s.width,
          s.tokens,
          modStride,
          rowsPerBlock);
      Doubles ex = gx.start;
      Doubles ey = gy.start;
      Doubles eg(s.samples * s.width, 0.0);
      for (i64 i = 0; i < n; i++) {
        if (withX) ex[i] = added(addX, gx, i, gOut.start[i]);
        if (withY) ey[i] = added(addY, gy, i, gateOf(mod, i) * gOut.start[i]);
        eg[i / sampleSize * s.width + i % s.width] += y.start[i] * gOut.start[i];
      }
      gx.expect("gx", ex, FLOAT);
      gy.expect("gy", ey, FLOAT);
      if (withMod) {
        Tensor g(F32, s.samples * s.width);
        launch(
            function(sums, "chunk_sums"),
            Size{ceilDiv(s.width, 128), s.samples},
            128,
            0,
            (const float *)partial.ref().data,
            g.ref(),
            0,
            s.width,
            (i64)s.width,
            (int)chunks);
        g.expect("gGate", eg, SUMS);
      }
    }
  }
}

// ---- embedding ----

void embedding() {
  void *module = load("embedding.cu");
  for (double scale : {1.0, 1000.0}) {
    int n = 37;
    i64 batch = 11;
    i64 m = 4;
    startCase("time features, scale %g", scale);
    Tensor t(F32, batch);
    Tensor dt(F32, m);
    t.fill([&](i64 i) { return (double)i / 10; });
    dt.random();
    Tensor y(F32, batch * 2 * n);
    Tensor dy(F32, m * 2 * n);
    launch(
        function(module, "time_features"),
        Size{ceilDiv(batch * n, 256)},
        256,
        0,
        scale,
        t.ref(),
        y.ref(),
        dt.ref(),
        dy.ref(),
        n,
        batch,
        m);
    Doubles e(batch * 2 * n);
    Doubles d(m * 2 * n);
    Doubles slopes(batch * 2 * n);
    for (i64 b = 0; b < batch; b++) {
      for (int k = 0; k < n; k++) {
        double rate = scale * std::exp(-std::log(10000.0) * k / n);
        double angle = rate * t.start[b];
        e[b * 2 * n + k] = std::cos(angle);
        e[b * 2 * n + n + k] = std::sin(angle);
        slopes[b * 2 * n + k] = -rate * std::sin(angle);
        slopes[b * 2 * n + n + k] = rate * std::cos(angle);
        if (b < m) {
          d[b * 2 * n + k] = slopes[b * 2 * n + k] * dt.start[b];
          d[b * 2 * n + n + k] = slopes[b * 2 * n + n + k] * dt.start[b];
        }
      }
    }
    y.expect("features", e, FLOAT);
    dy.expect("tangent", d, FLOAT);
    for (int add = 0; add < 2; add++) {
      Tensor gy(F32, batch * 2 * n);
      Tensor gt(F32, batch);
      gy.random();
      gt.random();
      launch(
          function(module, "time_features_backward"),
          rowsOf(batch),
          128,
          0,
          scale,
          t.ref(),
          gy.ref(),
          gt.ref(),
          add,
          n,
          batch);
      Doubles g(batch);
      for (i64 b = 0; b < batch; b++) {
        double sum = 0;
        for (int k = 0; k < 2 * n; k++) sum += slopes[b * 2 * n + k] * gy.start[b * 2 * n + k];
        g[b] = added(add, gt, b, sum);
      }
      gt.expect("gt", g, FLOAT);
    }
  }
  for (int width : {8, 13, 600}) {
    for (int add = 0; add < 2; add++) {
      i64 batch = 70;
      int rows = 9;
      startCase("embedding width %d add %d", width, add);
      Tensor table(F32, (i64)rows * width);
      table.random();
      std::vector<int> indices(batch);
      for (int &i : indices) i = (int)(randomBits() % (rows - 1));  // the last row is never used
      Buffer onDevice(batch * 4);
      onDevice.upload(indices);
      Tensor y(F32, batch * width);
      launch(
          function(module, "embedding"),
          flat(batch * width),
          256,
          0,
          table.ref(),
          (const int *)onDevice.as<int>(),
          y.ref(),
          width,
          batch);
      Doubles e(batch * width);
      for (i64 i = 0; i < batch * width; i++) {
        e[i] = table.start[(i64)indices[i / width] * width + i % width];
      }
      y.expect("embedding", e, EXACT);
      Tensor gy(F32, batch * width);
      gy.random();
      Tensor g(F32, (i64)rows * width);
      g.random();
      launch(
          function(module, "embedding_backward"),
          Size{rows, ceilDiv(width, 512)},
          128,
          0,
          (const int *)onDevice.as<int>(),
          gy.ref(),
          g.ref(),
          add,
          width,
          batch);
      Doubles eg = add ? g.start : Doubles(rows * width, 0.0);
      for (i64 i = 0; i < batch * width; i++) {
        eg[(i64)indices[i / width] * width + i % width] += gy.start[i];
      }
      g.expect("gradient", eg, SUMS);
    }
  }
  for (int order = 0; order < 2; order++) {
    for (int add = 0; add < 2; add++) {
      int patch = 2;
      int channels = 3;
      int height = 4;
      int width = 6;
      i64 batch = 2;
      i64 n = batch * channels * height * width;
      startCase("patches order %d add %d", order, add);
      Tensor images(F32, n);
      images.random();
      Tensor tokens(F32, n);
      tokens.random();
      launch(
          function(module, "patchify"),
          flat(n),
          256,
          0,
          images.ref(),
          tokens.ref(),
          add,
          order,
          patch,
          channels,
          height,
          width,
          n);
      std::vector<i64> at(n);
      i64 i = 0;
      for (i64 b = 0; b < batch; b++) {
        for (int r = 0; r < height / patch; r++) {
          for (int c = 0; c < width / patch; c++) {
            for (int k = 0; k < channels * patch * patch; k++) {
              int channel = order == 0 ? k / (patch * patch) : k % channels;
              int within = order == 0 ? k % (patch * patch) : k / channels;
              int row = r * patch + within / patch;
              int column = c * patch + within % patch;
              at[i++] = ((b * channels + channel) * height + row) * width + column;
            }
          }
        }
      }
      Doubles e(n);
      for (i64 j = 0; j < n; j++) e[j] = added(add, tokens, j, images.start[at[j]]);
      tokens.expect("patchify", e, FLOAT);
      Tensor back(F32, n);
      back.random();
      Tensor source(F32, n);
      source.random();
      launch(
          function(module, "unpatchify"),
          flat(n),
          256,
          0,
          source.ref(),
          back.ref(),
          add,
          order,
          patch,
          channels,
          height,
          width,
          n);
      for (i64 j = 0; j < n; j++) e[at[j]] = added(add, back, at[j], source.start[j]);
      back.expect("unpatchify", e, FLOAT);
    }
  }
}

// ---- optimizer ----

void optimizer() {
  void *module = load("optimizer.cu");
  for (int variant = 0; variant < 4; variant++) {
    i64 n = variant == 1 ? 5000 : 1003;
    int shift = variant & 1;
    startCase("adamw variant %d", variant);
    Tensor p(F32, n, shift);
    Tensor g(F32, n, shift);
    Tensor m(F32, n, shift);
    Tensor v(F32, n, shift);
    Tensor copy(BF16, n, shift);
    for (Tensor *t : {&p, &g, &m}) t->random();
    v.fill([](i64 i) { return 0.01 * (double)(i % 17); });
    std::vector<std::unique_ptr<Tensor>> averages;
    for (int k = 0; k < 4; k++) {
      averages.push_back(std::make_unique<Tensor>(F32, n, shift));
      averages.back()->random();
    }
    double rate = 1e-2;
    double beta1 = 0.9;
    double beta2 = 0.95;
    double epsilon = 1e-8;
    double decay = 0.1;
    double gradientScale = 0.3;
    int step = 3;
    double keeps[] = {0.5, 0.9, 0.99, 0.9999};
    std::vector<float> numbers = {
        (float)beta1,
        (float)((1 - beta1) * gradientScale),
        (float)beta2,
        (float)((1 - beta2) * gradientScale * gradientScale),
        (float)(1 / (1 - std::pow(beta2, step))),
        (float)epsilon,
        (float)(rate / (1 - std::pow(beta1, step))),
        (float)(1 - rate * decay)};
    for (double keep : keeps) numbers.push_back((float)(1 - keep));
    Buffer onDevice(numbers.size() * 4);
    onDevice.upload(numbers);
    int averageCount = variant == 0 ? 0 : variant == 1 ? 1 : 4;
    auto average = [&](int k) { return (float *)(k < averageCount ? averages[k]->ref().data : nullptr); };
    bool withCopy = variant != 2;
    launch(
        function(module, "adamw"),
        flat(n),
        256,
        0,
        (float *)p.ref().data,
        (const float *)g.ref().data,
        (float *)m.ref().data,
        (float *)v.ref().data,
        withCopy ? copy.ref().data : nullptr,
        average(0),
        average(1),
        average(2),
        average(3),
        (float *)nullptr,
        (float *)nullptr,
        (float *)nullptr,
        (float *)nullptr,
        (const float *)onDevice.as<float>(),
        n);
    Doubles ep(n);
    Doubles em(n);
    Doubles ev(n);
    for (i64 i = 0; i < n; i++) {
      double gs = gradientScale * g.start[i];
      em[i] = beta1 * m.start[i] + (1 - beta1) * gs;
      ev[i] = beta2 * v.start[i] + (1 - beta2) * gs * gs;
      double mHat = em[i] / (1 - std::pow(beta1, step));
      double vHat = ev[i] / (1 - std::pow(beta2, step));
      ep[i] = p.start[i] - rate * decay * p.start[i] - rate * mHat / (std::sqrt(vHat) + epsilon);
    }
    p.expect("p", ep, FLOAT);
    m.expect("m", em, FLOAT);
    v.expect("v", ev, FLOAT);
    if (withCopy) {
      copy.expect("bf16 copy", ep, FLOAT);
    }
    for (int k = 0; k < averageCount; k++) {
      Doubles ea(n);
      for (i64 i = 0; i < n; i++) {
        double a = averages[k]->start[i];
        ea[i] = a + (1 - keeps[k]) * (ep[i] - a);
      }
      averages[k]->expect("average", ea, FLOAT);
    }
  }
  for (i64 n : {(i64)1, (i64)999, (i64)100000}) {
    for (i64 type : {F32, BF16}) {
      startCase("squared_norm of %lld", n);
      Tensor x(type, n, n == 999);
      x.random(1e-3);
      i64 grid = std::min<i64>(ceilDiv(n, 4096), 1024);
      Buffer partial(grid * 8);
      Buffer result(8);
      launch(
          function(module, "squared_norm"), Size{grid}, 256, 0, x.ref(), partial.as<double>(), n);
      launch(
          function(module, "sum_doubles"),
          Size{1},
          256,
          0,
          (const double *)partial.as<double>(),
          (int)grid,
          result.as<double>());
      double sum = 0;
      for (double e : x.start) sum += e * e;
      double actual = result.download<double>()[0];
      cases++;
      if (!(std::fabs(actual - sum) <= 1e-12 * sum)) {
        failures++;
        printf("FAIL %s: %.17g, should be %.17g\n", currentCase.c_str(), actual, sum);
      }
    }
  }
}

// ---- attention ----

struct Head {
  int tokens;
  int d;
  double scale;
  Doubles q, k, v, p, o;

  // From row-major parts with the given strides.
  Head(int tokens, int d, double scale) : tokens(tokens), d(d), scale(scale), p(tokens * tokens), o(tokens * d) {}

  void forward() {
    for (int i = 0; i < tokens; i++) {
      double sum = 0;
      for (int j = 0; j < tokens; j++) {
        double s = 0;
        for (int c = 0; c < d; c++) s += q[i * d + c] * k[j * d + c];
        p[i * tokens + j] = std::exp(s * scale);
        sum += p[i * tokens + j];
      }
      for (int j = 0; j < tokens; j++) p[i * tokens + j] /= sum;
      for (int c = 0; c < d; c++) {
        for (int j = 0; j < tokens; j++) o[i * d + c] += p[i * tokens + j] * v[j * d + c];
      }
    }
  }

  double logSum(int i) const {
    double sum = 0;
    for (int j = 0; j < tokens; j++) {
      double s = 0;
      for (int c = 0; c < d; c++) s += q[i * d + c] * k[j * d + c];
      sum += std::exp(s * scale);
    }
    return std::log(sum);
  }

  Doubles tangent(const Doubles &dq, const Doubles &dk, const Doubles &dv) const {
    Doubles result(tokens * d, 0.0);
    for (int i = 0; i < tokens; i++) {
      Doubles t(tokens);
      double sum = 0;
      for (int j = 0; j < tokens; j++) {
        double s = 0;
        for (int c = 0; c < d; c++) s += dq[i * d + c] * k[j * d + c] + q[i * d + c] * dk[j * d + c];
        t[j] = p[i * tokens + j] * s * scale;
        sum += t[j];
      }
      for (int j = 0; j < tokens; j++) {
        double factor = t[j] - p[i * tokens + j] * sum;
        for (int c = 0; c < d; c++) {
          result[i * d + c] += factor * v[j * d + c] + p[i * tokens + j] * dv[j * d + c];
        }
      }
    }
    return result;
  }

  void backward(const Doubles &g, Doubles &gq, Doubles &gk, Doubles &gv) const {
    gq.assign(tokens * d, 0);
    gk = gv = gq;
    for (int i = 0; i < tokens; i++) {
      Doubles gp(tokens, 0.0);
      double sum = 0;
      for (int j = 0; j < tokens; j++) {
        for (int c = 0; c < d; c++) gp[j] += g[i * d + c] * v[j * d + c];
        sum += gp[j] * p[i * tokens + j];
      }
      for (int j = 0; j < tokens; j++) {
        double gs = p[i * tokens + j] * (gp[j] - sum) * scale;
        for (int c = 0; c < d; c++) {
          gq[i * d + c] += gs * k[j * d + c];
          gk[j * d + c] += gs * q[i * d + c];
          gv[j * d + c] += p[i * tokens + j] * g[i * d + c];
        }
      }
    }
  }
};

void attention() {
  struct Shape {
    int tokens;
    int heads;
    int d;
  };
  struct Build {
    int arithmetic;
    int headDim;
    std::vector<Shape> shapes;
  };
  std::vector<Build> builds = {
      {0, 16, {{1, 1, 16}, {7, 2, 8}, {50, 2, 5}}},
      {0, 64, {{64, 2, 64}, {70, 1, 52}}},
      {0, 128, {{37, 1, 128}}},
      {1, 32, {{49, 2, 32}, {64, 1, 27}}},
      {1, 80, {{33, 1, 72}}},
      {2, 16, {{65, 2, 16}, {9, 2, 3}}},
      {2, 32, {{100, 1, 24}}},
      {2, 48, {{64, 2, 40}}},
      {2, 64, {{64, 2, 64}, {130, 1, 64}, {20, 2, 50}}},
      {2, 80, {{130, 1, 72}, {30, 2, 80}}},
      {2, 128, {{40, 1, 128}}},
  };
  int number = 0;
  for (const Build &build : builds) {
    startCase("attention %d, %d columns", build.arithmetic, build.headDim);
    void *module = load(
        "attention.cu",
        {"-DHEAD_DIM=" + std::to_string(build.headDim),
         "-DATTENTION=" + std::to_string(build.arithmetic)});
    void *address;
    size_t bytes;
    cuda("cuModuleGetGlobal_v2", &address, &bytes, module, "attention_launch");
    int numbers[10];
    cuda("cuMemcpyDtoH_v2", (void *)numbers, address, bytes);
    // TF32 keeps 11 bits of each factor, bfloat16 8; errors of the terms of a sum mostly cancel.
    double arithmetic = build.arithmetic == 0 ? 1e-5 : build.arithmetic == 1 ? 2e-3 : 1.2e-2;
    for (const Shape &s : build.shapes) {
      for (int variant = 0; variant < 2; variant++) {
        number++;
        startCase(
            "attention %d, %d tokens, %d heads of %d, variant %d",
            build.arithmetic,
            s.tokens,
            s.heads,
            s.d,
            variant);
        i64 t = build.arithmetic == 2 ? 1 - variant : variant;
        // Tangent and backward start from `out` as it is kept.
        double rounding = t == BF16 ? std::max(arithmetic, 1.2e-2) : arithmetic;
        int shift = variant == 1 && s.tokens % 2 == 0;
        int add = variant;
        i64 batch = 2;
        i64 m = 1;
        i64 w = s.heads * s.d;
        i64 n = batch * s.tokens * w;
        Tensor qkv(t, 3 * n, shift);
        Tensor dQkv(t, 3 * n, shift);
        Tensor out(t, n, shift);
        Tensor dOut(t, n / batch * m, shift);
        Tensor gOut(t, n, shift);
        Tensor gQkv(t, 3 * n, shift);
        // What the products take is exact in the arithmetic: inputs are not what is tested.
        std::normal_distribution<double> normal;
        auto draw = [&](double scale, double mean) {
          return [=, &normal](i64) { return roundTo(build.arithmetic == 0 ? F32 : BF16, mean + scale * normal(randomBits)); };
        };
        qkv.fill(draw(1.2, 0.3));
        dQkv.fill(draw(1, 0));
        gOut.fill(draw(1, 0));
        gQkv.fill(draw(1, 0));
        float scale = (float)(1 / std::sqrt((double)s.d));
        Tensor lse(F32, batch * s.heads * s.tokens);
        Tensor delta(F32, batch * s.heads * s.tokens);
        i64 stride = 3 * w;
        int moreKeys = s.tokens > numbers[2] ? numbers[8] : 0;
        int moreQueries = s.tokens > numbers[3] ? numbers[9] : 0;
        launch(
            function(module, "attention_forward"),
            Size{ceilDiv(s.tokens, numbers[1]), s.heads, batch},
            numbers[0],
            (unsigned)(numbers[4] + moreKeys),
            qkv.ref(),
            qkv.ref(w),
            qkv.ref(2 * w),
            stride,
            stride,
            stride,
            out.ref(),
            (float *)lse.ref().data,
            s.tokens,
            s.heads,
            s.d,
            scale);
        launch(
            function(module, "attention_tangent"),
            Size{ceilDiv(s.tokens, numbers[1]), s.heads, m},
            numbers[0],
            (unsigned)numbers[5],
            qkv.ref(),
            qkv.ref(w),
            qkv.ref(2 * w),
            stride,
            stride,
            stride,
            dQkv.ref(),
            dQkv.ref(w),
            dQkv.ref(2 * w),
            stride,
            stride,
            stride,
            out.ref(),
            (const float *)lse.ref().data,
            dOut.ref(),
            s.tokens,
            s.heads,
            s.d,
            scale);
        launch(
            function(module, "attention_backward_q"),
            Size{ceilDiv(s.tokens, numbers[1]), s.heads, batch},
            numbers[0],
            (unsigned)(numbers[6] + moreKeys),
            qkv.ref(),
            qkv.ref(w),
            qkv.ref(2 * w),
            stride,
            stride,
            stride,
            out.ref(),
            gOut.ref(),
            (const float *)lse.ref().data,
            (float *)delta.ref().data,
            gQkv.ref(),
            stride,
            add,
            s.tokens,
            s.heads,
            s.d,
            scale);
        launch(
            function(module, "attention_backward_kv"),
            Size{ceilDiv(s.tokens, numbers[1]), s.heads, batch},
            numbers[0],
            (unsigned)(numbers[7] + moreQueries),
            qkv.ref(),
            qkv.ref(w),
            qkv.ref(2 * w),
            stride,
            stride,
            stride,
            gOut.ref(),
            (const float *)lse.ref().data,
            (const float *)delta.ref().data,
            gQkv.ref(w),
            stride,
            add,
            gQkv.ref(2 * w),
            stride,
            add,
            s.tokens,
            s.heads,
            s.d,
            scale);

        Doubles kept = out.values();
        Doubles eOut(n);
        Doubles eLse(batch * s.heads * s.tokens);
        Doubles eTangent(n / batch * m);
        Doubles eDelta(batch * s.heads * s.tokens);
        Doubles eGradient(3 * n);
        for (i64 b = 0; b < batch; b++) {
          for (int h = 0; h < s.heads; h++) {
            auto part = [&](const Tensor &x, int which, i64 width) {
              Doubles y(s.tokens * s.d);
              for (int i = 0; i < s.tokens; i++) {
                for (int c = 0; c < s.d; c++) {
                  y[i * s.d + c] = x.start[(b * s.tokens + i) * width + which * w + h * s.d + c];
                }
              }
              return y;
            };
            Head head(s.tokens, s.d, scale);
            head.q = part(qkv, 0, stride);
            head.k = part(qkv, 1, stride);
            head.v = part(qkv, 2, stride);
            head.forward();
            Doubles tangent = head.tangent(
                part(dQkv, 0, stride), part(dQkv, 1, stride), part(dQkv, 2, stride));
            Doubles g[3];
            head.backward(part(gOut, 0, w), g[0], g[1], g[2]);
            for (int i = 0; i < s.tokens; i++) {
              i64 number = (b * s.heads + h) * s.tokens + i;
              eLse[number] = head.logSum(i);
              for (int c = 0; c < s.d; c++) {
                i64 at = (b * s.tokens + i) * w + h * s.d + c;
                eOut[at] = head.o[i * s.d + c];
                eDelta[number] += kept[at] * gOut.start[at];
                if (b < m) eTangent[at] = tangent[i * s.d + c];
                for (int which = 0; which < 3; which++) {
                  i64 to = (b * s.tokens + i) * stride + which * w + h * s.d + c;
                  eGradient[to] = added(add, gQkv, to, g[which][i * s.d + c]);
                }
              }
            }
          }
        }
        out.expect("out", eOut, rounding);
        lse.expect("lse", eLse, 1e-5);
        delta.expect("delta", eDelta, 1e-5);
        dOut.expect("tangent", eTangent, rounding);
        gQkv.expect("gradient", eGradient, rounding);
      }
    }
  }
}

// ---- the emulated device itself ----

void check(const char *what, bool right) {
  cases++;
  if (!right) {
    failures++;
    printf("FAIL %s: %s\n", currentCase.c_str(), what);
  }
}

template <typename... A>
int code(const char *name, A... arguments) {
  return symbol<int (*)(A...)>(driver, name)(arguments...);
}

int launchScale(void *f, const Tensor &x, const Tensor &y, i64 n, int block, void *stream) {
  float alpha = 2;
  int add = 0;
  Ref from = x.ref();
  Ref to = y.ref();
  void *parameters[] = {&alpha, &from, &to, &add, &n};
  return code(
      "cuLaunchKernel",
      f,
      1u,
      1u,
      1u,
      (unsigned)block,
      1u,
      1u,
      0u,
      stream,
      (void **)parameters,
      (void **)nullptr);
}

void emulatedDevice() {
  auto reset = symbol<void (*)()>(driver, "emulatedReset");
  void *module = load("elementwise.cu");
  void *scale = function(module, "scale");
  startCase("device");
  i64 n = 1000;
  Tensor x(F32, n);
  Tensor y(F32, n);
  x.random();
  Doubles doubled = x.start;
  for (double &e : doubled) e *= 2;

  check("fresh memory is poisoned", std::isnan(y.values()[n - 1]));
  check("700 beyond an allocation", launchScale(scale, x, y, n + 1, 256, nullptr) == 700);
  check("700 from then on", code("cuCtxSynchronize") == 700);
  reset();
  check("0 after a reset", code("cuCtxSynchronize") == 0);
  check("701 over the launch bounds", launchScale(scale, x, y, n, 512, nullptr) == 701);
  check("1 for an empty block", launchScale(scale, x, y, n, 0, nullptr) == 1);
  check("400 for what is no function", launchScale(&n, x, y, n, 256, nullptr) == 400);
  check("400 for what is no stream", launchScale(scale, x, y, n, 256, &n) == 400);
  void *p = nullptr;
  check("500 for an unknown kernel", code("cuModuleGetFunction", &p, module, "nothing") == 500);
  check("200 for what is no image", code("cuModuleLoadData", &p, (const void *)"nothing") == 200);
  symbol<int (*)(size_t)>(driver, "emulatedSetMemoryLimit")(1 << 20);
  check("2 out of memory", code("cuMemAlloc_v2", &p, (size_t)1 << 20) == 2);
  size_t left = 0;
  size_t total = 0;
  code("cuMemGetInfo_v2", &left, &total);
  check("free and total memory", total == 1 << 20 && left < total && left > total / 2);
  symbol<int (*)(size_t)>(driver, "emulatedSetMemoryLimit")((size_t)4 << 30);
  check("1 for freeing twice", code("cuMemFree_v2", (void *)((char *)&n)) == 1);
  symbol<void (*)(int, int)>(driver, "emulatedFailLaunch")(2, 719);
  check("the first launch goes well", launchScale(scale, x, y, n, 256, nullptr) == 0);
  check("the second fails as asked", launchScale(scale, x, y, n, 256, nullptr) == 719);
  reset();
  y.expect("the first launch", doubled, EXACT);

  void *stream;
  void *graph;
  void *executable;
  cuda("cuStreamCreate", &stream, 1u);
  Tensor z(F32, n);
  cuda("cuStreamBeginCapture_v2", stream, 0);
  check("a launch is recorded", launchScale(scale, y, z, n, 256, stream) == 0);
  cuda("cuStreamEndCapture", stream, &graph);
  check("and not run", std::isnan(z.values()[0]));
  cuda("cuGraphDestroy", graph);
  cuda("cuStreamBeginCapture_v2", stream, 0);
  float host;
  check(
      "900 for work on the default stream",
      code("cuMemcpyDtoH_v2", (void *)&host, x.ref().data, (size_t)4) == 900);
  check("901 at the end of that capture", code("cuStreamEndCapture", stream, &graph) == 901);
  cuda("cuStreamBeginCapture_v2", stream, 2);
  check("memory in a relaxed capture", code("cuMemAlloc_v2", &p, (size_t)64) == 0);
  check("is freed", code("cuMemFree_v2", p) == 0);
  launchScale(scale, x, y, n, 256, stream);
  launchScale(scale, y, z, n, 256, stream);
  cuda("cuStreamEndCapture", stream, &graph);
  cuda("cuGraphInstantiateWithFlags", &executable, graph, 0ull);
  cuda("cuGraphDestroy", graph);
  x.random();
  cuda("cuGraphLaunch", executable, stream);
  cuda("cuStreamSynchronize", stream);
  for (i64 i = 0; i < n; i++) doubled[i] = 4 * x.start[i];
  z.expect("a graph's result on new numbers", doubled, EXACT);
  cuda("cuGraphExecDestroy", executable);
  cuda("cuStreamBeginCapture_v2", stream, 0);
  check("900 for memory in a strict one", code("cuMemAlloc_v2", &p, (size_t)64) == 900);
  check("901 at its end", code("cuStreamEndCapture", stream, &graph) == 901);
  cuda("cuStreamDestroy_v2", stream);
}

// Products as the engine asks for them: row-major y = x Wᵀ is column-major yᵀ = W xᵀ.
void products() {
  void *handle;
  startCase("products");
  if (code("cublasLtCreate", &handle) != 0) {
    die("cublasLtCreate");
  }
  struct Case {
    i64 in;
    i64 out;
    int compute;
    int epilogue;
    float beta;
    bool transposeX;
  };
  int rows = 13;
  int width = 24;
  int k = 40;
  for (const Case &c : std::vector<Case>{
           {F32, F32, 68, 1, 0, false},
           {F32, F32, 68, 1, 1, false},
           {F32, F32, 77, 4, 0, false},
           {BF16, BF16, 68, 1, 1, false},
           {BF16, F32, 68, 164, 0, false},
           {F32, F32, 68, 36, 0, true},
           {F32, F32, 68, 192, 0, false},
           {F32, F32, 68, 208, 0, false},
           {F32, F32, 68, 256, 0, false},
           {BF16, F32, 68, 512, 1, true}}) {
    startCase("product, compute %d, epilogue %d", c.compute, c.epilogue);
    Tensor w(c.in, (i64)width * k);
    Tensor x(c.in, (i64)rows * k);
    Tensor y(c.out, (i64)rows * width);
    Tensor bias(c.out, c.epilogue == 512 ? rows : width);
    Tensor aux(c.out, (i64)rows * width);
    for (Tensor *t : {&w, &x, &y, &bias, &aux}) t->random();
    void *description;
    void *wLayout;
    void *xLayout;
    void *yLayout;
    void *preference;
    code("cublasLtMatmulDescCreate", &description, c.compute, 0);
    auto set = [&](int attribute, auto value) {
      if (code(
              "cublasLtMatmulDescSetAttribute",
              description,
              attribute,
              (const void *)&value,
              sizeof value)
          != 0) {
        die("attribute");
      }
    };
    set(3, 1);
    set(4, c.transposeX ? 1 : 0);
    set(7, (unsigned)c.epilogue);
    set(8, bias.ref().data);
    set(11, aux.ref().data);
    set(12, (i64)width);
    auto type = [](i64 t) { return t == F32 ? 0 : 14; };
    code("cublasLtMatrixLayoutCreate", &wLayout, type(c.in), (uint64_t)k, (uint64_t)width, (i64)k);
    if (c.transposeX) {
      code(
          "cublasLtMatrixLayoutCreate",
          &xLayout,
          type(c.in),
          (uint64_t)rows,
          (uint64_t)k,
          (i64)rows);
    } else {
      code("cublasLtMatrixLayoutCreate", &xLayout, type(c.in), (uint64_t)k, (uint64_t)rows, (i64)k);
    }
    code(
        "cublasLtMatrixLayoutCreate",
        &yLayout,
        type(c.out),
        (uint64_t)width,
        (uint64_t)rows,
        (i64)width);
    code("cublasLtMatmulPreferenceCreate", &preference);
    for (int attribute = 5; attribute <= 8; attribute++) {  // alignment of A, B, C and D
      unsigned alignment = 16;
      code(
          "cublasLtMatmulPreferenceSetAttribute",
          preference,
          attribute,
          (const void *)&alignment,
          sizeof alignment);
    }
    struct {
      uint64_t algorithm[8];
      size_t workspace;
      int state;
      float waves;
      int reserved[4];
    } result;
    int count = 0;
    auto heuristic = [&] {
      return code(
          "cublasLtMatmulAlgoGetHeuristic",
          handle,
          description,
          wLayout,
          xLayout,
          yLayout,
          yLayout,
          preference,
          1,
          (void *)&result,
          &count);
    };
    int status = heuristic();
    check("an algorithm is found", status == 0 && count == 1);
    float alpha = 0.5f;
    float beta = c.beta;
    status = code(
        "cublasLtMatmul",
        handle,
        description,
        (const void *)&alpha,
        (const void *)w.ref().data,
        wLayout,
        (const void *)x.ref().data,
        xLayout,
        (const void *)&beta,
        (const void *)y.ref().data,
        yLayout,
        y.ref().data,
        yLayout,
        (const void *)&result.algorithm,
        (void *)nullptr,
        (size_t)0,
        (void *)nullptr);
    check("the product is done", status == 0);
    Doubles e(rows * width);
    Doubles eAux = aux.start;
    Doubles eBias = bias.start;
    if (c.epilogue >= 208) std::fill(eBias.begin(), eBias.end(), 0.0);
    for (int r = 0; r < rows; r++) {
      for (int o = 0; o < width; o++) {
        double sum = 0;
        for (int i = 0; i < k; i++) {
          sum += w.start[o * k + i] * x.start[c.transposeX ? i * rows + r : r * k + i];
        }
        int at = r * width + o;
        double value = alpha * sum + (c.beta != 0 ? c.beta * y.start[at] : 0);
        if (c.epilogue & 4) value += bias.start[o];
        if (c.epilogue & 64) value *= geluSlope(aux.start[at]);
        if (c.epilogue & 32) {
          if (c.epilogue & 128) eAux[at] = value;
          value = gelu(value);
        }
        if (c.epilogue == 208) eBias[o] += value;
        e[at] = value;
      }
      for (int i = 0; i < k && c.epilogue == 512; i++) eBias[r] += x.start[i * rows + r];
    }
    for (int o = 0; o < width && c.epilogue == 256; o++) {
      for (int i = 0; i < k; i++) eBias[o] += w.start[o * k + i];
    }
    double rounding = c.compute == 77 ? 1e-3 : SUMS;
    y.expect("result", e, rounding);
    bias.expect("bias", eBias, rounding);
    aux.expect("auxiliary matrix", eAux, rounding);
    if (c.epilogue & (4 | 16 | 256 | 512)) {
      set(26, c.out == F32 ? 14 : 0);
      check("a bias of another type than the result is refused", heuristic() == 15);
      set(26, -1);
      set(8, (void *)nullptr);
      check("a bias that is nowhere is refused", heuristic() == 15);
      set(8, bias.ref().data);
    }
    if (c.epilogue & 128) {
      set(12, (i64)width + 4);
      check("rows of an auxiliary matrix that are no multiple of 8 are refused", heuristic() == 15);
    }
  }
}

}  // namespace

int main(int argc, char **argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: kernels_test DRIVER NVRTC FOLDER_OF_SOURCES [FAMILY...]\n");
    return 2;
  }
  driver = dlopen(argv[1], RTLD_NOW);
  nvrtc = dlopen(argv[2], RTLD_NOW);
  if (driver == nullptr || nvrtc == nullptr) {
    die(dlerror());
  }
  sources = argv[3];
  cuda("cuInit", 0u);
  int device = 0;
  cuda("cuDeviceGet", &device, 0);
  int major = 0;
  int minor = 0;
  cuda("cuDeviceGetAttribute", &major, 75, device);
  cuda("cuDeviceGetAttribute", &minor, 76, device);
  architecture = "--gpu-architecture=sm_" + std::to_string(major) + std::to_string(minor);
  void *context;
  cuda("cuDevicePrimaryCtxRetain", &context, device);
  cuda("cuCtxSetCurrent", context);
  std::map<std::string, void (*)()> families = {
      {"attention", attention},
      {"elementwise", elementwise},
      {"norm", norm},
      {"modulation", modulation},
      {"embedding", embedding},
      {"optimizer", optimizer},
      {"device", emulatedDevice},
      {"products", products},
  };
  for (auto &family : families) {
    bool ofEmulation = family.first == "device" || family.first == "products";
    bool wanted = argc == 4 && (!ofEmulation || dlsym(driver, "emulatedReset") != nullptr);
    for (int i = 4; i < argc; i++) {
      wanted |= family.first == argv[i];
    }
    if (wanted) {
      int before = cases;
      int failedBefore = failures;
      currentCase = family.first;
      family.second();
      printf("%s: %d comparisons, %d failed\n", family.first.c_str(), cases - before, failures - failedBefore);
      fflush(stdout);
    }
  }
  return failures == 0 ? 0 : 1;
}
