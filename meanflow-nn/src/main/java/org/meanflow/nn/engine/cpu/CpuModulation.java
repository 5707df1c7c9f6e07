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
  private static final int OLD_SLOT = 9;
  private static final int FACTOR_SLOT = 12;
  private static final int STATISTICS_SLOT = 10;
  private static final int STAGED_SLOT = 11;
  private static final int OTHER_STAGED_SLOT = 13;

  private static final OutlinedLoop FACTOR =
      new OutlinedLoop((scale, factor, width, _, _, _, _, _) -> factor(scale, factor, width));
  private static final OutlinedLoop MODULATE = new OutlinedLoop(CpuModulation::modulate);
  private static final OutlinedLoop SLOPE_SUMS =
      new OutlinedLoop(
          (x, statistics, rows, d, dStep, width, _, _) ->
              slopeSums(x, statistics, rows, d, dStep, width));
  private static final OutlinedLoop TANGENT =
      new OutlinedLoop(
          (x, n, rows, d, dStep, f, y, w) -> tangent(x, n, rows, d, dStep, f, y, false, w));
  private static final OutlinedLoop TANGENT_HALF =
      new OutlinedLoop(
          (x, n, rows, d, dStep, f, y, w) -> tangent(x, n, rows, d, dStep, f, y, true, w));
  private static final OutlinedLoop COTANGENT_SUMS = new OutlinedLoop(CpuModulation::cotangentSums);
  private static final OutlinedLoop SLOPE_OF_PRODUCT =
      new OutlinedLoop(
          (x, n, rows, g, f, y, add, w) -> slopeOfProduct(x, n, rows, g, false, f, y, add, w));
  private static final OutlinedLoop SLOPE_OF_HALF_PRODUCT =
      new OutlinedLoop(
          (x, n, rows, g, f, y, add, w) -> slopeOfProduct(x, n, rows, g, true, f, y, add, w));

  private final CpuEngine engine;
  private final Workers workers;
  private final CpuGatedResidual gated;

  CpuModulation(CpuEngine engine, Workers workers) {
    this.engine = engine;
    this.workers = workers;
    gated = new CpuGatedResidual(engine, workers);
  }

  /** 1 + a sample's scale, as a row. */
  private static long factor(
      SampleBlocks blocks, Tensor modulation, int sample, int index, Scratch scratch) {
    int padded = Simd.padded(blocks.width());
    long scale = blocks.chunk(modulation, sample, index, scratch, SCALE_SLOT);
    long factor = scratch.floats(FACTOR_SLOT, 3L * padded);
    FACTOR.run(scale, factor, padded);
    return factor;
  }

  private static void factor(long scale, long factor, long width) {
    for (int i = 0; i < width; i += LANES) {
      store(load(scale, i).add(Simd.ONE), factor, i);
    }
  }

  /** y = x̂ ⊙ factor + shift for rows that follow each other, two at a time. */
  private static void modulate(
      long x, long known, long rows, long factor, long shift, long y, long half, long width) {
    long step = width * Float.BYTES;
    long yStep = half == 1 ? width * Short.BYTES : step;
    for (long row = 0; row < rows; row += 2) {
      long next = Math.min(row + 1, rows - 1); // beyond the end the last one, again
      long a = x + row * step;
      long b = x + next * step;
      long toA = y + row * yStep;
      long toB = y + next * yStep;
      FloatVector meanA = all(NormRows.mean(NormRows.known(known, row)));
      FloatVector meanB = all(NormRows.mean(NormRows.known(known, next)));
      FloatVector inverseA = all(NormRows.inverse(NormRows.known(known, row)));
      FloatVector inverseB = all(NormRows.inverse(NormRows.known(known, next)));
      if (half == 1) {
        for (int i = 0; i < width; i += LANES) {
          FloatVector f = load(factor, i);
          FloatVector s = load(shift, i);
          storeResult(load(a, i).sub(meanA).mul(inverseA).fma(f, s), toA, i, true);
          storeResult(load(b, i).sub(meanB).mul(inverseB).fma(f, s), toB, i, true);
        }
      } else {
        for (int i = 0; i < width; i += LANES) {
          FloatVector f = load(factor, i);
          FloatVector s = load(shift, i);
          store(load(a, i).sub(meanA).mul(inverseA).fma(f, s), toA, i);
          store(load(b, i).sub(meanB).mul(inverseB).fma(f, s), toB, i);
        }
      }
    }
  }

  /** Sums over rows for their slopes: of x̂ ⊙ d and of d. */
  private static void slopeSums(
      long x, long statistics, long rows, long d, long dStep, long width) {
    for (long row = 0; row < rows; row++) {
      long from = x + row * width * Float.BYTES;
      long direction = d + row * dStep;
      long known = NormRows.known(statistics, row);
      FloatVector mean = all(NormRows.mean(known));
      FloatVector inverse = all(NormRows.inverse(known));
      FloatVector along = FloatVector.zero(Simd.FLOATS);
      FloatVector sum = FloatVector.zero(Simd.FLOATS);
      for (int i = 0; i < width; i += LANES) {
        FloatVector v = load(direction, i);
        along = load(from, i).sub(mean).mul(inverse).fma(v, along);
        sum = sum.add(v);
      }
      NormRows.setSlopeSums(along, sum, known);
    }
  }

  /** y = slope(d) ⊙ factor + x̂ ⊙ dScale + dShift; these three are rows that follow each other. */
  private static void tangent(
      long x,
      long statistics,
      long rows,
      long d,
      long dStep,
      long factor,
      long y,
      boolean half,
      long width) {
    long step = width * Float.BYTES;
    long dScale = factor + step;
    long dShift = dScale + step;
    for (long row = 0; row < rows; row++) {
      long from = x + row * step;
      long direction = d + row * dStep;
      long to = y + row * (half ? width * Short.BYTES : step);
      long known = NormRows.known(statistics, row);
      FloatVector m = all(NormRows.mean(known));
      FloatVector scale = all(NormRows.inverse(known));
      FloatVector along = all(-NormRows.along(known));
      FloatVector mean = all(NormRows.slopeMean(known));
      for (int i = 0; i < width; i += LANES) {
        FloatVector hat = load(from, i).sub(m).mul(scale);
        FloatVector slope = hat.fma(along, load(direction, i).sub(mean)).mul(scale);
        FloatVector fixed = hat.fma(load(dScale, i), load(dShift, i));
        storeResult(slope.fma(load(factor, i), fixed), to, i, half);
      }
    }
  }

  /**
   * shiftSum += g, scaleSum += g ⊙ x̂, rows that follow each other; sums over rows of g ⊙ factor
   * for their slopes.
   */
  private static void cotangentSums(
      long x, long statistics, long rows, long g, long half, long factor, long sums, long width) {
    long step = width * Float.BYTES;
    long scaleSum = sums + step;
    for (long row = 0; row < rows; row++) {
      long from = x + row * step;
      long known = NormRows.known(statistics, row);
      FloatVector m = all(NormRows.mean(known));
      FloatVector scale = all(NormRows.inverse(known));
      FloatVector along = FloatVector.zero(Simd.FLOATS);
      FloatVector sum = FloatVector.zero(Simd.FLOATS);
      for (int i = 0; i < width; i += LANES) {
        FloatVector v = load(g + row * (half == 1 ? step / 2 : step), i, half == 1);
        FloatVector hat = load(from, i).sub(m).mul(scale);
        store(load(sums, i).add(v), sums, i);
        store(v.fma(hat, load(scaleSum, i)), scaleSum, i);
        FloatVector scaled = v.mul(load(factor, i));
        along = hat.fma(scaled, along);
        sum = sum.add(scaled);
      }
      NormRows.setSlopeSums(along, sum, known);
    }
  }

  /** y = slope(g ⊙ factor), or y += … . */
  private static void slopeOfProduct(
      long x,
      long statistics,
      long rows,
      long g,
      boolean half,
      long factor,
      long y,
      long add,
      long width) {
    long step = width * Float.BYTES;
    for (long row = 0; row < rows; row++) {
      long from = x + row * step;
      long cotangent = g + row * (half ? step / 2 : step);
      long to = y + row * step;
      long known = NormRows.known(statistics, row);
      FloatVector m = all(NormRows.mean(known));
      FloatVector scale = all(NormRows.inverse(known));
      FloatVector along = all(-NormRows.along(known));
      FloatVector mean = all(NormRows.slopeMean(known));
      for (int i = 0; i < width; i += LANES) {
        FloatVector hat = load(from, i).sub(m).mul(scale);
        FloatVector d = load(cotangent, i, half).mul(load(factor, i)).sub(mean);
        FloatVector slope = hat.fma(along, d).mul(scale);
        store(add == 1 ? load(to, i).add(slope) : slope, to, i);
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
          for (int row = 0; row < rows; row += blocks.atOnce()) {
            int count = Math.min(blocks.atOnce(), rows - row);
            int length = count * width;
            long start = first + (long) row * width;
            long values = source + row * step;
            NormRows.statistics(norm, values, count, width, known);
            long half = Simd.isDirectHalf(to, length) ? 1 : 0;
            long out = Simd.eitherOut(to, start, length, scratch, OUT_SLOT);
            MODULATE.run(values, known, count, b, a, out, half, padded);
            Simd.eitherDone(to, start, length, out);
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
    workers.run(
        blocks.count(),
        (item, scratch) -> {
          int sample = blocks.sample(item);
          long factor = factor(blocks, modulation, sample, scale, scratch);
          long changes = factor + step;
          if (dModulation == null) {
            Simd.clear(changes, 2 * padded);
          } else {
            blocks.copyChunk(dModulation, sample, scale, changes);
            blocks.copyChunk(dModulation, sample, shift, changes + step);
          }
          long first = blocks.first(item) * width;
          int rows = blocks.rows(item);
          long source = Simd.inRows(from, first, rows, width, scratch, STAGED_SLOT, X_SLOT);
          long known = scratch.floats(STATISTICS_SLOT, NormRows.STATISTICS);
          NormRows.statistics(norm, source, rows, width, known);
          long d = scratch.floats(Y_SLOT, padded);
          if (dx == null) {
            Simd.clear(d, padded);
          } else {
            CpuTensor direction = CpuTensor.of(dx);
            d = Simd.inRows(direction, first, rows, width, scratch, OTHER_STAGED_SLOT, Y_SLOT);
          }
          long dStep = dx == null ? 0 : step;
          SLOPE_SUMS.run(source, known, rows, d, dStep, padded);
          NormRows.slopes(norm, rows, width, known);
          for (int row = 0; row < rows; row += blocks.atOnce()) {
            int count = Math.min(blocks.atOnce(), rows - row);
            int length = count * width;
            long start = first + (long) row * width;
            long values = source + row * step;
            long own = NormRows.known(known, row);
            long direction = d + row * dStep;
            long out = Simd.eitherOut(to, start, length, scratch, OUT_SLOT);
            (Simd.isDirectHalf(to, length) ? TANGENT_HALF : TANGENT)
                .run(values, own, count, direction, dStep, factor, out, padded);
            Simd.eitherDone(to, start, length, out);
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
    try (Tensor partial = engine.allocate(blocks.count(), 2L * padded)) {
      CpuTensor sums = CpuTensor.of(partial);
      workers.run(
          blocks.count(),
          (item, scratch) -> {
            long factor = factor(blocks, modulation, blocks.sample(item), scale, scratch);
            long sum = sums.address(item * 2L * padded);
            Simd.clear(sum, 2 * padded);
            long first = blocks.first(item) * width;
            int rows = blocks.rows(item);
            long source = Simd.inRows(from, first, rows, width, scratch, STAGED_SLOT, X_SLOT);
            long known = scratch.floats(STATISTICS_SLOT, NormRows.STATISTICS);
            NormRows.statistics(norm, source, rows, width, known);
            for (int row = 0; row < rows; row += blocks.atOnce()) {
              int count = Math.min(blocks.atOnce(), rows - row);
              int length = count * width;
              long values = source + row * step;
              long own = NormRows.known(known, row);
              long half = Simd.isDirectHalf(g, length) ? 1 : 0;
              long d = Simd.eitherIn(g, first + (long) row * width, length, scratch, Y_SLOT);
              COTANGENT_SUMS.run(values, own, count, d, half, factor, sum, padded);
            }
            if (gx == null) {
              return;
            }
            NormRows.slopes(norm, rows, width, known);
            CpuTensor to = CpuTensor.of(gx.target());
            long add = gx.add() ? 1 : 0;
            for (int row = 0; row < rows; row += blocks.atOnce()) {
              int count = Math.min(blocks.atOnce(), rows - row);
              int length = count * width;
              long start = first + (long) row * width;
              long values = source + row * step;
              long own = NormRows.known(known, row);
              long d = Simd.eitherIn(g, start, length, scratch, Y_SLOT);
              long out =
                  gx.add()
                      ? Simd.in(to, start, length, scratch, OLD_SLOT)
                      : Simd.out(to, start, length, scratch, OLD_SLOT);
              (Simd.isDirectHalf(g, length) ? SLOPE_OF_HALF_PRODUCT : SLOPE_OF_PRODUCT)
                  .run(values, own, count, d, factor, out, add, padded);
              Simd.done(to, start, length, out);
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
