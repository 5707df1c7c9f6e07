// What all kernels share: tensors of float32 or bfloat16, wide accesses, sums over a warp.
#pragma once

typedef long long i64;
typedef unsigned int u32;
typedef unsigned short bf16;  // the upper half of a float

#define KERNEL extern "C" __global__ void
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

constexpr i64 FLOAT32 = 0;
constexpr int WARP = 32;

// A tensor argument: where it is, and its type, FLOAT32 or else bfloat16. Arithmetic is float32.
struct Ref {
  void *data;
  i64 type;

  __device__ explicit operator bool() const { return data != nullptr; }
};

__device__ inline float widen(bf16 x) { return __uint_as_float((u32)x << 16); }

// To the nearest, ties to even; NaN stays NaN.
__device__ inline bf16 narrow(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
#else
  u32 bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return (bf16)((bits >> 16) | 0x40);
  }
  return (bf16)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
#endif
}

// Two numbers as bfloat16, the first in the lower half.
__device__ inline u32 narrow2(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  u32 y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
#else
  return (u32)narrow(low) | (u32)narrow(high) << 16;
#endif
}

__device__ inline float low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ inline float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

// How many elements an access takes, as a type.
template <int N>
struct Width {
  static constexpr int value = N;
};

// Whether accesses of N elements, at multiples of N, are aligned to their size or 16 bytes.
template <int N>
__device__ inline bool aligned(const Ref &x) {
  unsigned long long bytes = N * (x.type == FLOAT32 ? 4 : 2);
  return ((unsigned long long)x.data & (bytes < 16 ? bytes - 1 : 15)) == 0;
}

// N consecutive elements from element i on; N is 1, 2, 4 or 8.
template <int N>
__device__ inline void load(const Ref &x, i64 i, float (&v)[N]) {
  if (x.type == FLOAT32) {
    const float *p = (const float *)x.data + i;
    if constexpr (N == 1) {
      v[0] = *p;
    } else if constexpr (N == 2) {
      float2 q = *(const float2 *)p;
      v[0] = q.x;
      v[1] = q.y;
    } else {
#pragma unroll
      for (int j = 0; j < N; j += 4) {
        float4 q = *(const float4 *)(p + j);
        v[j] = q.x;
        v[j + 1] = q.y;
        v[j + 2] = q.z;
        v[j + 3] = q.w;
      }
    }
  } else {
    const bf16 *p = (const bf16 *)x.data + i;
    if constexpr (N == 1) {
      v[0] = widen(*p);
    } else if constexpr (N == 2) {
      u32 q = *(const u32 *)p;
      v[0] = low(q);
      v[1] = high(q);
    } else if constexpr (N == 4) {
      uint2 q = *(const uint2 *)p;
      v[0] = low(q.x);
      v[1] = high(q.x);
      v[2] = low(q.y);
      v[3] = high(q.y);
    } else {
      uint4 q = *(const uint4 *)p;
      v[0] = low(q.x);
      v[1] = high(q.x);
      v[2] = low(q.y);
      v[3] = high(q.y);
      v[4] = low(q.z);
      v[5] = high(q.z);
      v[6] = low(q.w);
      v[7] = high(q.w);
    }
  }
}

// Like load; an absent tensor is zero.
template <int N>
__device__ inline void load_or_zero(const Ref &x, i64 i, float (&v)[N]) {
  if (x) {
    load(x, i, v);
  } else {
#pragma unroll
    for (int j = 0; j < N; j++) {
      v[j] = 0;
    }
  }
}

template <int N>
__device__ inline void store(const Ref &x, i64 i, const float (&v)[N]) {
  if (x.type == FLOAT32) {
    float *p = (float *)x.data + i;
    if constexpr (N == 1) {
      *p = v[0];
    } else if constexpr (N == 2) {
      *(float2 *)p = make_float2(v[0], v[1]);
    } else {
#pragma unroll
      for (int j = 0; j < N; j += 4) {
        *(float4 *)(p + j) = make_float4(v[j], v[j + 1], v[j + 2], v[j + 3]);
      }
    }
  } else {
    bf16 *p = (bf16 *)x.data + i;
    if constexpr (N == 1) {
      *p = narrow(v[0]);
    } else if constexpr (N == 2) {
      *(u32 *)p = narrow2(v[0], v[1]);
    } else if constexpr (N == 4) {
      *(uint2 *)p = make_uint2(narrow2(v[0], v[1]), narrow2(v[2], v[3]));
    } else {
      *(uint4 *)p = make_uint4(
          narrow2(v[0], v[1]), narrow2(v[2], v[3]), narrow2(v[4], v[5]), narrow2(v[6], v[7]));
    }
  }
}

// x = v, or x += v.
template <int N>
__device__ inline void put(const Ref &x, bool add, i64 i, float (&v)[N]) {
  if (add) {
    float old[N];
    load(x, i, old);
#pragma unroll
    for (int j = 0; j < N; j++) {
      v[j] += old[j];
    }
  }
  store(x, i, v);
}

// Calls f(Width<N>(), i) so that each element of 0…n−1 is covered once: eight at a time where
// `wide`, the rest one by one. Any one-dimensional grid will do.
template <typename F>
__device__ inline void for_each(i64 n, bool wide, F f) {
  i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  i64 threads = (i64)gridDim.x * blockDim.x;
  i64 done = 0;
  if (wide) {
    done = n & ~7ll;
    for (i64 i = thread * 8; i < done; i += threads * 8) {
      f(Width<8>(), i);
    }
  }
  for (i64 i = done + thread; i < n; i += threads) {
    f(Width<1>(), i);
  }
}

// Calls f(Width<N>(), c) so that the warp covers each column of 0…width−1 once.
template <typename F>
__device__ inline void for_columns(int width, bool wide, F f) {
  int lane = threadIdx.x % WARP;
  if (wide) {
    for (int c = lane * 4; c < width; c += WARP * 4) {
      f(Width<4>(), c);
    }
  } else {
    for (int c = lane; c < width; c += WARP) {
      f(Width<1>(), c);
    }
  }
}

// The warp's row of a launch with a warp for each row.
__device__ inline i64 warp_row() {
  return (i64)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
}

// Sum over the warp, in every lane.
template <typename T>
__device__ inline T warp_sum(T x) {
#pragma unroll
  for (int lane = WARP / 2; lane > 0; lane /= 2) {
    x += __shfl_xor_sync(0xffffffffu, x, lane);
  }
  return x;
}

__device__ inline float warp_max(float x) {
#pragma unroll
  for (int lane = WARP / 2; lane > 0; lane /= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
  }
  return x;
}
