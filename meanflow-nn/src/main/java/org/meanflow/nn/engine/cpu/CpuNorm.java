package org.meanflow.nn.engine.cpu;

import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.NormKernels;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;

/** RMS norm and layer norm, row by row; x̂ is computed again where it is needed. */
final class CpuNorm implements NormKernels {
  /** Rows that one item covers. */
  private static final int ROWS = 64;

  private static final int X_SLOT = 1;
  private static final int HAT_SLOT = 2;
  private static final int GAIN_SLOT = 3;
  private static final int D_SLOT = 4;
  private static final int OUT_SLOT = 5;
  private static final int OLD_SLOT = 6;

  private final CpuEngine engine;
  private final Workers workers;
  private final Reductions reductions;

  CpuNorm(CpuEngine engine, Workers workers, Reductions reductions) {
    this.engine = engine;
    this.workers = workers;
    this.reductions = reductions;
  }

  @FunctionalInterface
  private interface Row {
    void run(long start, int item, Scratch scratch);
  }

  /** Runs a loop over the rows of {@code x}; rows of one item are computed in order. */
  private int rows(Tensor x, Row row) {
    long width = x.dim(-1);
    long count = x.size() / width;
    int items = Math.toIntExact(Math.ceilDiv(count, ROWS));
    workers.run(
        items,
        (item, scratch) -> {
          for (long r = (long) item * ROWS; r < Math.min(count, (item + 1L) * ROWS); r++) {
            row.run(r * width, item, scratch);
          }
        });
    return items;
  }

  @Override
  public Saved norm(Norm norm, Tensor x, @Nullable Tensor gain, Tensor y, boolean keep) {
    CpuTensor from = CpuTensor.of(x);
    CpuTensor to = CpuTensor.of(y);
    int width = Math.toIntExact(x.dim(-1));
    rows(
        x,
        (start, item, scratch) -> {
          long source = Simd.in(from, start, width, scratch, X_SLOT);
          long out = Simd.out(to, start, width, scratch, OUT_SLOT);
          NormRows.normalise(norm, source, out, width);
          multiplyByGain(gain, out, width, scratch);
          Simd.done(to, start, width, out);
        });
    return Saved.NOTHING;
  }

  private static void multiplyByGain(@Nullable Tensor gain, long row, int width, Scratch scratch) {
    if (gain != null) {
      long g = Simd.in(CpuTensor.of(gain), 0, width, scratch, GAIN_SLOT);
      NormRows.multiply(row, g, row, width);
    }
  }

  @Override
  public void normTangent(
      Norm norm, Tensor x, @Nullable Tensor gain, Saved saved, Tensor dx, Tensor dy) {
    CpuTensor from = CpuTensor.of(x);
    CpuTensor direction = CpuTensor.of(dx);
    CpuTensor to = CpuTensor.of(dy);
    int width = Math.toIntExact(x.dim(-1));
    rows(
        dx,
        (start, item, scratch) -> {
          long hat = scratch.floats(HAT_SLOT, Simd.padded(width));
          long source = Simd.in(from, start, width, scratch, X_SLOT);
          float inverse = NormRows.normalise(norm, source, hat, width);
          long d = Simd.in(direction, start, width, scratch, D_SLOT);
          long out = Simd.out(to, start, width, scratch, OUT_SLOT);
          NormRows.slope(norm, hat, inverse, d, out, width);
          multiplyByGain(gain, out, width, scratch);
          Simd.done(to, start, width, out);
        });
  }

  @Override
  public void normBackward(
      Norm norm,
      Tensor x,
      @Nullable Tensor gain,
      Saved saved,
      Tensor gy,
      @Nullable Cotangent gx,
      @Nullable Cotangent gGain) {
    CpuTensor from = CpuTensor.of(x);
    CpuTensor g = CpuTensor.of(gy);
    int width = Math.toIntExact(x.dim(-1));
    int padded = Simd.padded(width);
    int most = Math.toIntExact(Math.ceilDiv(x.size() / width, (long) ROWS));
    try (Tensor partial = engine.allocate(most, padded)) {
      CpuTensor sums = CpuTensor.of(partial);
      engine.kernels().elementwise().fill(partial, 0);
      rows(
          x,
          (start, item, scratch) -> {
            long hat = scratch.floats(HAT_SLOT, padded);
            long source = Simd.in(from, start, width, scratch, X_SLOT);
            float inverse = NormRows.normalise(norm, source, hat, width);
            long d = Simd.in(g, start, width, scratch, D_SLOT);
            if (gGain != null) {
              NormRows.addProduct(hat, d, sums.address((long) item * padded), padded);
            }
            if (gx != null) {
              CpuTensor to = CpuTensor.of(gx.target());
              long scaled = scratch.floats(OUT_SLOT, padded);
              Simd.copyRow(d, scaled, padded);
              multiplyByGain(gain, scaled, width, scratch);
              NormRows.slope(norm, hat, inverse, scaled, scaled, width);
              writeRow(to, start, width, scaled, gx.add(), scratch, OLD_SLOT);
            }
          });
      if (gGain != null) {
        reductions.addUp(sums, most, width, CpuTensor.of(gGain.target()), gGain.add());
      }
    }
  }

  /** Writes a row from scratch memory, or adds it. */
  static void writeRow(
      CpuTensor to, long start, int width, long row, boolean add, Scratch scratch, int slot) {
    int padded = Simd.padded(width);
    long target =
        add ? Simd.in(to, start, width, scratch, slot) : Simd.out(to, start, width, scratch, slot);
    if (add) {
      Simd.addTo(row, target, padded);
    } else {
      Simd.copyRow(row, target, padded);
    }
    Simd.done(to, start, width, target);
  }
}
