package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;

import jdk.incubator.vector.FloatVector;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Tensor;

/** The gated residual connection, out = x + g ⊙ y, in one pass over memory. */
final class CpuGatedResidual {
  private static final int X_SLOT = 1;
  private static final int Y_SLOT = 2;
  private static final int OTHER_Y_SLOT = 3;
  private static final int OTHER_GATE_SLOT = 4;
  private static final int GATE_SLOT = 5;
  private static final int OUT_SLOT = 6;
  private static final int OLD_SLOT = 9;

  private final CpuEngine engine;
  private final Workers workers;

  CpuGatedResidual(CpuEngine engine, Workers workers) {
    this.engine = engine;
    this.workers = workers;
  }

  /** z = x ⊙ y + a. */
  private static void multiplyAdd(long x, long y, boolean half, long a, long z, int length) {
    for (int i = 0; i < length; i += LANES) {
      store(load(x, i).fma(load(y, i, half), load(a, i)), z, i);
    }
  }

  /** The same for four rows that follow each other. */
  private static void multiplyAddFour(long x, long y, long a, long z, int width) {
    long step = (long) width * Float.BYTES;
    for (int i = 0; i < width; i += LANES) {
      FloatVector v = load(x, i);
      store(v.fma(load(y, i), load(a, i)), z, i);
      store(v.fma(load(y + step, i), load(a + step, i)), z + step, i);
      store(v.fma(load(y + 2 * step, i), load(a + 2 * step, i)), z + 2 * step, i);
      store(v.fma(load(y + 3 * step, i), load(a + 3 * step, i)), z + 3 * step, i);
    }
  }

  /** The same for four rows that follow each other, where y is bfloat16. */
  private static void multiplyAddFourHalf(long x, long y, long a, long z, int width) {
    long step = (long) width * Float.BYTES;
    long half = step / 2;
    for (int i = 0; i < width; i += LANES) {
      FloatVector v = load(x, i);
      store(v.fma(load(y, i, true), load(a, i)), z, i);
      store(v.fma(load(y + half, i, true), load(a + step, i)), z + step, i);
      store(v.fma(load(y + 2 * half, i, true), load(a + 2 * step, i)), z + 2 * step, i);
      store(v.fma(load(y + 3 * half, i, true), load(a + 3 * step, i)), z + 3 * step, i);
    }
  }

  /** out = x + g ⊙ y for rows that need no staging. */
  private static void residual(
      long g, CpuTensor x, CpuTensor y, CpuTensor out, long first, long last, int width) {
    boolean half = y.half();
    long row = first;
    for (; row + NormRows.QUAD <= last; row += NormRows.QUAD) {
      long start = row * width;
      if (half) {
        multiplyAddFourHalf(g, y.address(start), x.address(start), out.address(start), width);
      } else {
        multiplyAddFour(g, y.address(start), x.address(start), out.address(start), width);
      }
    }
    for (; row < last; row++) {
      long start = row * width;
      multiplyAdd(g, y.address(start), half, x.address(start), out.address(start), width);
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

  /** out = x + g ⊙ y + g′ ⊙ y′, terms that are null left out. */
  void forward(
      @Nullable Tensor x,
      @Nullable Tensor y,
      Tensor modulation,
      int gate,
      @Nullable Tensor otherY,
      @Nullable Tensor otherModulation,
      Tensor out) {
    CpuTensor to = CpuTensor.of(out);
    SampleBlocks blocks = SampleBlocks.of(out);
    int width = blocks.width();
    int padded = Simd.padded(width);
    boolean plain = otherY == null && Simd.isDirect(to, width) && width == padded;
    workers.run(
        blocks.count(),
        (item, scratch) -> {
          int sample = blocks.sample(item);
          long g = blocks.chunk(modulation, sample, gate, scratch, GATE_SLOT);
          if (plain && x != null && y != null) {
            long first = blocks.first(item);
            residual(g, CpuTensor.of(x), CpuTensor.of(y), to, first, blocks.last(item), width);
            return;
          }
          long other =
              otherModulation == null
                  ? 0
                  : blocks.chunk(otherModulation, sample, gate, scratch, OTHER_GATE_SLOT);
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
              long b = Simd.in(CpuTensor.of(otherY), start, width, scratch, OTHER_Y_SLOT);
              NormRows.addProduct(other, b, target, padded);
            }
            Simd.done(to, start, width, target);
          }
        });
  }

  void backward(
      Tensor y,
      Tensor modulation,
      int gate,
      Tensor gOut,
      @Nullable Cotangent gx,
      @Nullable Cotangent gy,
      @Nullable Cotangent gModulation) {
    CpuTensor values = CpuTensor.of(y);
    CpuTensor g = CpuTensor.of(gOut);
    SampleBlocks blocks = SampleBlocks.of(y);
    int width = blocks.width();
    int padded = Simd.padded(width);
    try (Tensor partial = engine.allocate(blocks.count(), padded)) {
      CpuTensor sums = CpuTensor.of(partial);
      workers.run(
          blocks.count(),
          (item, scratch) -> {
            long factor = blocks.chunk(modulation, blocks.sample(item), gate, scratch, GATE_SLOT);
            long sum = sums.address((long) item * padded);
            long product = scratch.floats(OTHER_Y_SLOT, padded);
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
        blocks.addUp(workers, sums, new int[] {gate}, gModulation, OLD_SLOT);
      }
    }
  }
}
