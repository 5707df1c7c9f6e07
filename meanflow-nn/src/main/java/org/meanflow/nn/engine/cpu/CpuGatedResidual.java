package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;
import static org.meanflow.nn.engine.cpu.Simd.storeResult;

import jdk.incubator.vector.FloatVector;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Tensor;

/** The gated residual connection, out = x + g ⊙ y, in one pass over memory. */
final class CpuGatedResidual {
  private static final int X_SLOT = 1;
  private static final int Y_SLOT = 2;
  private static final int PRODUCT_SLOT = 3;
  private static final int OTHER_GATE_SLOT = 4;
  private static final int GATE_SLOT = 5;
  private static final int OUT_SLOT = 6;
  private static final int OLD_SLOT = 9;

  private static final OutlinedLoop RESIDUAL =
      new OutlinedLoop(
          (x, g, y, half, out, rows, width, _) -> residual(x, g, y, half, out, rows, width));
  private static final OutlinedLoop ADD_PRODUCTS =
      new OutlinedLoop(
          (y, half, g, rows, sum, width, _, _) -> addProducts(y, half, g, rows, sum, width));
  private static final OutlinedLoop MULTIPLY =
      new OutlinedLoop(
          (x, factor, y, half, rows, width, _, _) -> multiply(x, factor, y, half, rows, width));

  private final CpuEngine engine;
  private final Workers workers;

  CpuGatedResidual(CpuEngine engine, Workers workers) {
    this.engine = engine;
    this.workers = workers;
  }

  /** Rows of out = x + g ⊙ y, four at a time, which read the gate once. */
  private static void residual(long x, long g, long y, long half, long out, long rows, long width) {
    long step = width * Float.BYTES;
    long yStep = half == 1 ? width * Short.BYTES : step;
    for (long row = 0; row < rows; row += 4) {
      long row1 = Math.min(row + 1, rows - 1); // beyond the end the last one, again
      long row2 = Math.min(row + 2, rows - 1);
      long row3 = Math.min(row + 3, rows - 1);
      if (half == 1) {
        for (int i = 0; i < width; i += LANES) {
          FloatVector v = load(g, i);
          FloatVector a = v.fma(load(y + row * yStep, i, true), load(x + row * step, i));
          FloatVector b = v.fma(load(y + row1 * yStep, i, true), load(x + row1 * step, i));
          FloatVector c = v.fma(load(y + row2 * yStep, i, true), load(x + row2 * step, i));
          FloatVector d = v.fma(load(y + row3 * yStep, i, true), load(x + row3 * step, i));
          store(a, out + row * step, i);
          store(b, out + row1 * step, i);
          store(c, out + row2 * step, i);
          store(d, out + row3 * step, i);
        }
      } else {
        for (int i = 0; i < width; i += LANES) {
          FloatVector v = load(g, i);
          FloatVector a = v.fma(load(y + row * yStep, i), load(x + row * step, i));
          FloatVector b = v.fma(load(y + row1 * yStep, i), load(x + row1 * step, i));
          FloatVector c = v.fma(load(y + row2 * yStep, i), load(x + row2 * step, i));
          FloatVector d = v.fma(load(y + row3 * yStep, i), load(x + row3 * step, i));
          store(a, out + row * step, i);
          store(b, out + row1 * step, i);
          store(c, out + row2 * step, i);
          store(d, out + row3 * step, i);
        }
      }
    }
  }

  /** sum += Σ y ⊙ g over rows. */
  private static void addProducts(long y, long half, long g, long rows, long sum, long width) {
    long step = width * Float.BYTES;
    for (long row = 0; row < rows; row++) {
      long values = y + row * (half == 1 ? step / 2 : step);
      long gradients = g + row * step;
      for (int i = 0; i < width; i += LANES) {
        store(load(values, i, half == 1).fma(load(gradients, i), load(sum, i)), sum, i);
      }
    }
  }

  /** Rows of y = x ⊙ factor. */
  private static void multiply(long x, long factor, long y, long half, long rows, long width) {
    long step = width * Float.BYTES;
    for (long row = 0; row < rows; row++) {
      long to = y + row * (half == 1 ? step / 2 : step);
      for (int i = 0; i < width; i += LANES) {
        storeResult(load(x + row * step, i).mul(load(factor, i)), to, i, half == 1);
      }
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
    int padded = Simd.padded(blocks.width());
    workers.run(
        blocks.count(),
        (item, scratch) -> {
          int sample = blocks.sample(item);
          long g = blocks.chunk(modulation, sample, gate, scratch, GATE_SLOT);
          long other =
              otherModulation == null
                  ? 0
                  : blocks.chunk(otherModulation, sample, gate, scratch, OTHER_GATE_SLOT);
          long last = blocks.last(item);
          for (long row = blocks.first(item); row < last; row += blocks.atOnce()) {
            int rows = (int) Math.min(blocks.atOnce(), last - row);
            int length = rows * blocks.width();
            long start = row * blocks.width();
            long target = Simd.out(to, start, length, scratch, OUT_SLOT);
            long sum = target;
            if (x == null) {
              Simd.clear(target, rows * padded);
            } else {
              sum = Simd.in(CpuTensor.of(x), start, length, scratch, X_SLOT);
            }
            if (y != null) {
              add(g, CpuTensor.of(y), start, length, sum, target, rows, scratch);
              sum = target;
            }
            if (otherY != null) {
              add(other, CpuTensor.of(otherY), start, length, sum, target, rows, scratch);
              sum = target;
            }
            if (sum != target) {
              Simd.copyRow(sum, target, (long) rows * padded);
            }
            Simd.done(to, start, length, target);
          }
        });
  }

  /** {@code out} = x + g ⊙ y; {@code out} may be x. */
  private static void add(
      long g, CpuTensor y, long start, int length, long x, long out, int rows, Scratch scratch) {
    long half = Simd.isDirectHalf(y, length) ? 1 : 0;
    long values = Simd.eitherIn(y, start, length, scratch, Y_SLOT);
    RESIDUAL.run(x, g, values, half, out, rows, Simd.padded(length / rows));
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
            Simd.clear(sum, padded);
            long last = blocks.last(item);
            for (long row = blocks.first(item); row < last; row += blocks.atOnce()) {
              int rows = (int) Math.min(blocks.atOnce(), last - row);
              int length = rows * width;
              long start = row * width;
              long d = Simd.in(g, start, length, scratch, X_SLOT);
              if (gModulation != null) {
                long half = Simd.isDirectHalf(values, length) ? 1 : 0;
                long from = Simd.eitherIn(values, start, length, scratch, Y_SLOT);
                ADD_PRODUCTS.run(from, half, d, rows, sum, padded);
              }
              if (gy != null) {
                CpuTensor to = CpuTensor.of(gy.target());
                if (gy.add()) {
                  long product = scratch.floats(PRODUCT_SLOT, (long) rows * padded);
                  MULTIPLY.run(d, factor, product, 0, rows, padded);
                  CpuNorm.writeRow(to, start, length, product, true, scratch, OLD_SLOT);
                } else {
                  long half = Simd.isDirectHalf(to, length) ? 1 : 0;
                  long product = Simd.eitherOut(to, start, length, scratch, PRODUCT_SLOT);
                  MULTIPLY.run(d, factor, product, half, rows, padded);
                  Simd.eitherDone(to, start, length, product);
                }
              }
              if (gx != null) {
                CpuNorm.writeRow(
                    CpuTensor.of(gx.target()), start, length, d, gx.add(), scratch, OLD_SLOT);
              }
            }
          });
      if (gModulation != null) {
        blocks.addUp(workers, sums, new int[] {gate}, gModulation, OLD_SLOT);
      }
    }
  }
}
