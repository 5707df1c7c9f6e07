// Embeddings of times, labels and image patches.
#include "common.cuh"

// f_k = 10000^(−k/n). Angles reach 1000, so they are float64: a float32 angle would be 6e-5 off.
__device__ inline double frequency(int k, int n) {
  return exp(-9.210340371976182736 * k / n);
}

__device__ inline double element(const Ref &x, i64 i) {
  float v[1];
  load(x, i, v);
  return v[0];
}

__device__ inline void set(const Ref &x, i64 i, double value) {
  float v[1] = {(float)value};
  store(x, i, v);
}

// [cos a f_k, sin a f_k] with a = scale·t, and the tangent of the first m samples.
KERNEL __launch_bounds__(256) time_features(
    double scale, Ref t, Ref y, Ref dt, Ref dy, int n, i64 batch, i64 m) {
  for_each(batch * n, false, [&](auto, i64 i) {
    i64 b = i / n;
    int k = (int)(i % n);
    double rate = scale * frequency(k, n);
    double sine;
    double cosine;
    sincos(rate * element(t, b), &sine, &cosine);
    if (y) {
      set(y, b * 2 * n + k, cosine);
      set(y, b * 2 * n + n + k, sine);
    }
    if (b < m) {
      double d = rate * element(dt, b);
      set(dy, b * 2 * n + k, -sine * d);
      set(dy, b * 2 * n + n + k, cosine * d);
    }
  });
}

// A warp for each sample.
KERNEL __launch_bounds__(128) time_features_backward(
    double scale, Ref t, Ref gy, Ref gt, int add, int n, i64 batch) {
  i64 b = warp_row();
  if (b >= batch) {
    return;
  }
  double time = element(t, b);
  double sum = 0;
  for (int k = threadIdx.x % WARP; k < n; k += WARP) {
    double rate = scale * frequency(k, n);
    double sine;
    double cosine;
    sincos(rate * time, &sine, &cosine);
    sum += rate
        * (cosine * element(gy, b * 2 * n + n + k) - sine * element(gy, b * 2 * n + k));
  }
  sum = warp_sum(sum);
  if (threadIdx.x % WARP == 0) {
    float v[1] = {(float)sum};
    put(gt, add, b, v);
  }
}

KERNEL __launch_bounds__(256) embedding(
    Ref table, const int *indices, Ref y, int width, i64 batch) {
  bool wide = width % 8 == 0 && aligned<8>(table) && aligned<8>(y);
  for_each(batch * width, wide, [&](auto lanes, i64 i) {
    float v[lanes.value];
    load(table, indices[i / width] * (i64)width + i % width, v);
    store(y, i, v);
  });
}

// A block row for each row of the table, which collects the samples of its index in order.
KERNEL __launch_bounds__(128) embedding_backward(
    const int *indices, Ref gy, Ref gTable, int add, int width, i64 batch) {
  int lane = threadIdx.x % WARP;
  int from = blockIdx.y * 512;
  float sum[4] = {0, 0, 0, 0};
  bool any = false;
  for (i64 start = 0; start < batch; start += WARP) {
    bool match = start + lane < batch && indices[start + lane] == (int)blockIdx.x;
    u32 matches = __ballot_sync(0xffffffffu, match);
    any |= matches != 0;
    for (; matches != 0; matches &= matches - 1) {
      i64 row = (start + __ffs(matches) - 1) * width;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        int c = from + j * 128 + threadIdx.x;
        if (c < width) {
          sum[j] += (float)element(gy, row + c);
        }
      }
    }
  }
  if (add && !any) {
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; j++) {
    int c = from + j * 128 + threadIdx.x;
    if (c < width) {
      float v[1] = {sum[j]};
      put(gTable, add, (i64)blockIdx.x * width + c, v);
    }
  }
}

// Where pixel i of the images is among the tokens.
struct Patches {
  int order;
  int patch;
  int channels;
  int height;
  int width;

  __device__ i64 token_index(i64 i) const {
    int column = (int)(i % width);
    i64 rest = i / width;
    int row = (int)(rest % height);
    rest /= height;
    int channel = (int)(rest % channels);
    i64 sample = rest / channels;
    int within = order == 0
        ? (channel * patch + row % patch) * patch + column % patch
        : (row % patch * patch + column % patch) * channels + channel;
    i64 token = (sample * (height / patch) + row / patch) * (width / patch) + column / patch;
    return token * (channels * patch * patch) + within;
  }
};

KERNEL __launch_bounds__(256) patchify(
    Ref images, Ref tokens, int add, int order, int patch, int channels, int height, int width,
    i64 n) {
  Patches patches{order, patch, channels, height, width};
  for_each(n, false, [&](auto, i64 i) {
    float v[1];
    load(images, i, v);
    put(tokens, add, patches.token_index(i), v);
  });
}

KERNEL __launch_bounds__(256) unpatchify(
    Ref tokens, Ref images, int add, int order, int patch, int channels, int height, int width,
    i64 n) {
  Patches patches{order, patch, channels, height, width};
  for_each(n, false, [&](auto, i64 i) {
    float v[1];
    load(tokens, patches.token_index(i), v);
    put(images, add, i, v);
  });
}
