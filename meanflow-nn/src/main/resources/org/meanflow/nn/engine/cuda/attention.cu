// Softmax attention, its tangent and its backward rule, tile by tile: scores exist only in
// registers, sixteen rows of them for each warp, and products run on the tensor cores.
//
// Compiled for one head dimension, HEAD_DIM (a multiple of 16; columns beyond d are zero), and one
// arithmetic, ATTENTION: 0 float32 (each factor as a sum of two TF32 numbers, three products), 1
// TF32, 2 bfloat16. Sums, exponentials and what a row remembers are float32.
#include "common.cuh"

#ifndef HEAD_DIM
#define HEAD_DIM 64
#endif
#ifndef ATTENTION
#define ATTENTION 2
#endif

constexpr int D = HEAD_DIM;
constexpr bool COMPACT = ATTENTION == 2;
constexpr bool SPLIT = ATTENTION == 0;
constexpr int WARPS = !COMPACT && D > 64 ? 2 : 4;
constexpr int THREADS = WARPS * WARP;
constexpr int ROWS = WARPS * 16;  // of a block
constexpr int COLUMNS = (COMPACT ? 64 : 32) / (D > 64 ? 2 : 1);  // of a tile
constexpr int QUERIES = COMPACT ? 32 : COLUMNS;  // of a tile where rows are keys: twice the sums
constexpr int PITCH = D + (COMPACT ? 8 : 4);  // in elements: 16 bytes more, against bank conflicts
constexpr int STEP = COMPACT ? 16 : 8;  // extent of a product that one instruction sums over
// Of a loop's tiles: where copies are asynchronous, the next one arrives while one is computed.
constexpr int BUFFERS = COMPACT ? 2 : 1;
constexpr float LOG2_E = 1.4426950408889634f;

template <bool COMPACT>
struct ElementOf {
  typedef bf16 type;
};

template <>
struct ElementOf<false> {
  typedef float type;
};

typedef ElementOf<COMPACT>::type Element;

constexpr int ROW_BYTES = PITCH * (int)sizeof(Element);
constexpr int KEY_BYTES = 2 * COLUMNS * ROW_BYTES;  // k and v
constexpr int QUERY_BYTES = 2 * QUERIES * (ROW_BYTES + 4);  // q and ō, and two numbers of each row

// What a launch needs to know: threads of a block; its rows; rows of a loop's tile of keys, and of
// queries; bytes of shared memory for forward, tangent, backward_q and backward_kv if there is one
// tile; bytes more for further tiles of keys, and of queries.
extern "C" {
__device__ int attention_launch[10] = {
    THREADS,
    ROWS,
    COLUMNS,
    QUERIES,
    ROWS * ROW_BYTES + KEY_BYTES,
    (2 * ROWS + 4 * COLUMNS) * ROW_BYTES,
    2 * ROWS * ROW_BYTES + KEY_BYTES,
    2 * ROWS * ROW_BYTES + QUERY_BYTES,
    (BUFFERS - 1) * KEY_BYTES,
    (BUFFERS - 1) * QUERY_BYTES};
}

// ---- instructions ----

#ifdef EMULATED_CUDA
__device__ inline void multiply(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  if (COMPACT) {
    emulated::mmaBf16(d, a, b);
  } else {
    emulated::mmaTf32(d, a, b);
  }
}

__device__ inline void load_matrices(u32 (&r)[4], const void *row, bool transposed) {
  emulated::loadMatrices(r, row, transposed);
}

template <int BYTES>
__device__ inline void copy_async(void *target, const void *source, bool within) {
  emulated::copyAsync(target, source, BYTES, within ? BYTES : 0);
}

__device__ inline void wait_for_copies() { emulated::waitForCopies(); }

__device__ inline int thread_anew() { return (int)threadIdx.x; }

__device__ inline u32 tf32(float x) { return emulated::toTf32(x); }

__device__ inline float exp2_fast(float x) { return exp2f(x); }
#else
// d += a b for 16 × STEP and STEP × 8 matrices, spread over the warp.
__device__ inline void multiply(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#if ATTENTION == 2
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Four 8 × 8 matrices of bfloat16; lane l names row l mod 8 of matrix l / 8.
__device__ inline void load_matrices(u32 (&r)[4], const void *row, bool transposed) {
  u32 address = (u32)__cvta_generic_to_shared(row);
  if (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
}

// Copies 4 or 16 bytes to shared memory, or zeros; they are there after wait_for_copies.
template <int BYTES>
__device__ inline void copy_async(void *target, const void *source, bool within) {
  u32 address = (u32)__cvta_generic_to_shared(target);
  int size = within ? BYTES : 0;
  if constexpr (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address),
                 "l"(source),
                 "r"(size));
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address),
                 "l"(source),
                 "r"(size));
  }
}

// For the thread's own copies, which others see after a barrier.
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// threadIdx.x in a loop whose registers are needed for other things: what follows from it is
// computed each time instead of being kept.
__device__ inline int thread_anew() {
#if ATTENTION == 2
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
#else
  return (int)threadIdx.x;
#endif
}

__device__ inline u32 tf32(float x) {
  u32 y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}

__device__ inline float exp2_fast(float x) {
#if ATTENTION == 2
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}
#endif

// ---- fragments: the part of a matrix that a lane holds. Lane l is in group l / 4 with index
// l mod 4; a result has rows group and group + 8, columns 2·index and 2·index + 1. ----

__device__ inline int group() { return threadIdx.x % WARP / 4; }
__device__ inline int index() { return threadIdx.x % 4; }

// Which row of a tensor is in the upper (0) or lower (1) half of the lane's results.
__device__ inline int row_of(int first, int half) {
  return first + threadIdx.x / WARP * 16 + half * 8 + group();
}

template <int N>
struct Fragment {
  u32 main[N];
  u32 rest[N];  // what float32 numbers have beyond TF32

  __device__ void set(int i, float x) {
    main[i] = tf32(x);
    if (SPLIT) {
      rest[i] = tf32(x - __uint_as_float(main[i]));
    }
  }
};

__device__ inline void multiply(float (&d)[4], const Fragment<4> &a, const Fragment<2> &b) {
  if (SPLIT) {
    multiply(d, a.rest, b.main);
    multiply(d, a.main, b.rest);
  }
  multiply(d, a.main, b.main);
}

// Rows first… first + 15, columns k… of a tile, as the left factor.
__device__ inline void load_left(Fragment<4> &a, const Element *tile, int first, int k) {
  if constexpr (COMPACT) {
    int lane = threadIdx.x % WARP;
    load_matrices(a.main, tile + (first + lane % 16) * PITCH + k + lane / 16 * 8, false);
  } else {
    const Element *p = tile + (first + group()) * PITCH + k + index();
    a.set(0, p[0]);
    a.set(1, p[8 * PITCH]);
    a.set(2, p[4]);
    a.set(3, p[8 * PITCH + 4]);
  }
}

// Of the tile's transpose, rows k…, columns n… n + 15, as two right factors.
__device__ inline void load_transposed(Fragment<2> (&b)[2], const Element *tile, int n, int k) {
  if constexpr (COMPACT) {
    int lane = threadIdx.x % WARP;
    u32 r[4];
    load_matrices(
        r, tile + (n + lane % 8 + lane / 16 * 8) * PITCH + k + lane / 8 % 2 * 8, false);
    b[0].main[0] = r[0];
    b[0].main[1] = r[1];
    b[1].main[0] = r[2];
    b[1].main[1] = r[3];
  } else {
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const Element *p = tile + (n + 8 * j + group()) * PITCH + k + index();
      b[j].set(0, p[0]);
      b[j].set(1, p[4]);
    }
  }
}

// Rows k…, columns n… n + 15 of a tile, as two right factors of what left_of makes.
__device__ inline void load_right(Fragment<2> (&b)[2], const Element *tile, int k, int n) {
  if constexpr (COMPACT) {
    int lane = threadIdx.x % WARP;
    u32 r[4];
    load_matrices(r, tile + (k + lane % 16) * PITCH + n + lane / 16 * 8, true);
    b[0].main[0] = r[0];
    b[0].main[1] = r[1];
    b[1].main[0] = r[2];
    b[1].main[1] = r[3];
  } else {
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const Element *p = tile + (k + 2 * index()) * PITCH + n + 8 * j + group();
      b[j].set(0, p[0]);
      b[j].set(1, p[PITCH]);
    }
  }
}

// A result as the left factor of the next product, its columns from STEP·i on. For TF32 the order
// within these columns changes, as load_right's rows do: index and index + 4 for 2·index and
// 2·index + 1.
template <int N>
__device__ inline void left_of(Fragment<4> &a, const float (&c)[N][4], int i) {
  if constexpr (COMPACT) {
    a.main[0] = narrow2(c[2 * i][0], c[2 * i][1]);
    a.main[1] = narrow2(c[2 * i][2], c[2 * i][3]);
    a.main[2] = narrow2(c[2 * i + 1][0], c[2 * i + 1][1]);
    a.main[3] = narrow2(c[2 * i + 1][2], c[2 * i + 1][3]);
  } else {
    a.set(0, c[i][0]);
    a.set(1, c[i][2]);
    a.set(2, c[i][1]);
    a.set(3, c[i][3]);
  }
}

// What left_of makes of a number.
__device__ inline float rounded(float x) {
  if constexpr (COMPACT) {
    return widen(narrow(x));
  } else if constexpr (SPLIT) {
    return x;
  } else {
    return __uint_as_float(tf32(x));
  }
}

// s += the warp's sixteen rows of `left`, times the transpose of `right`.
template <int N>
__device__ inline void add_scores(float (&s)[N][4], const Element *left, const Element *right) {
  int first = threadIdx.x / WARP * 16;
#pragma unroll
  for (int k = 0; k < D; k += STEP) {
    Fragment<4> a;
    load_left(a, left, first, k);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      Fragment<2> b[2];
      load_transposed(b, right, n * 8, k);
      multiply(s[n], a, b[0]);
      multiply(s[n + 1], a, b[1]);
    }
  }
}

// p += the warp's rows of q times kᵀ, t += q̇ kᵀ + q k̇ᵀ; what both use is read once.
template <int N>
__device__ inline void add_dual_scores(
    float (&p)[N][4],
    float (&t)[N][4],
    const Element *q,
    const Element *dq,
    const Element *k,
    const Element *dk) {
  int first = threadIdx.x / WARP * 16;
#pragma unroll
  for (int c = 0; c < D; c += STEP) {
    Fragment<4> a;
    Fragment<4> da;
    load_left(a, q, first, c);
    load_left(da, dq, first, c);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      Fragment<2> b[2];
      Fragment<2> db[2];
      load_transposed(b, k, n * 8, c);
      load_transposed(db, dk, n * 8, c);
#pragma unroll
      for (int i = 0; i < 2; i++) {
        multiply(p[n + i], a, b[i]);
        multiply(t[n + i], da, b[i]);
        multiply(t[n + i], a, db[i]);
      }
    }
  }
}

// o += s · right.
template <int N>
__device__ inline void add_product(
    float (&o)[D / 8][4], const float (&s)[N][4], const Element *right) {
#pragma unroll
  for (int i = 0; i < N * 8 / STEP; i++) {
    Fragment<4> a;
    left_of(a, s, i);
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      Fragment<2> b[2];
      load_right(b, right, i * STEP, n * 8);
      multiply(o[n], a, b[0]);
      multiply(o[n + 1], a, b[1]);
    }
  }
}

template <int N>
__device__ inline void clear(float (&x)[N][4]) {
#pragma unroll
  for (int i = 0; i < N; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      x[i][j] = 0;
    }
  }
}

// Sum over the lanes that share rows.
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// ---- memory ----

// The rows of one sample and head in a tensor.
struct Rows {
  Ref data;
  i64 start;
  int stride;

  __device__ Rows(Ref data, i64 stride, int tokens, int d)
      : data(data),
        start((i64)blockIdx.z * tokens * stride + (i64)blockIdx.y * d),
        stride((int)stride) {}

  __device__ i64 at(int row) const { return start + (i64)row * stride; }

  template <int N>
  __device__ bool wide(int d) const {
    return d % N == 0 && stride % N == 0 && aligned<N>(data);
  }

  // Whether eight elements are 16 bytes that a tile can take as they are.
  __device__ bool ready(int d) const { return COMPACT && data.type != FLOAT32 && wide<8>(d); }
};

// Eight elements of a row; zero beyond d.
__device__ inline void load_eight(float (&v)[8], const Rows &rows, int row, int c, int d) {
  i64 at = rows.at(row) + c;
  if (c < d && rows.wide<8>(d)) {
    load(rows.data, at, v);
    return;
  }
#pragma unroll
  for (int j = 0; j < 8; j++) {
    float one[1] = {0};
    if (c + j < d) {
      load(rows.data, at + j, one);
    }
    v[j] = one[0];
  }
}

#if ATTENTION == 2
#define SELDOM __attribute__((noinline))  // inlined, it would take registers from the loops
#else
#define SELDOM inline
#endif

// load_tile for what has to be converted or is not aligned.
template <int COUNT>
__device__ SELDOM void load_converted(Element *tile, Rows rows, int first, int tokens, int d) {
  constexpr int CHUNKS = D / 8;
  for (int i = threadIdx.x; i < COUNT * CHUNKS; i += THREADS) {
    int row = i / CHUNKS;
    int c = i % CHUNKS * 8;
    float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (first + row < tokens) {
      load_eight(v, rows, first + row, c, d);
    }
    Element *target = tile + row * PITCH + c;
    if constexpr (COMPACT) {
      *(uint4 *)target = make_uint4(
          narrow2(v[0], v[1]), narrow2(v[2], v[3]), narrow2(v[4], v[5]), narrow2(v[6], v[7]));
    } else {
      *(float4 *)target = make_float4(v[0], v[1], v[2], v[3]);
      *(float4 *)(target + 4) = make_float4(v[4], v[5], v[6], v[7]);
    }
  }
}

// COUNT rows of a tensor to shared memory, zero beyond the tokens and beyond d; they are there
// after wait_for_copies and a barrier.
template <int COUNT>
__device__ inline void load_tile(Element *tile, const Rows &rows, int first, int tokens, int d) {
  if (!rows.ready(d)) {
    load_converted<COUNT>(tile, rows, first, tokens, d);
    return;
  }
  // A thread keeps to its columns, and takes every AT_ONCE-th row.
  constexpr int CHUNKS = D / 8;
  constexpr int AT_ONCE = THREADS / CHUNKS;
  int thread = thread_anew();
  int row = thread / CHUNKS;
  int c = thread % CHUNKS * 8;
  if (THREADS % CHUNKS != 0 && row >= AT_ONCE) {
    return;
  }
  Element *target = tile + row * PITCH + c;
  const bf16 *source = (const bf16 *)rows.data.data + rows.at(first);
  int offset = row * rows.stride + c;
  int end = c < d ? tokens - row : 0;
#pragma unroll
  for (int i = 0; i < COUNT; i += AT_ONCE) {
    if (i + AT_ONCE <= COUNT || row + i < COUNT) {
      copy_async<16>(target + i * PITCH, source + (offset + i * rows.stride), first + i < end);
    }
  }
}

// The loop's tiles from row `first` on, N rows and BYTES each time, when they are there. With two
// buffers the first ones are loaded before the loop, and here the next ones, into the buffer that
// all threads were done with before the barrier.
template <int N, int BYTES, typename Load>
__device__ inline unsigned char *tiles_at(
    unsigned char *buffers, int first, int tokens, Load load) {
  unsigned char *tiles = buffers + first / N % BUFFERS * BYTES;
  if (BUFFERS == 1) {
    __syncthreads();
    load(tiles, first);
  }
  wait_for_copies();
  __syncthreads();
  if (BUFFERS == 2 && first + N < tokens) {
    load(buffers + (first / N + 1) % BUFFERS * BYTES, first + N);
  }
  return tiles;
}

// Writes the warp's rows of a result.
__device__ inline void store_rows(
    const float (&x)[D / 8][4], const Rows &rows, bool add, int first, int tokens, int d) {
  bool wide = rows.wide<2>(d);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = row_of(first, half);
    if (row < tokens) {
      i64 at = rows.at(row);
#pragma unroll
      for (int n = 0; n < D / 8; n++) {
        int c = n * 8 + 2 * index();
        if (wide) {
          if (c < d) {
            float v[2] = {x[n][2 * half], x[n][2 * half + 1]};
            put(rows.data, add, at + c, v);
          }
        } else {
#pragma unroll
          for (int j = 0; j < 2; j++) {
            if (c + j < d) {
              float v[1] = {x[n][2 * half + j]};
              put(rows.data, add, at + c + j, v);
            }
          }
        }
      }
    }
  }
}

// Where a row's number is in a float array [sample, head, token].
__device__ inline i64 number_at(int row, int tokens, int heads) {
  return ((i64)blockIdx.z * heads + blockIdx.y) * tokens + row;
}

// Numbers of the lane's two rows.
struct PerRow {
  float of[2];

  __device__ void load(const float *array, int first, int tokens, int heads) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = row_of(first, half);
      of[half] = row < tokens ? array[number_at(row, tokens, heads)] : 0;
    }
  }

  __device__ void store(float *array, int first, int tokens, int heads) const {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = row_of(first, half);
      if (index() == 0 && row < tokens) {
        array[number_at(row, tokens, heads)] = of[half];
      }
    }
  }
};

__device__ inline float dot(u32 a, u32 b) { return low(a) * low(b) + high(a) * high(b); }

// The lane's part of dot_rows for what has to be converted or is not aligned.
__device__ SELDOM float dot_converted(Rows a, Rows b, int row, int d) {
  float sum = 0;
  for (int c = index() * 8; c < d; c += 32) {
    float x[8];
    float y[8];
    load_eight(x, a, row, c, d);
    load_eight(y, b, row, c, d);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      sum += x[j] * y[j];
    }
  }
  return sum;
}

// Sums over the columns of the products of two tensors' elements. Rows beyond the tokens have the
// last one's, which nobody uses, so that nothing keeps the loads from being all under way at once.
__device__ inline PerRow dot_rows(
    const Rows &a, const Rows &b, int first, int tokens, int d) {
  float sum[2] = {0, 0};
  if (a.ready(d) && b.ready(d)) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = min(row_of(first, half), tokens - 1);
      const bf16 *p = (const bf16 *)a.data.data + a.at(row);
      const bf16 *q = (const bf16 *)b.data.data + b.at(row);
#pragma unroll
      for (int n = 0; n < D / 8; n += 4) {
        int c = (n + index()) * 8;
        uint4 x = *(const uint4 *)(p + (c < d ? c : 0));
        uint4 y = *(const uint4 *)(q + (c < d ? c : 0));
        float part = dot(x.x, y.x) + dot(x.y, y.y) + dot(x.z, y.z) + dot(x.w, y.w);
        sum[half] += c < d ? part : 0;
      }
    }
  } else {
    sum[0] = dot_converted(a, b, min(row_of(first, 0), tokens - 1), d);
    sum[1] = dot_converted(a, b, min(row_of(first, 1), tokens - 1), d);
  }
  return {{row_sum(sum[0]), row_sum(sum[1])}};
}

// Probabilities from scores, and 0 for the columns beyond the tokens.
__device__ inline void to_probabilities(
    float (&s)[COLUMNS / 8][4], float scale, const PerRow &logSum, int firstColumn, int tokens) {
  bool partial = firstColumn + COLUMNS > tokens;
#pragma unroll
  for (int n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      float p = exp2_fast((s[n][j] * scale - logSum.of[j / 2]) * LOG2_E);
      bool beyond = partial && firstColumn + n * 8 + 2 * index() + j % 2 >= tokens;
      s[n][j] = beyond ? 0 : p;
    }
  }
}

// ---- kernels: a block for some rows of one head of one sample ----

KERNEL __launch_bounds__(THREADS) attention_forward(
    Ref q,
    Ref k,
    Ref v,
    i64 qStride,
    i64 kStride,
    i64 vStride,
    Ref out,
    float *lse,
    int tokens,
    int heads,
    int d,
    float scale) {
  DYNAMIC_SHARED(shared);
  Element *qTile = (Element *)shared;
  unsigned char *buffers = shared + ROWS * ROW_BYTES;
  int first = blockIdx.x * ROWS;
  Rows kRows(k, kStride, tokens, d);
  Rows vRows(v, vStride, tokens, d);
  auto load = [&](unsigned char *tiles, int column) {
    load_tile<COLUMNS>((Element *)tiles, kRows, column, tokens, d);
    load_tile<COLUMNS>((Element *)tiles + COLUMNS * PITCH, vRows, column, tokens, d);
  };
  load_tile<ROWS>(qTile, Rows(q, qStride, tokens, d), first, tokens, d);
  if (BUFFERS == 2) {
    load(buffers, 0);
  }

  float o[D / 8][4];
  clear(o);
  float top[2];
  float sum[2] = {0, 0};
  top[0] = top[1] = __uint_as_float(0xff800000u);
  float factor = scale * LOG2_E;
  for (int column = 0; column < tokens; column += COLUMNS) {
    Element *kTile = (Element *)tiles_at<COLUMNS, KEY_BYTES>(buffers, column, tokens, load);
    Element *vTile = kTile + COLUMNS * PITCH;
    float s[COLUMNS / 8][4];
    clear(s);
    add_scores(s, qTile, kTile);
    if (column + COLUMNS > tokens) {
#pragma unroll
      for (int n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
          if (column + n * 8 + 2 * index() + j % 2 >= tokens) {
            s[n][j] = __uint_as_float(0xff800000u);
          }
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float higher = top[half];
#pragma unroll
      for (int n = 0; n < COLUMNS / 8; n++) {
        higher = fmaxf(higher, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      }
      higher = row_max(higher);
      float shrink = exp2_fast((top[half] - higher) * factor);
      top[half] = higher;
      sum[half] *= shrink;
#pragma unroll
      for (int n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
        for (int j = 2 * half; j < 2 * half + 2; j++) {
          s[n][j] = exp2_fast((s[n][j] - higher) * factor);
          sum[half] += s[n][j];
        }
      }
#pragma unroll
      for (int n = 0; n < D / 8; n++) {
        o[n][2 * half] *= shrink;
        o[n][2 * half + 1] *= shrink;
      }
    }
    add_product(o, s, vTile);
  }

  PerRow logSum;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float total = row_sum(sum[half]);
    float inverse = 1 / total;
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
      o[n][2 * half] *= inverse;
      o[n][2 * half + 1] *= inverse;
    }
    logSum.of[half] = top[half] * scale + logf(total);
  }
  if (lse != nullptr) {
    logSum.store(lse, first, tokens, heads);
  }
  store_rows(o, Rows(out, (i64)heads * d, tokens, d), false, first, tokens, d);
}

// ȯ = (P ∘ ṡ) v + P v̇ − Σ(P ∘ ṡ) o with ṡ = (q̇ kᵀ + q k̇ᵀ)·scale.
KERNEL __launch_bounds__(THREADS) attention_tangent(
    Ref q,
    Ref k,
    Ref v,
    i64 qStride,
    i64 kStride,
    i64 vStride,
    Ref dq,
    Ref dk,
    Ref dv,
    i64 dqStride,
    i64 dkStride,
    i64 dvStride,
    Ref out,
    const float *lse,
    Ref dOut,
    int tokens,
    int heads,
    int d,
    float scale) {
  DYNAMIC_SHARED(shared);
  Element *qTile = (Element *)shared;
  Element *dqTile = qTile + ROWS * PITCH;
  Element *kTile = dqTile + ROWS * PITCH;
  Element *dkTile = kTile + COLUMNS * PITCH;
  Element *vTile = dkTile + COLUMNS * PITCH;
  Element *dvTile = vTile + COLUMNS * PITCH;
  int first = blockIdx.x * ROWS;
  load_tile<ROWS>(qTile, Rows(q, qStride, tokens, d), first, tokens, d);
  load_tile<ROWS>(dqTile, Rows(dq, dqStride, tokens, d), first, tokens, d);
  PerRow logSum;
  logSum.load(lse, first, tokens, heads);

  float o[D / 8][4];
  clear(o);
  float sum[2] = {0, 0};
  for (int column = 0; column < tokens; column += COLUMNS) {
    __syncthreads();
    load_tile<COLUMNS>(kTile, Rows(k, kStride, tokens, d), column, tokens, d);
    load_tile<COLUMNS>(dkTile, Rows(dk, dkStride, tokens, d), column, tokens, d);
    load_tile<COLUMNS>(vTile, Rows(v, vStride, tokens, d), column, tokens, d);
    load_tile<COLUMNS>(dvTile, Rows(dv, dvStride, tokens, d), column, tokens, d);
    wait_for_copies();
    __syncthreads();
    float p[COLUMNS / 8][4];
    float t[COLUMNS / 8][4];
    clear(p);
    clear(t);
    add_dual_scores(p, t, qTile, dqTile, kTile, dkTile);
    to_probabilities(p, scale, logSum, column, tokens);
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
      for (int j = 0; j < 4; j++) {
        // Summed as the product takes it, so that what all v have in common cancels.
        t[n][j] = rounded(t[n][j] * scale * p[n][j]);
        sum[j / 2] += t[n][j];
      }
    }
    add_product(o, t, vTile);
    add_product(o, p, dvTile);
  }

  Rows outRows(out, (i64)heads * d, tokens, d);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float total = row_sum(sum[half]);
    int row = row_of(first, half);
    if (row < tokens) {
#pragma unroll
      for (int n = 0; n < D / 8; n++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
          int c = n * 8 + 2 * index() + j;
          if (c < d) {
            float value[1];
            load(out, outRows.at(row) + c, value);
            o[n][2 * half + j] -= total * value[0];
          }
        }
      }
    }
  }
  store_rows(o, Rows(dOut, (i64)heads * d, tokens, d), false, first, tokens, d);
}

// q̄ = s̄ k·scale with s̄ = P ∘ (ō vᵀ − δ), where δ = Σ_c o ⊙ ō, which is Σ P ∘ p̄ of each row;
// attention_backward_kv needs it too.
KERNEL __launch_bounds__(THREADS) attention_backward_q(
    Ref q,
    Ref k,
    Ref v,
    i64 qStride,
    i64 kStride,
    i64 vStride,
    Ref out,
    Ref gOut,
    const float *lse,
    float *delta,
    Ref gq,
    i64 gqStride,
    int add,
    int tokens,
    int heads,
    int d,
    float scale) {
  DYNAMIC_SHARED(shared);
  Element *qTile = (Element *)shared;
  Element *gTile = qTile + ROWS * PITCH;
  unsigned char *buffers = shared + 2 * ROWS * ROW_BYTES;
  int first = blockIdx.x * ROWS;
  Rows kRows(k, kStride, tokens, d);
  Rows vRows(v, vStride, tokens, d);
  Rows gRows(gOut, (i64)heads * d, tokens, d);
  auto load = [&](unsigned char *tiles, int column) {
    load_tile<COLUMNS>((Element *)tiles, kRows, column, tokens, d);
    load_tile<COLUMNS>((Element *)tiles + COLUMNS * PITCH, vRows, column, tokens, d);
  };
  load_tile<ROWS>(qTile, Rows(q, qStride, tokens, d), first, tokens, d);
  load_tile<ROWS>(gTile, gRows, first, tokens, d);
  if (BUFFERS == 2) {
    load(buffers, 0);
  }
  PerRow logSum;
  logSum.load(lse, first, tokens, heads);
  PerRow deltas = dot_rows(Rows(out, (i64)heads * d, tokens, d), gRows, first, tokens, d);
  deltas.store(delta, first, tokens, heads);

  float result[D / 8][4];
  clear(result);
  for (int column = 0; column < tokens; column += COLUMNS) {
    Element *kTile = (Element *)tiles_at<COLUMNS, KEY_BYTES>(buffers, column, tokens, load);
    Element *vTile = kTile + COLUMNS * PITCH;
    float p[COLUMNS / 8][4];
    clear(p);
    add_scores(p, qTile, kTile);
    to_probabilities(p, scale, logSum, column, tokens);
    float g[COLUMNS / 8][4];
    clear(g);
    add_scores(g, gTile, vTile);
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
      for (int j = 0; j < 4; j++) {
        // Not P (p̄ − δ)·scale: so heads of 64 leave registers for a fourth block.
        p[n][j] = p[n][j] * g[n][j] - p[n][j] * deltas.of[j / 2];
      }
    }
    add_product(result, p, kTile);
  }
#pragma unroll
  for (int n = 0; n < D / 8; n++) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      result[n][j] *= scale;
    }
  }
  store_rows(result, Rows(gq, gqStride, tokens, d), add, first, tokens, d);
}

// v̄ = Pᵀ ō, k̄ = s̄ᵀ q·scale. Scores are computed transposed, rows being keys, so that they stay in
// registers as left factors.
KERNEL __launch_bounds__(THREADS) attention_backward_kv(
    Ref q,
    Ref k,
    Ref v,
    i64 qStride,
    i64 kStride,
    i64 vStride,
    Ref gOut,
    const float *lse,
    const float *delta,
    Ref gk,
    i64 gkStride,
    int addK,
    Ref gv,
    i64 gvStride,
    int addV,
    int tokens,
    int heads,
    int d,
    float scale) {
  DYNAMIC_SHARED(shared);
  Element *kTile = (Element *)shared;
  Element *vTile = kTile + ROWS * PITCH;
  unsigned char *buffers = shared + 2 * ROWS * ROW_BYTES;
  int first = blockIdx.x * ROWS;
  Rows qRows(q, qStride, tokens, d);
  Rows gRows(gOut, (i64)heads * d, tokens, d);
  auto load = [&](unsigned char *tiles, int column) {
    load_tile<QUERIES>((Element *)tiles, qRows, column, tokens, d);
    load_tile<QUERIES>((Element *)tiles + QUERIES * PITCH, gRows, column, tokens, d);
    int i = thread_anew();
    if (i < QUERIES) {
      i64 at = number_at(column + i, tokens, heads);
      unsigned char *target = tiles + 2 * QUERIES * ROW_BYTES + i * 4;
      bool within = column + i < tokens;
      copy_async<4>(target, lse + at, within);
      copy_async<4>(target + QUERIES * 4, delta + at, within);
    }
  };
  load_tile<ROWS>(kTile, Rows(k, kStride, tokens, d), first, tokens, d);
  load_tile<ROWS>(vTile, Rows(v, vStride, tokens, d), first, tokens, d);
  if (BUFFERS == 2) {
    load(buffers, 0);
  }

  float kResult[D / 8][4];
  float vResult[D / 8][4];
  clear(kResult);
  clear(vResult);
  for (int column = 0; column < tokens; column += QUERIES) {
    unsigned char *tiles = tiles_at<QUERIES, QUERY_BYTES>(buffers, column, tokens, load);
    Element *qTile = (Element *)tiles;
    Element *gTile = qTile + QUERIES * PITCH;
    const float *logSums = (const float *)(tiles + 2 * QUERIES * ROW_BYTES);
    const float *deltas = logSums + QUERIES;
    float p[QUERIES / 8][4];
    clear(p);
    add_scores(p, kTile, qTile);
#pragma unroll
    for (int n = 0; n < QUERIES / 8; n++) {
#pragma unroll
      for (int j = 0; j < 4; j++) {
        int c = n * 8 + 2 * index() + j % 2;
        p[n][j] = exp2_fast((p[n][j] * scale - logSums[c]) * LOG2_E);
      }
    }
    add_product(vResult, p, gTile);
    float g[QUERIES / 8][4];
    clear(g);
    add_scores(g, vTile, gTile);
#pragma unroll
    for (int n = 0; n < QUERIES / 8; n++) {
#pragma unroll
      for (int j = 0; j < 4; j++) {
        p[n][j] *= (g[n][j] - deltas[n * 8 + 2 * index() + j % 2]) * scale;
      }
    }
    add_product(kResult, p, qTile);
  }
  store_rows(kResult, Rows(gk, gkStride, tokens, d), addK, first, tokens, d);
  store_rows(vResult, Rows(gv, gvStride, tokens, d), addV, first, tokens, d);
}
