package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.all;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;

import jdk.incubator.vector.FloatVector;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.ModulationKernels;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;

/**
 * Shift, scale and gate, token by token, each in one pass over memory. Sums over the tokens of a
 * sample are taken in blocks of fixed size.
 */
final class CpuModulation implements ModulationKernels {
  /** Tokens that one item covers. */
  private static final int TOKENS = NormRows.BLOCK;

  private static final int X_SLOT = 1;
  private static final int Y_SLOT = 2;
  private static final int HAT_SLOT = 3;
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

  CpuModulation(CpuEngine engine, Workers workers) {
    this.engine = engine;
    this.workers = workers;
  }

  /** Blocks of the tokens of each sample. */
  private record Blocks(int samples, int tokens, int width) {

    static Blocks of(Tensor x) {
      return new Blocks((int) x.dim(0), (int) x.dim(1), (int) x.dim(2));
    }

    int perSample() {
      return Math.ceilDiv(tokens, TOKENS);
    }

    int count() {
      return samples * perSample();
    }

    int sample(int item) {
      return item / perSample();
    }

    /** First row of a block, in tokens of the whole batch. */
    long first(int item) {
      return (long) sample(item) * tokens + (long) (item % perSample()) * TOKENS;
    }

    int rows(int item) {
      return (int) (last(item) - first(item));
    }

    /** Row after the last of a block. */
    long last(int item) {
      return Math.min(first(item) + TOKENS, (sample(item) + 1L) * tokens);
    }
  }

  /** Chunk {@code index} of a sample's modulation, as a row. */
  private static long chunk(
      Tensor modulation, int sample, int index, int width, Scratch scratch, int slot) {
    CpuTensor m = CpuTensor.of(modulation);
    return Simd.in(m, sample * m.dim(1) + (long) index * width, width, scratch, slot);
  }

  // Vector loops have methods of their own: within a long one, the compiler gives up inlining and
  // keeps vectors on the heap.

  /** 1 + a sample's scale, as a row. */
  private static long factor(Tensor modulation, int sample, int index, int width, Scratch scratch) {
    long scale = chunk(modulation, sample, index, width, scratch, SCALE_SLOT);
    long factor = scratch.floats(FACTOR_SLOT, Simd.padded(width));
    for (int i = 0; i < width; i += LANES) {
      store(load(scale, i).add(Simd.ONE), factor, i);
    }
    return factor;
  }

  /** y = x̂ ⊙ factor + shift. */
  private static void modulate(
      long x, float mean, float inverse, long factor, long shift, long y, boolean half, int width) {
    FloatVector m = all(mean);
    FloatVector scale = all(inverse);
    for (int i = 0; i < width; i += LANES) {
      FloatVector hat = load(x, i).sub(m).mul(scale);
      store(hat.fma(load(factor, i), load(shift, i)), y, i, half);
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

  /** z = x ⊙ y + a. */
  private static void multiplyAdd(long x, long y, boolean half, long a, long z, int length) {
    for (int i = 0; i < length; i += LANES) {
      store(load(x, i).fma(load(y, i, half), load(a, i)), z, i);
    }
  }

  /** sum += y ⊙ g. */
  private static void addProduct(long y, boolean half, long g, long sum, int length) {
    for (int i = 0; i < length; i += LANES) {
      store(load(y, i, half).fma(load(g, i), load(sum, i)), sum, i);
    }
  }

  /** y = x ⊙ factor. */
  private static void multiply(long x, long factor, long y, boolean half, int length) {
    for (int i = 0; i < length; i += LANES) {
      store(load(x, i).mul(load(factor, i)), y, i, half);
    }
  }

  @Override
  public Saved normModulate(
      Norm norm, Tensor x, Tensor modulation, int shift, int scale, Tensor y, boolean keep) {
    CpuTensor from = CpuTensor.of(x);
    CpuTensor to = CpuTensor.of(y);
    Blocks blocks = Blocks.of(x);
    int width = blocks.width;
    long step = (long) Simd.padded(width) * Float.BYTES;
    boolean half = Simd.isDirectHalf(to, width);
    workers.run(
        blocks.count(),
        (item, scratch) -> {
          int sample = blocks.sample(item);
          long a = chunk(modulation, sample, shift, width, scratch, SHIFT_SLOT);
          long b = factor(modulation, sample, scale, width, scratch);
          long first = blocks.first(item) * width;
          int rows = blocks.rows(item);
          long source = Simd.inRows(from, first, rows, width, scratch, STAGED_SLOT, X_SLOT);
          long known = scratch.floats(STATISTICS_SLOT, NormRows.STATISTICS);
          NormRows.statistics(norm, source, rows, width, known);
          for (int row = 0; row < rows; row++) {
            long start = first + (long) row * width;
            long out = half ? to.address(start) : Simd.out(to, start, width, scratch, OUT_SLOT);
            float mean = NormRows.mean(known, row);
            float inverse = NormRows.inverse(known, row);
            modulate(source + row * step, mean, inverse, b, a, out, half, width);
            if (!half) {
              Simd.done(to, start, width, out);
            }
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
    Blocks blocks = Blocks.of(dy);
    int width = blocks.width;
    int padded = Simd.padded(width);
    long step = (long) padded * Float.BYTES;
    boolean half = Simd.isDirectHalf(to, width);
    workers.run(
        blocks.count(),
        (item, scratch) -> {
          int sample = blocks.sample(item);
          long factor = factor(modulation, sample, scale, width, scratch);
          long zeros = scratch.floats(ZEROS_SLOT, padded);
          Simd.clear(zeros, padded);
          long da = zeros;
          long db = zeros;
          if (dModulation != null) {
            da = chunk(dModulation, sample, shift, width, scratch, D_SHIFT_SLOT);
            db = chunk(dModulation, sample, scale, width, scratch, D_SCALE_SLOT);
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
    Blocks blocks = Blocks.of(x);
    int width = blocks.width;
    int padded = Simd.padded(width);
    long step = (long) padded * Float.BYTES;
    boolean half = Simd.isDirectHalf(g, width);
    try (Tensor partial = engine.allocate(blocks.count(), 2L * padded)) {
      CpuTensor sums = CpuTensor.of(partial);
      workers.run(
          blocks.count(),
          (item, scratch) -> {
            long factor = factor(modulation, blocks.sample(item), scale, width, scratch);
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
        addUp(blocks, sums, 2, new int[] {shift, scale}, gModulation);
      }
    }
  }

  /** Sums the blocks' sums of each sample into chunks of the modulation's cotangent. */
  private void addUp(
      Blocks blocks, CpuTensor sums, int parts, int[] chunks, Cotangent gModulation) {
    CpuTensor target = CpuTensor.of(gModulation.target());
    int width = blocks.width;
    int padded = Simd.padded(width);
    long item = (long) parts * padded;
    workers.run(
        blocks.samples,
        (sample, scratch) -> {
          long first = (long) sample * blocks.perSample();
          for (int part = 0; part < parts; part++) {
            long total = sums.address(first * item + (long) part * padded);
            for (int block = 1; block < blocks.perSample(); block++) {
              Simd.addTo(
                  sums.address((first + block) * item + (long) part * padded), total, padded);
            }
            long start = sample * target.dim(1) + (long) chunks[part] * width;
            CpuNorm.writeRow(target, start, width, total, gModulation.add(), scratch, OLD_SLOT);
          }
        });
  }

  @Override
  public void gatedResidual(Tensor x, Tensor y, Tensor modulation, int gate, Tensor out) {
    gated(x, y, modulation, gate, null, null, out);
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
    gated(dx, dy, modulation, gate, dModulation == null ? null : y, dModulation, dOut);
  }

  /** out = x + g ⊙ y + g′ ⊙ y′, terms that are null left out. */
  private void gated(
      @Nullable Tensor x,
      @Nullable Tensor y,
      Tensor modulation,
      int gate,
      @Nullable Tensor otherY,
      @Nullable Tensor otherModulation,
      Tensor out) {
    CpuTensor to = CpuTensor.of(out);
    Blocks blocks = Blocks.of(out);
    int width = blocks.width;
    int padded = Simd.padded(width);
    workers.run(
        blocks.count(),
        (item, scratch) -> {
          int sample = blocks.sample(item);
          long g = chunk(modulation, sample, gate, width, scratch, SCALE_SLOT);
          long other =
              otherModulation == null
                  ? 0
                  : chunk(otherModulation, sample, gate, width, scratch, SHIFT_SLOT);
          for (long row = blocks.first(item); row < blocks.last(item); row++) {
            long start = row * width;
            long target = Simd.out(to, start, width, scratch, OUT_SLOT);
            if (x != null && y != null) {
              long a = Simd.in(CpuTensor.of(x), start, width, scratch, X_SLOT);
              CpuTensor values = CpuTensor.of(y);
              boolean half = Simd.isDirectHalf(values, width);
              long b =
                  half ? values.address(start) : Simd.in(values, start, width, scratch, Y_SLOT);
              multiplyAdd(g, b, half, a, target, width);
            } else {
              Simd.clear(target, padded);
              if (x != null) {
                Simd.addTo(Simd.in(CpuTensor.of(x), start, width, scratch, X_SLOT), target, padded);
              }
              if (y != null) {
                long b = Simd.in(CpuTensor.of(y), start, width, scratch, Y_SLOT);
                NormRows.addProduct(g, b, target, padded);
              }
            }
            if (otherY != null) {
              long b = Simd.in(CpuTensor.of(otherY), start, width, scratch, HAT_SLOT);
              NormRows.addProduct(other, b, target, padded);
            }
            Simd.done(to, start, width, target);
          }
        });
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
    CpuTensor values = CpuTensor.of(y);
    CpuTensor g = CpuTensor.of(gOut);
    Blocks blocks = Blocks.of(y);
    int width = blocks.width;
    int padded = Simd.padded(width);
    try (Tensor partial = engine.allocate(blocks.count(), padded)) {
      CpuTensor sums = CpuTensor.of(partial);
      workers.run(
          blocks.count(),
          (item, scratch) -> {
            long factor = chunk(modulation, blocks.sample(item), gate, width, scratch, SCALE_SLOT);
            long sum = sums.address((long) item * padded);
            long product = scratch.floats(HAT_SLOT, padded);
            Simd.clear(sum, padded);
            for (long row = blocks.first(item); row < blocks.last(item); row++) {
              long start = row * width;
              long d = Simd.in(g, start, width, scratch, X_SLOT);
              if (gModulation != null) {
                boolean half = Simd.isDirectHalf(values, width);
                long b =
                    half ? values.address(start) : Simd.in(values, start, width, scratch, Y_SLOT);
                addProduct(b, half, d, sum, padded);
              }
              if (gy != null && !gy.add() && Simd.isDirectHalf(CpuTensor.of(gy.target()), width)) {
                multiply(d, factor, CpuTensor.of(gy.target()).address(start), true, padded);
              } else if (gy != null) {
                NormRows.multiply(d, factor, product, padded);
                CpuNorm.writeRow(
                    CpuTensor.of(gy.target()), start, width, product, gy.add(), scratch, OLD_SLOT);
              }
              if (gx != null) {
                CpuNorm.writeRow(
                    CpuTensor.of(gx.target()), start, width, d, gx.add(), scratch, OLD_SLOT);
              }
            }
          });
      if (gModulation != null) {
        addUp(blocks, sums, 1, new int[] {gate}, gModulation);
      }
    }
  }
}
