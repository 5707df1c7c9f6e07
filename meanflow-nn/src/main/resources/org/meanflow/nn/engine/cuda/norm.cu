// y = x̂ ⊙ (unit + scale) + shift, where x̂ is x normalised over its last dimension: RMS and layer
// norm with and without gain, adaptive norm, and the q/k norm of attention.
#include "common.cuh"

constexpr int NONE = 0;
constexpr int LAYER = 2;

// Rows may lie apart: row r starts at (r / inner)·stride + (r mod inner)·width.
__device__ inline i64 row_start(i64 row, int inner, i64 stride, int width) {
  return inner == 1 ? row * stride : row / inner * stride + row % inner * width;
}

// The derivative of x̂ in x, which is symmetric: (d − mean(d) − x̂ mean(x̂ ⊙ d)) / σ, without mean(d)
// for RMS.
struct Slope {
  float mean;
  float inverse;
  float meanD;
  float meanHatD;

  __device__ Slope() {}

  // From Σd and Σx̂d.
  __device__ Slope(int kind, int width, float mean, float inverse, float sumD, float sumHatD)
      : mean(mean),
        inverse(inverse),
        meanD(kind == LAYER ? sumD / width : 0),
        meanHatD(kind == NONE ? 0 : sumHatD / width) {}

  __device__ float hat(float x) const { return (x - mean) * inverse; }

  __device__ float of(float x, float d) const { return (d - meanD - hat(x) * meanHatD) * inverse; }
};

// A warp for each row: the value where y is present, the tangent in the first tangentRows rows.
KERNEL __launch_bounds__(128) norm_forward(
    int kind,
    float epsilon,
    float unit,
    int width,
    int inner,
    i64 xStride,
    i64 yStride,
    i64 rowsPerSample,
    i64 modStride,
    Ref x,
    Ref scale,
    Ref shift,
    Ref y,
    float *stats,
    Ref dx,
    Ref dScale,
    Ref dShift,
    Ref dy,
    i64 rows,
    i64 tangentRows) {
  i64 row = warp_row();
  if (row >= rows) {
    return;
  }
  i64 xStart = row_start(row, inner, xStride, width);
  i64 yStart = row_start(row, inner, yStride, width);
  i64 mStart = row / rowsPerSample * modStride;
  bool wide = width % 4 == 0 && xStride % 4 == 0 && yStride % 4 == 0 && modStride % 4 == 0
      && aligned<4>(x) && aligned<4>(scale) && aligned<4>(shift) && aligned<4>(y)
      && aligned<4>(dx) && aligned<4>(dScale) && aligned<4>(dShift) && aligned<4>(dy);
  bool tangent = row < tangentRows;

  // One pass for all sums; those of layer norm are taken around the row's first element, so that
  // a mean far from zero does not cancel digits.
  float centre = 0;
  if (kind == LAYER) {
    float first[1];
    load(x, xStart, first);
    centre = first[0];
  }
  float sum = 0;
  float squares = 0;
  float sumD = 0;
  float products = 0;
  if (kind != NONE) {
    for_columns(width, wide, [&](auto n, int c) {
      constexpr int N = n.value;
      float v[N];
      float d[N];
      load(x, xStart + c, v);
      if (tangent) {
        load_or_zero(dx, xStart + c, d);
      }
#pragma unroll
      for (int j = 0; j < N; j++) {
        float e = v[j] - centre;
        sum += e;
        squares += e * e;
        if (tangent) {
          sumD += d[j];
          products += e * d[j];
        }
      }
    });
    sum = warp_sum(sum);
    squares = warp_sum(squares);
    if (tangent) {
      sumD = warp_sum(sumD);
      products = warp_sum(products);
    }
  }
  float offset = kind == LAYER ? sum / width : 0;
  float inverse = 1;
  if (kind != NONE) {
    float variance = fmaxf(squares / width - offset * offset, 0.0f);
    inverse = 1 / sqrtf(variance + epsilon);
  }
  Slope slope(
      kind, width, centre + offset, inverse, sumD, (products - offset * sumD) * inverse);

  if (y && stats != nullptr && threadIdx.x % WARP == 0) {
    stats[2 * row] = slope.mean;
    stats[2 * row + 1] = inverse;
  }
  for_columns(width, wide, [&](auto n, int c) {
    constexpr int N = n.value;
    float v[N];
    float a[N];
    float b[N];
    load(x, xStart + c, v);
    load_or_zero(scale, mStart + c, a);
    if (tangent) {
      float d[N];
      float da[N];
      load_or_zero(dx, xStart + c, d);
      load_or_zero(dScale, mStart + c, da);
      load_or_zero(dShift, mStart + c, b);
#pragma unroll
      for (int j = 0; j < N; j++) {
        d[j] = slope.of(v[j], d[j]) * (unit + a[j]) + slope.hat(v[j]) * da[j] + b[j];
      }
      store(dy, yStart + c, d);
    }
    if (y) {
      load_or_zero(shift, mStart + c, b);
#pragma unroll
      for (int j = 0; j < N; j++) {
        v[j] = slope.hat(v[j]) * (unit + a[j]) + b[j];
      }
      store(y, yStart + c, v);
    }
  });
}

// A block takes some rows of one sample, 32 at a time: first the sums of each row by warps, then
// x̄ and the sums of each column by threads, which find the rows in the cache. Where several threads
// share a column, the block has 256 of them.
KERNEL __launch_bounds__(512, 1) norm_backward(
    int kind,
    float unit,
    int width,
    int inner,
    i64 xStride,
    i64 gyStride,
    i64 gxStride,
    i64 rowsPerSample,
    i64 modStride,
    Ref x,
    Ref scale,
    const float *stats,
    Ref gy,
    Ref gx,
    int addX,
    float *partialScale,
    float *partialShift,
    int rowsPerBlock) {
  constexpr int ROWS = 32;
  constexpr int AHEAD = 2;  // rows of a column that are loaded before the first is used
  __shared__ Slope slopes[ROWS];
  __shared__ float scaleSums[256][4];
  __shared__ float shiftSums[256][4];
  i64 sample = blockIdx.y;
  i64 from = (i64)blockIdx.x * rowsPerBlock;
  i64 to = from + rowsPerBlock < rowsPerSample ? from + rowsPerBlock : rowsPerSample;
  i64 firstRow = sample * rowsPerSample;
  i64 mStart = sample * modStride;
  i64 pStart = (sample * gridDim.x + blockIdx.x) * width;
  bool wide = width % 4 == 0 && xStride % 4 == 0 && gyStride % 4 == 0 && gxStride % 4 == 0
      && modStride % 4 == 0 && aligned<4>(x) && aligned<4>(scale) && aligned<4>(gy)
      && aligned<4>(gx);
  int columnStep = wide ? 4 : 1;
  int columnThreads = (width + columnStep - 1) / columnStep;
  int rowThreads = columnThreads >= blockDim.x ? 1 : blockDim.x / columnThreads;

  for (i64 start = from; start < to; start += ROWS) {
    int count = (int)(to - start < ROWS ? to - start : ROWS);
    for (int r = threadIdx.x / WARP; r < count; r += blockDim.x / WARP) {
      i64 row = firstRow + start + r;
      Slope slope(kind, width, stats[2 * row], stats[2 * row + 1], 0, 0);
      if (kind != NONE && gx) {
        i64 xStart = row_start(row, inner, xStride, width);
        i64 gStart = row_start(row, inner, gyStride, width);
        float sum = 0;
        float sumHat = 0;
        for_columns(width, wide, [&](auto n, int c) {
          constexpr int N = n.value;
          float v[N];
          float g[N];
          float a[N];
          load(x, xStart + c, v);
          load(gy, gStart + c, g);
          load_or_zero(scale, mStart + c, a);
#pragma unroll
          for (int j = 0; j < N; j++) {
            float h = g[j] * (unit + a[j]);
            sum += h;
            sumHat += h * slope.hat(v[j]);
          }
        });
        slope = Slope(kind, width, slope.mean, slope.inverse, warp_sum(sum), warp_sum(sumHat));
      }
      if (threadIdx.x % WARP == 0) {
        slopes[r] = slope;
      }
    }
    __syncthreads();

    int rowThread = threadIdx.x / columnThreads;
    auto column = [&](auto n, int c) {
      constexpr int N = n.value;
      float a[N];
      float scaleSum[N] = {};
      float shiftSum[N] = {};
      if (rowThread < rowThreads) {
        load_or_zero(scale, mStart + c, a);
        for (int first = rowThread; first < count; first += AHEAD * rowThreads) {
          float v[AHEAD][N];
          float g[AHEAD][N];
          float old[AHEAD][N];
#pragma unroll
          for (int k = 0; k < AHEAD; k++) {
            int r = first + k * rowThreads;
            if (r < count) {
              i64 row = firstRow + start + r;
              load(x, row_start(row, inner, xStride, width) + c, v[k]);
              load(gy, row_start(row, inner, gyStride, width) + c, g[k]);
              if (gx && addX) {
                load(gx, row_start(row, inner, gxStride, width) + c, old[k]);
              }
            }
          }
#pragma unroll
          for (int k = 0; k < AHEAD; k++) {
            int r = first + k * rowThreads;
            if (r < count) {
              Slope slope = slopes[r];
#pragma unroll
              for (int j = 0; j < N; j++) {
                scaleSum[j] += g[k][j] * slope.hat(v[k][j]);
                shiftSum[j] += g[k][j];
                g[k][j] = slope.of(v[k][j], g[k][j] * (unit + a[j])) + (addX ? old[k][j] : 0);
              }
              if (gx) {
                store(gx, row_start(firstRow + start + r, inner, gxStride, width) + c, g[k]);
              }
            }
          }
        }
      }
      if (rowThreads > 1) {
        __syncthreads();
#pragma unroll
        for (int j = 0; j < N; j++) {
          scaleSums[threadIdx.x][j] = scaleSum[j];
          shiftSums[threadIdx.x][j] = shiftSum[j];
        }
        __syncthreads();
        for (int t = threadIdx.x + columnThreads; rowThread == 0 && t < rowThreads * columnThreads;
             t += columnThreads) {
#pragma unroll
          for (int j = 0; j < N; j++) {
            scaleSum[j] += scaleSums[t][j];
            shiftSum[j] += shiftSums[t][j];
          }
        }
      }
      if (rowThread == 0) {
#pragma unroll
        for (int j = 0; j < N; j++) {
          i64 p = pStart + c + j;
          if (partialScale != nullptr) {
            partialScale[p] = scaleSum[j] + (start > from ? partialScale[p] : 0);
          }
          if (partialShift != nullptr) {
            partialShift[p] = shiftSum[j] + (start > from ? partialShift[p] : 0);
          }
        }
      }
    };
    if (rowThreads > 1) {  // every thread has at most one column, and all meet at the barriers
      int c = threadIdx.x % columnThreads * columnStep;
      if (wide) {
        column(Width<4>(), c);
      } else {
        column(Width<1>(), c);
      }
    } else {
      rowThread = 0;
      for (int c = threadIdx.x * columnStep; c < width; c += blockDim.x * columnStep) {
        if (wide) {
          column(Width<4>(), c);
        } else {
          column(Width<1>(), c);
        }
      }
    }
    __syncthreads();
  }
}
