// Passes over all parameters, which lie in one flat buffer.
#include "common.cuh"

// The numbers of one step, in device memory, so that a captured graph takes new ones each time.
struct AdamWNumbers {
  float beta1;
  float gradient1;  // (1 − β₁) times the factor on the gradients
  float beta2;
  float gradient2;  // (1 − β₂) times that factor squared
  float correction2;  // 1 / (1 − β₂ⁿ)
  float epsilon;
  float rate;  // learning rate / (1 − β₁ⁿ)
  float keep;  // 1 − learning rate · weight decay
  float take[4];  // 1 − decay of each average
};

// AdamW, then the averages of the new parameters and their copy for products. An average with a remainder loses nothing to
// rounding: the remainder keeps what the sum could not.
KERNEL __launch_bounds__(256) adamw(
    float *p,
    const float *g,
    float *m,
    float *v,
    bf16 *compact,
    float *a0,
    float *a1,
    float *a2,
    float *a3,
    float *r0,
    float *r1,
    float *r2,
    float *r3,
    const AdamWNumbers *numbers,
    i64 n) {
  AdamWNumbers u = *numbers;
  Ref parameters{p, 0};
  Ref gradients{(void *)g, 0};
  Ref first{m, 0};
  Ref second{v, 0};
  Ref copy{compact, 1};
  Ref averages[4] = {{a0, 0}, {a1, 0}, {a2, 0}, {a3, 0}};
  Ref remainders[4] = {{r0, 0}, {r1, 0}, {r2, 0}, {r3, 0}};
  bool wide = aligned<8>(parameters) && aligned<8>(gradients) && aligned<8>(first)
      && aligned<8>(second) && aligned<8>(copy) && aligned<8>(averages[0])
      && aligned<8>(averages[1]) && aligned<8>(averages[2]) && aligned<8>(averages[3])
      && aligned<8>(remainders[0]) && aligned<8>(remainders[1]) && aligned<8>(remainders[2])
      && aligned<8>(remainders[3]);
  for_each(n, wide, [&](auto width, i64 i) {
    constexpr int N = width.value;
    float pv[N];
    float gv[N];
    float mv[N];
    float vv[N];
    load(parameters, i, pv);
    load(gradients, i, gv);
    load(first, i, mv);
    load(second, i, vv);
#pragma unroll
    for (int j = 0; j < N; j++) {
      mv[j] = u.beta1 * mv[j] + u.gradient1 * gv[j];
      vv[j] = u.beta2 * vv[j] + u.gradient2 * (gv[j] * gv[j]);
      pv[j] = u.keep * pv[j] - u.rate * mv[j] / (sqrtf(vv[j] * u.correction2) + u.epsilon);
    }
    store(first, i, mv);
    store(second, i, vv);
    store(parameters, i, pv);
    if (copy) {
      store(copy, i, pv);
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
      if (averages[k] && remainders[k]) {
        load(averages[k], i, gv);
        load(remainders[k], i, mv);
#pragma unroll
        for (int j = 0; j < N; j++) {
          float y = mv[j] + u.take[k] * ((pv[j] - gv[j]) - mv[j]);
          float sum = gv[j] + y;
          mv[j] = y - (sum - gv[j]);
          gv[j] = sum;
        }
        store(averages[k], i, gv);
        store(remainders[k], i, mv);
      } else if (averages[k]) {
        load(averages[k], i, gv);
#pragma unroll
        for (int j = 0; j < N; j++) {
          gv[j] += u.take[k] * (pv[j] - gv[j]);
        }
        store(averages[k], i, gv);
      }
    }
  });
}

// The block's sum of a number of each thread, in thread 0; always in the same order.
__device__ inline double block_sum(double x) {
  __shared__ double sums[256 / WARP];
  x = warp_sum(x);
  if (threadIdx.x % WARP == 0) {
    sums[threadIdx.x / WARP] = x;
  }
  __syncthreads();
  x = 0;
  for (double s : sums) {
    x += s;
  }
  return x;
}

// Σ x² of each block's elements.
KERNEL __launch_bounds__(256) squared_norm(Ref x, double *partial, i64 n) {
  double sum = 0;
  for_each(n, aligned<8>(x), [&](auto width, i64 i) {
    float v[width.value];
    load(x, i, v);
#pragma unroll
    for (float e : v) {
      sum += (double)e * e;
    }
  });
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = sum;
  }
}

KERNEL __launch_bounds__(256) sum_doubles(const double *partial, int count, double *result) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += 256) {
    sum += partial[i];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    *result = sum;
  }
}
