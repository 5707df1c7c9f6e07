// Elementwise maps with their tangents and slopes, softmax, sums over rows.
#include "common.cuh"

KERNEL __launch_bounds__(256) fill(Ref x, float value, i64 n) {
  for_each(n, aligned<8>(x), [&](auto width, i64 i) {
    float v[width.value];
#pragma unroll
    for (float &e : v) {
      e = value;
    }
    store(x, i, v);
  });
}

// y = αx, or y += αx; with α = 1 a copy or a conversion.
KERNEL __launch_bounds__(256) scale(float alpha, Ref x, Ref y, int add, i64 n) {
  for_each(n, aligned<8>(x) && aligned<8>(y), [&](auto width, i64 i) {
    float v[width.value];
    load(x, i, v);
#pragma unroll
    for (float &e : v) {
      e *= alpha;
    }
    put(y, add, i, v);
  });
}

// z = αx + βy.
KERNEL __launch_bounds__(256) combine(float alpha, Ref x, float beta, Ref y, Ref z, i64 n) {
  for_each(n, aligned<8>(x) && aligned<8>(y) && aligned<8>(z), [&](auto width, i64 i) {
    constexpr int N = width.value;
    float v[N];
    float w[N];
    load(x, i, v);
    load(y, i, w);
#pragma unroll
    for (int j = 0; j < N; j++) {
      v[j] = alpha * v[j] + beta * w[j];
    }
    store(z, i, v);
  });
}

// z = x ⊙ y, or z += x ⊙ y.
KERNEL __launch_bounds__(256) multiply(Ref x, Ref y, Ref z, int add, i64 n) {
  for_each(n, aligned<8>(x) && aligned<8>(y) && aligned<8>(z), [&](auto width, i64 i) {
    constexpr int N = width.value;
    float v[N];
    float w[N];
    load(x, i, v);
    load(y, i, w);
#pragma unroll
    for (int j = 0; j < N; j++) {
      v[j] *= w[j];
    }
    put(z, add, i, v);
  });
}

// An activation x σ(a(x)): its value, and its slope s + x a′ s (1 − s) with s = σ(a(x)), where
// neither s nor 1 − s is a difference.
struct Activation {
  float value;
  float slope;

  __device__ Activation(float x, float a, float rate) {
    float e = expf(-fabsf(a));
    float inverse = 1 / (1 + e);
    float s = a < 0 ? e * inverse : inverse;
    value = x * s;
    slope = s + x * rate * (e * inverse * inverse);
  }
};

struct Silu {
  static __device__ Activation at(float x) { return Activation(x, x, 1); }
};

// ½x(1 + tanh b) = x σ(2b), 2b = k x (1 + 0.044715 x²), k = 2√(2/π).
struct Gelu {
  static __device__ Activation at(float x) {
    constexpr float K = 1.5957691216057308f;
    constexpr float CUBIC = 0.044715f;
    float squared = x * x;
    return Activation(x, K * x * (1 + CUBIC * squared), K * (1 + 3 * CUBIC * squared));
  }
};

// The value on n elements, and the tangent on the first m; no value where y is absent.
template <typename F>
__device__ void activate(const Ref &x, const Ref &y, const Ref &dx, const Ref &dy, i64 n, i64 m) {
  bool wide = aligned<8>(x) && aligned<8>(y) && aligned<8>(dx) && aligned<8>(dy);
  for_each(n, wide, [&](auto width, i64 i) {
    constexpr int N = width.value;
    float v[N];
    float d[N];
    load(x, i, v);
    bool whole = i + N <= m;
    if (whole) {
      load(dx, i, d);
    }
#pragma unroll
    for (int j = 0; j < N; j++) {
      Activation f = F::at(v[j]);
      if (whole) {
        d[j] *= f.slope;
      } else if (i + j < m) {  // where the tangent ends within these elements
        float one[1];
        load(dx, i + j, one);
        one[0] *= f.slope;
        store(dy, i + j, one);
      }
      v[j] = f.value;
    }
    if (whole) {
      store(dy, i, d);
    }
    if (y) {
      store(y, i, v);
    }
  });
}

template <typename F>
__device__ void slope(const Ref &x, const Ref &d, const Ref &y, bool add, i64 n) {
  for_each(n, aligned<8>(x) && aligned<8>(d) && aligned<8>(y), [&](auto width, i64 i) {
    constexpr int N = width.value;
    float v[N];
    float w[N];
    load(x, i, v);
    load(d, i, w);
#pragma unroll
    for (int j = 0; j < N; j++) {
      w[j] *= F::at(v[j]).slope;
    }
    put(y, add, i, w);
  });
}

KERNEL __launch_bounds__(256) gelu(Ref x, Ref y, Ref dx, Ref dy, i64 n, i64 m) {
  activate<Gelu>(x, y, dx, dy, n, m);
}

KERNEL __launch_bounds__(256) silu(Ref x, Ref y, Ref dx, Ref dy, i64 n, i64 m) {
  activate<Silu>(x, y, dx, dy, n, m);
}

KERNEL __launch_bounds__(256) gelu_slope(Ref x, Ref d, Ref y, int add, i64 n) {
  slope<Gelu>(x, d, y, add, n);
}

KERNEL __launch_bounds__(256) silu_slope(Ref x, Ref d, Ref y, int add, i64 n) {
  slope<Silu>(x, d, y, add, n);
}

// A warp for each row.
KERNEL __launch_bounds__(128) softmax(Ref x, Ref y, i64 rows, int width) {
  i64 row = warp_row();
  if (row >= rows) {
    return;
  }
  i64 start = row * width;
  bool wide = width % 4 == 0 && aligned<4>(x) && aligned<4>(y);
  float top = __uint_as_float(0xff800000u);
  for_columns(width, wide, [&](auto n, int c) {
    float v[n.value];
    load(x, start + c, v);
#pragma unroll
    for (float e : v) {
      top = fmaxf(top, e);
    }
  });
  top = warp_max(top);
  float sum = 0;
  for_columns(width, wide, [&](auto n, int c) {
    float v[n.value];
    load(x, start + c, v);
#pragma unroll
    for (float e : v) {
      sum += expf(e - top);
    }
  });
  float factor = 1 / warp_sum(sum);
  for_columns(width, wide, [&](auto n, int c) {
    float v[n.value];
    load(x, start + c, v);
#pragma unroll
    for (float &e : v) {
      e = expf(e - top) * factor;
    }
    store(y, start + c, v);
  });
}

// z (+)= y ⊙ (d − Σ y ⊙ d); a warp for each row.
KERNEL __launch_bounds__(128) softmax_slope(Ref y, Ref d, Ref z, int add, i64 rows, int width) {
  i64 row = warp_row();
  if (row >= rows) {
    return;
  }
  i64 start = row * width;
  bool wide = width % 4 == 0 && aligned<4>(y) && aligned<4>(d) && aligned<4>(z);
  float sum = 0;
  for_columns(width, wide, [&](auto n, int c) {
    constexpr int N = n.value;
    float p[N];
    float v[N];
    load(y, start + c, p);
    load(d, start + c, v);
#pragma unroll
    for (int j = 0; j < N; j++) {
      sum += p[j] * v[j];
    }
  });
  sum = warp_sum(sum);
  for_columns(width, wide, [&](auto n, int c) {
    constexpr int N = n.value;
    float p[N];
    float v[N];
    load(y, start + c, p);
    load(d, start + c, v);
#pragma unroll
    for (int j = 0; j < N; j++) {
      v[j] = p[j] * (v[j] - sum);
    }
    put(z, add, start + c, v);
  });
}

// y[i] = x[i] + table[i mod period].
KERNEL __launch_bounds__(256) add_table(Ref x, Ref table, Ref y, i64 n, i64 period) {
  bool wide = period % 8 == 0 && aligned<8>(x) && aligned<8>(table) && aligned<8>(y);
  for_each(n, wide, [&](auto width, i64 i) {
    constexpr int N = width.value;
    float v[N];
    float w[N];
    load(x, i, v);
    load(table, i % period, w);
#pragma unroll
    for (int j = 0; j < N; j++) {
      v[j] += w[j];
    }
    store(y, i, v);
  });
}

// Sums of the columns of each chunk of rows: y[chunk, column]. A block has 128 columns, four for
// each lane; its eight warps take the rows in turn.
KERNEL __launch_bounds__(256) column_sums(
    Ref x, Ref y, int add, i64 rows, i64 columns, i64 rowsPerChunk) {
  __shared__ float sums[8][128];
  int lane = threadIdx.x % WARP;
  int warp = threadIdx.x / WARP;
  i64 column = (i64)blockIdx.x * 128 + lane * 4;
  i64 from = (i64)blockIdx.y * rowsPerChunk;
  i64 to = from + rowsPerChunk < rows ? from + rowsPerChunk : rows;
  bool wide = columns % 4 == 0 && aligned<4>(x);
  float sum[4] = {0, 0, 0, 0};
  if (wide && column < columns) {
    for (i64 row = from + warp; row < to; row += 32) {
      float v[4][4] = {};
#pragma unroll
      for (int k = 0; k < 4; k++) {  // four loads on their way at a time
        if (row + 8 * k < to) {
          load(x, (row + 8 * k) * columns + column, v[k]);
        }
      }
#pragma unroll
      for (int j = 0; j < 4; j++) {
        sum[j] += (v[0][j] + v[1][j]) + (v[2][j] + v[3][j]);
      }
    }
  } else if (!wide) {
    for (i64 row = from + warp; row < to; row += 8) {
#pragma unroll
      for (int j = 0; j < 4; j++) {
        if (column + j < columns) {
          float v[1];
          load(x, row * columns + column + j, v);
          sum[j] += v[0];
        }
      }
    }
  }
#pragma unroll
  for (int j = 0; j < 4; j++) {
    sums[warp][lane * 4 + j] = sum[j];
  }
  __syncthreads();
  column = (i64)blockIdx.x * 128 + threadIdx.x;
  if (threadIdx.x < 128 && column < columns) {
    float total[1] = {0};
#pragma unroll
    for (int w = 0; w < 8; w++) {
      total[0] += sums[w][threadIdx.x];
    }
    put(y, add, blockIdx.y * columns + column, total);
  }
}

// y[sample·stride + c] (+)= Σ_k partial[sample, k, c]; a block row for each sample.
KERNEL __launch_bounds__(128) chunk_sums(
    const float *partial, Ref y, int add, int width, i64 yStride, int chunks) {
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c < width) {
    const float *p = partial + (i64)blockIdx.y * chunks * width + c;
    float total[1] = {0};
    for (int k = 0; k < chunks; k++) {
      total[0] += p[(i64)k * width];
    }
    put(y, add, blockIdx.y * yStride + c, total);
  }
}
