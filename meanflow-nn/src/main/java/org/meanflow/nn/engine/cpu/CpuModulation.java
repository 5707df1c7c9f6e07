package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.all;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;
import static org.meanflow.nn.engine.cpu.Simd.storeResult;

import jdk.incubator.vector.FloatVector;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.ModulationKernels;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;

/**
 * Normalisation with shift and scale, token by token, in one pass over memory; the gates are in
 * {@link CpuGatedResidual}.
 */
final class CpuModulation implements ModulationKernels {
  private static final int X_SLOT = 1;
  private static final int Y_SLOT = 2;
  private static final int SHIFT_SLOT = 4;
  private static final int SCALE_SLOT = 5;
  private static final int OUT_SLOT = 6;
  private static final int D_SHIFT_SLOT = 7;
  private static final int D_SCALE_SLOT = 8;
  private static final int OLD_SLOT = 9;
  private static final int FACTOR_SLOT = 12;
  private static final int STATISTICS_SLOT = 10;
  private static final int STAGED_SLOT = 11;
  private static final int OTHER_STAGED_SLOT = 13;
  private static final int ZEROS_SLOT = 14;

  private final CpuEngine engine;
  private final Workers workers;
  private final CpuGatedResidual gated;

  CpuModulation(CpuEngine engine, Workers workers) {
    this.engine = engine;
    this.workers = workers;
    gated = new CpuGatedResidual(engine, workers);
  }

  // Vector loops have methods of their own: within a long one, the compiler gives up inlining and
  // keeps vectors on the heap.

  /** 1 + a sample's scale, as a row. */
  private static long factor(
      SampleBlocks blocks, Tensor modulation, int sample, int index, Scratch scratch) {
    int width = blocks.width();
    long scale = blocks.chunk(modulation, sample, index, scratch, SCALE_SLOT);
    long factor = scratch.floats(FACTOR_SLOT, Simd.padded(width));
    for (int i = 0; i < width; i += LANES) {
      store(load(scale, i).add(Simd.ONE), factor, i);
    }
    return factor;
  }

  /** y = x̂ ⊙ factor + shift. */
  private static void modulate(
      long x, long known, int row, long factor, long shift, long y, boolean half, int width) {
    FloatVector m = all(NormRows.mean(known, row));
    FloatVector scale = all(NormRows.inverse(known, row));
    for (int i = 0; i < width; i += LANES) {
      FloatVector hat = load(x, i).sub(m).mul(scale);
      storeResult(hat.fma(load(factor, i), load(shift, i)), y, i, half);
    }
  }

  /** The same for two rows that follow each other. */
  private static void modulateTwo(
      long x, long known, int row, long factor, long shift, long y, int width) {
    long next = x + (long) width * Float.BYTES;
    long yNext = y + (long) width * Float.BYTES;
    FloatVector mean = all(NormRows.mean(known, row));
    FloatVector nextMean = all(NormRows.mean(known, row + 1));
    FloatVector inverse = all(NormRows.inverse(known, row));
    FloatVector nextInverse = all(NormRows.inverse(known, row + 1));
    for (int i = 0; i < width; i += LANES) {
      FloatVector f = load(factor, i);
      FloatVector s = load(shift, i);
      FloatVector hat = load(x, i).sub(mean).mul(inverse);
      FloatVector nextHat = load(next, i).sub(nextMean).mul(nextInverse);
      store(hat.fma(f, s), y, i);
      store(nextHat.fma(f, s), yNext, i);
    }
  }

  /** The same for two rows that follow each other, to bfloat16. */
  private static void modulateTwoHalf(
      long x, long known, int row, long factor, long shift, long y, int width) {
    long next = x + (long) width * Float.BYTES;
    long yNext = y + (long) width * Short.BYTES;
    FloatVector mean = all(NormRows.mean(known, row));
    FloatVector nextMean = all(NormRows.mean(known, row + 1));
    FloatVector inverse = all(NormRows.inverse(known, row));
    FloatVector nextInverse = all(NormRows.inverse(known, row + 1));
    for (int i = 0; i < width; i += LANES) {
      FloatVector f = load(factor, i);
      FloatVector s = load(shift, i);
      FloatVector hat = load(x, i).sub(mean).mul(inverse);
      FloatVector nextHat = load(next, i).sub(nextMean).mul(nextInverse);
      storeResult(hat.fma(f, s), y, i, true);
      storeResult(nextHat.fma(f, s), yNext, i, true);
    }
  }

  /** Sums over a row for its slope: of x̂ ⊙ d and of d. */
  private static void slopeSums(long x, long known, int row, long d, int width) {
    FloatVector m = all(NormRows.mean(known, row));
    FloatVector scale = all(NormRows.inverse(known, row));
    FloatVector along = FloatVector.zero(Simd.FLOATS);
    FloatVector sum = FloatVector.zero(Simd.FLOATS);
    for (int i = 0; i < width; i += LANES) {
      FloatVector v = load(d, i);
      along = load(x, i).sub(m).mul(scale).fma(v, along);
      sum = sum.add(v);
    }
    store(along, NormRows.alongSums(known, row));
    store(sum, NormRows.meanSums(known, row));
  }

  /** y = slope(d) ⊙ factor + x̂ ⊙ dScale + dShift. */
  private static void tangent(
      long x,
      long known,
      int row,
      long d,
      long factor,
      long dScale,
      long dShift,
      long y,
      boolean half,
      int width) {
    FloatVector m = all(NormRows.mean(known, row));
    FloatVector scale = all(NormRows.inverse(known, row));
    FloatVector along = all(-NormRows.along(known, row));
    FloatVector mean = all(NormRows.slopeMean(known, row));
    for (int i = 0; i < width; i += LANES) {
      FloatVector hat = load(x, i).sub(m).mul(scale);
      FloatVector slope = hat.fma(along, load(d, i).sub(mean)).mul(scale);
      FloatVector fixed = hat.fma(load(dScale, i), load(dShift, i));
      store(slope.fma(load(factor, i), fixed), y, i, half);
    }
  }

  /** shiftSum += g, scaleSum += g ⊙ x̂; sums over the row of g ⊙ factor for its slope. */
  private static void cotangentSums(
      long x,
      long known,
      int row,
      long g,
      boolean half,
      long factor,
      long shiftSum,
      long scaleSum,
      int width) {
    FloatVector m = all(NormRows.mean(known, row));
    FloatVector scale = all(NormRows.inverse(known, row));
    FloatVector along = FloatVector.zero(Simd.FLOATS);
    FloatVector sum = FloatVector.zero(Simd.FLOATS);
    for (int i = 0; i < width; i += LANES) {
      FloatVector v = load(g, i, half);
      FloatVector hat = load(x, i).sub(m).mul(scale);
      store(load(shiftSum, i).add(v), shiftSum, i);
      store(v.fma(hat, load(scaleSum, i)), scaleSum, i);
      FloatVector scaled = v.mul(load(factor, i));
      along = hat.fma(scaled, along);
      sum = sum.add(scaled);
    }
    store(along, NormRows.alongSums(known, row));
    store(sum, NormRows.meanSums(known, row));
  }

  /** y = slope(g ⊙ factor), or y += … . */
  private static void slopeOfProduct(
      long x,
      long known,
      int row,
      long g,
      boolean half,
      long factor,
      long y,
      boolean add,
      int width) {
    FloatVector m = all(NormRows.mean(known, row));
    FloatVector scale = all(NormRows.inverse(known, row));
    FloatVector along = all(-NormRows.along(known, row));
    FloatVector mean = all(NormRows.slopeMean(known, row));
    for (int i = 0; i < width; i += LANES) {
      FloatVector hat = load(x, i).sub(m).mul(scale);
      FloatVector d = load(g, i, half).mul(load(factor, i)).sub(mean);
      FloatVector slope = hat.fma(along, d).mul(scale);
      store(add ? load(y, i).add(slope) : slope, y, i);
    }
  }

  /** Modulates rows whose statistics are known. */
  private static void modulate(
      long x,
      long known,
      int rows,
      long factor,
      long shift,
      CpuTensor y,
      long start,
      int width,
      Scratch scratch) {
    long step = (long) Simd.padded(width) * Float.BYTES;
    boolean half = Simd.isDirectHalf(y, width);
    int row = 0;
    if (half) {
      for (; row + 2 <= rows; row += 2) {
        long to = y.address(start + (long) row * width);
        modulateTwoHalf(x + row * step, known, row, factor, shift, to, width);
      }
    } else if (Simd.isDirect(y, width)) {
      for (; row + 2 <= rows; row += 2) {
        long to = y.address(start + (long) row * width);
        modulateTwo(x + row * step, known, row, factor, shift, to, width);
      }
    }
    for (; row < rows; row++) {
      long element = start + (long) row * width;
      long to = half ? y.address(element) : Simd.out(y, element, width, scratch, OUT_SLOT);
      modulate(x + row * step, known, row, factor, shift, to, half, width);
      if (!half) {
        Simd.done(y, element, width, to);
      }
    }
  }

  @Override
  public Saved normModulate(
      Norm norm, Tensor x, Tensor modulation, int shift, int scale, Tensor y, boolean keep) {
    CpuTensor from = CpuTensor.of(x);
    CpuTensor to = CpuTensor.of(y);
    SampleBlocks blocks = SampleBlocks.of(x);
    int width = blocks.width();
    int padded = Simd.padded(width);
    long step = (long) padded * Float.BYTES;
    workers.run(
        blocks.count(),
        (item, scratch) -> {
          int sample = blocks.sample(item);
          long a = blocks.chunk(modulation, sample, shift, scratch, SHIFT_SLOT);
          long b = factor(blocks, modulation, sample, scale, scratch);
          long first = blocks.first(item) * width;
          int rows = blocks.rows(item);
          long source = Simd.inRows(from, first, rows, width, scratch, STAGED_SLOT, X_SLOT);
          long known = scratch.floats(STATISTICS_SLOT, NormRows.STATISTICS);
          // A few rows at a time, which stay in the first-level cache.
          int some = NormRows.rowsAtOnce(padded);
          for (int row = 0; row < rows; row += some) {
            int count = Math.min(some, rows - row);
            long start = first + (long) row * width;
            NormRows.statistics(norm, source + row * step, count, width, known);
            modulate(source + row * step, known, count, b, a, to, start, width, scratch);
          }
        });
    return Saved.NOTHING;
  }

  @Override
  public void normModulateTangent(
      Norm norm,
      Tensor x,
      Tensor modulation,
      int shift,
      int scale,
      Saved saved,
      @Nullable Tensor dx,
      @Nullable Tensor dModulation,
      Tensor dy) {
    CpuTensor from = CpuTensor.of(x);
    CpuTensor to = CpuTensor.of(dy);
    SampleBlocks blocks = SampleBlocks.of(dy);
    int width = blocks.width();
    int padded = Simd.padded(width);
    long step = (long) padded * Float.BYTES;
    boolean half = Simd.isDirectHalf(to, width);
    workers.run(
        blocks.count(),
        (item, scratch) -> {
          int sample = blocks.sample(item);
          long factor = factor(blocks, modulation, sample, scale, scratch);
          long zeros = scratch.floats(ZEROS_SLOT, padded);
          Simd.clear(zeros, padded);
          long da = zeros;
          long db = zeros;
          if (dModulation != null) {
            da = blocks.chunk(dModulation, sample, shift, scratch, D_SHIFT_SLOT);
            db = blocks.chunk(dModulation, sample, scale, scratch, D_SCALE_SLOT);
          }
          long first = blocks.first(item) * width;
          int rows = blocks.rows(item);
          long source = Simd.inRows(from, first, rows, width, scratch, STAGED_SLOT, X_SLOT);
          long known = scratch.floats(STATISTICS_SLOT, NormRows.STATISTICS);
          NormRows.statistics(norm, source, rows, width, known);
          long d = zeros;
          if (dx != null) {
            CpuTensor direction = CpuTensor.of(dx);
            d = Simd.inRows(direction, first, rows, width, scratch, OTHER_STAGED_SLOT, Y_SLOT);
          }
          long dStep = dx == null ? 0 : step;
          for (int row = 0; row < rows; row++) {
            slopeSums(source + row * step, known, row, d + row * dStep, padded);
          }
          NormRows.slopes(norm, rows, width, known);
          for (int row = 0; row < rows; row++) {
            long start = first + (long) row * width;
            long out = half ? to.address(start) : Simd.out(to, start, width, scratch, OUT_SLOT);
            long direction = d + row * dStep;
            tangent(source + row * step, known, row, direction, factor, db, da, out, half, padded);
            if (!half) {
              Simd.done(to, start, width, out);
            }
          }
        });
  }

  @Override
  public void normModulateBackward(
      Norm norm,
      Tensor x,
      Tensor modulation,
      int shift,
      int scale,
      Saved saved,
      Tensor gy,
      @Nullable Cotangent gx,
      @Nullable Cotangent gModulation) {
    CpuTensor from = CpuTensor.of(x);
    CpuTensor g = CpuTensor.of(gy);
    SampleBlocks blocks = SampleBlocks.of(x);
    int width = blocks.width();
    int padded = Simd.padded(width);
    long step = (long) padded * Float.BYTES;
    boolean half = Simd.isDirectHalf(g, width);
    try (Tensor partial = engine.allocate(blocks.count(), 2L * padded)) {
      CpuTensor sums = CpuTensor.of(partial);
      workers.run(
          blocks.count(),
          (item, scratch) -> {
            long factor = factor(blocks, modulation, blocks.sample(item), scale, scratch);
            long shiftSum = sums.address(item * 2L * padded);
            long scaleSum = shiftSum + step;
            Simd.clear(shiftSum, 2 * padded);
            long first = blocks.first(item) * width;
            int rows = blocks.rows(item);
            long source = Simd.inRows(from, first, rows, width, scratch, STAGED_SLOT, X_SLOT);
            long known = scratch.floats(STATISTICS_SLOT, NormRows.STATISTICS);
            NormRows.statistics(norm, source, rows, width, known);
            for (int row = 0; row < rows; row++) {
              long start = first + (long) row * width;
              long d = half ? g.address(start) : Simd.in(g, start, width, scratch, Y_SLOT);
              long values = source + row * step;
              cotangentSums(values, known, row, d, half, factor, shiftSum, scaleSum, padded);
            }
            if (gx != null) {
              NormRows.slopes(norm, rows, width, known);
              CpuTensor to = CpuTensor.of(gx.target());
              for (int row = 0; row < rows; row++) {
                long start = first + (long) row * width;
                long d = half ? g.address(start) : Simd.in(g, start, width, scratch, Y_SLOT);
                long out =
                    gx.add()
                        ? Simd.in(to, start, width, scratch, OLD_SLOT)
                        : Simd.out(to, start, width, scratch, OLD_SLOT);
                long values = source + row * step;
                slopeOfProduct(values, known, row, d, half, factor, out, gx.add(), padded);
                Simd.done(to, start, width, out);
              }
            }
          });
      if (gModulation != null) {
        blocks.addUp(workers, sums, new int[] {shift, scale}, gModulation, OLD_SLOT);
      }
    }
  }

  @Override
  public void gatedResidual(Tensor x, Tensor y, Tensor modulation, int gate, Tensor out) {
    gated.forward(x, y, modulation, gate, null, null, out);
  }

  @Override
  public void gatedResidualTangent(
      Tensor y,
      Tensor modulation,
      int gate,
      @Nullable Tensor dx,
      @Nullable Tensor dy,
      @Nullable Tensor dModulation,
      Tensor dOut) {
    gated.forward(dx, dy, modulation, gate, dModulation == null ? null : y, dModulation, dOut);
  }

  @Override
  public void gatedResidualBackward(
      Tensor y,
      Tensor modulation,
      int gate,
      Tensor gOut,
      @Nullable Cotangent gx,
      @Nullable Cotangent gy,
      @Nullable Cotangent gModulation) {
    gated.backward(y, modulation, gate, gOut, gx, gy, gModulation);
  }
}
