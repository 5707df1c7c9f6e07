// The gated residual out = x + g ⊙ y with one gate for each channel and sample.
#include "common.cuh"

// The value on n elements where out is present, the tangent ẋ + g ⊙ ẏ + ġ ⊙ y on the first m.
KERNEL __launch_bounds__(256) gated_residual(
    Ref x,
    Ref y,
    Ref gate,
    Ref out,
    Ref dx,
    Ref dy,
    Ref dGate,
    Ref dOut,
    int width,
    i64 sampleSize,
    i64 modStride,
    i64 n,
    i64 m) {
  bool wide = width % 8 == 0 && modStride % 8 == 0 && aligned<8>(x) && aligned<8>(y)
      && aligned<8>(gate) && aligned<8>(out) && aligned<8>(dx) && aligned<8>(dy)
      && aligned<8>(dGate) && aligned<8>(dOut);
  for_each(n, wide, [&](auto lanes, i64 i) {
    constexpr int N = lanes.value;
    i64 g = i / sampleSize * modStride + i % width;
    float yv[N];
    float gv[N];
    float v[N];
    load(y, i, yv);
    load(gate, g, gv);
    if (out) {
      load(x, i, v);
#pragma unroll
      for (int j = 0; j < N; j++) {
        v[j] += gv[j] * yv[j];
      }
      store(out, i, v);
    }
    if (i < m) {  // m is whole samples, so a multiple of the width and of N
      float dyv[N];
      float dgv[N];
      load_or_zero(dx, i, v);
      load_or_zero(dy, i, dyv);
      load_or_zero(dGate, g, dgv);
#pragma unroll
      for (int j = 0; j < N; j++) {
        v[j] += gv[j] * dyv[j] + dgv[j] * yv[j];
      }
      store(dOut, i, v);
    }
  });
}

// x̄ (+)= ōut, ȳ (+)= g ⊙ ōut, and Σ y ⊙ ōut over the rows of a block, of one sample. Where several
// threads share a column, the block has 256 of them.
KERNEL __launch_bounds__(512, 1) gated_residual_backward(
    Ref y,
    Ref gate,
    Ref gOut,
    Ref gx,
    int addX,
    Ref gy,
    int addY,
    float *partial,
    int width,
    i64 rowsPerSample,
    i64 modStride,
    int rowsPerBlock) {
  constexpr int AHEAD = 2;  // rows of a column that are loaded before the first is used
  __shared__ float sums[256][4];
  i64 sample = blockIdx.y;
  i64 from = (i64)blockIdx.x * rowsPerBlock;
  i64 to = from + rowsPerBlock < rowsPerSample ? from + rowsPerBlock : rowsPerSample;
  i64 mStart = sample * modStride;
  i64 pStart = (sample * gridDim.x + blockIdx.x) * width;
  bool wide = width % 4 == 0 && modStride % 4 == 0 && aligned<4>(y) && aligned<4>(gate)
      && aligned<4>(gOut) && aligned<4>(gx) && aligned<4>(gy);
  int columnStep = wide ? 4 : 1;
  int columnThreads = (width + columnStep - 1) / columnStep;
  int rowThreads = columnThreads >= blockDim.x ? 1 : blockDim.x / columnThreads;
  int rowThread = rowThreads > 1 ? threadIdx.x / columnThreads : 0;

  auto column = [&](auto n, int c) {
    constexpr int N = n.value;
    float sum[N] = {};
    if (rowThread < rowThreads) {
      float gv[N];
      load(gate, mStart + c, gv);
      for (i64 first = from + rowThread; first < to; first += AHEAD * rowThreads) {
        float g[AHEAD][N];
        float v[AHEAD][N];
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
          i64 r = first + k * rowThreads;
          if (r < to) {
            i64 i = (sample * rowsPerSample + r) * width + c;
            load(gOut, i, g[k]);
            if (partial != nullptr) {
              load(y, i, v[k]);
            }
          }
        }
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
          i64 r = first + k * rowThreads;
          if (r < to) {
            i64 i = (sample * rowsPerSample + r) * width + c;
#pragma unroll
            for (int j = 0; j < N && partial != nullptr; j++) {
              sum[j] += v[k][j] * g[k][j];
            }
            if (gx) {
#pragma unroll
              for (int j = 0; j < N; j++) {
                v[k][j] = g[k][j];
              }
              put(gx, addX, i, v[k]);
            }
            if (gy) {
#pragma unroll
              for (int j = 0; j < N; j++) {
                v[k][j] = gv[j] * g[k][j];
              }
              put(gy, addY, i, v[k]);
            }
          }
        }
      }
    }
    if (partial == nullptr) {
      return;
    }
    if (rowThreads > 1) {
#pragma unroll
      for (int j = 0; j < N; j++) {
        sums[threadIdx.x][j] = sum[j];
      }
      __syncthreads();
      for (int t = threadIdx.x + columnThreads; rowThread == 0 && t < rowThreads * columnThreads;
           t += columnThreads) {
#pragma unroll
        for (int j = 0; j < N; j++) {
          sum[j] += sums[t][j];
        }
      }
    }
    if (rowThread == 0) {
#pragma unroll
      for (int j = 0; j < N; j++) {
        partial[pStart + c + j] = sum[j];
      }
    }
  };
  if (rowThreads > 1) {  // every thread has at most one column, and all meet at the barrier
    int c = threadIdx.x % columnThreads * columnStep;
    if (wide) {
      column(Width<4>(), c);
    } else {
      column(Width<1>(), c);
    }
  } else {
    for (int c = threadIdx.x * columnStep; c < width; c += blockDim.x * columnStep) {
      if (wide) {
        column(Width<4>(), c);
      } else {
        column(Width<1>(), c);
      }
    }
  }
}
