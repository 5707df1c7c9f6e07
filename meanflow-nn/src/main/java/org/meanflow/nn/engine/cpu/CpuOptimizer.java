package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.all;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;

import jdk.incubator.vector.FloatVector;
import org.meanflow.nn.engine.OptimizerKernels;
import org.meanflow.nn.engine.Tensor;

/** AdamW with its moving averages in one pass over memory. */
final class CpuOptimizer implements OptimizerKernels {
  /** Elements that one item covers. */
  private static final int ITEM = 1 << 15;

  /** Elements of what is read as a row: four are read in turn. */
  private static final int ROW = ITEM / 4;

  /** Elements of one vector loop, of all buffers in turn: they stay in the first-level cache. */
  private static final int SEGMENT = 1024;

  private static final int SLOT = 1;
  private static final int COEFFICIENTS_SLOT = SLOT + 6;

  private static final OutlinedLoop ADAM_W =
      new OutlinedLoop(
          (coefficients, p, g, m, v, length, _, _) -> adamW(coefficients, p, g, m, v, length));
  private static final OutlinedLoop AVERAGE =
      new OutlinedLoop(
          (fraction, p, average, length, _, _, _, _) -> average(fraction, p, average, length));
  private static final OutlinedLoop PRECISE_AVERAGE =
      new OutlinedLoop(
          (fraction, p, average, remainder, length, _, _, _) ->
              preciseAverage(fraction, p, average, remainder, length));

  private final Workers workers;

  CpuOptimizer(Workers workers) {
    this.workers = workers;
  }

  @Override
  public double squaredNorm(Tensor x) {
    CpuTensor from = CpuTensor.of(x);
    long size = x.size();
    double[] sums = new double[Math.toIntExact(Math.ceilDiv(size, ITEM))];
    workers.run(
        sums.length,
        (item, scratch) -> {
          double sum = 0;
          long end = Math.min(size, (item + 1L) * ITEM);
          if (!from.half() && end == (item + 1L) * ITEM) {
            sums[item] =
                Reductions.squares(
                    from.address((long) item * ITEM), ROW * Float.BYTES, ITEM / ROW, ROW, scratch);
            return;
          }
          for (long start = (long) item * ITEM; start < end; start += SEGMENT) {
            int length = (int) Math.min(SEGMENT, end - start);
            long row = Simd.in(from, start, length, scratch, SLOT);
            sum += Simd.squares(row, Simd.padded(length));
          }
          sums[item] = sum;
        });
    return Reductions.sum(sums);
  }

  @Override
  public void adamW(AdamWUpdate u, Tensor p, Tensor g, Tensor m, Tensor v, Average... averages) {
    CpuTensor parameters = CpuTensor.of(p).changed();
    CpuTensor gradients = CpuTensor.of(g);
    CpuTensor first = CpuTensor.of(m);
    CpuTensor second = CpuTensor.of(v);
    for (Average average : averages) {
      CpuTensor.of(average.average()).changed();
    }
    long size = p.size();
    workers.run(
        Math.toIntExact(Math.ceilDiv(size, ITEM)),
        (item, scratch) -> {
          long coefficients = coefficients(u, scratch);
          long end = Math.min(size, (item + 1L) * ITEM);
          for (long start = (long) item * ITEM; start < end; start += SEGMENT) {
            int length = (int) Math.min(SEGMENT, end - start);
            long row = Simd.in(parameters, start, length, scratch, SLOT);
            long gradient = Simd.in(gradients, start, length, scratch, SLOT + 1);
            long m1 = Simd.in(first, start, length, scratch, SLOT + 2);
            long m2 = Simd.in(second, start, length, scratch, SLOT + 3);
            ADAM_W.run(coefficients, row, gradient, m1, m2, length);
            for (Average average : averages) {
              long fraction = Float.floatToRawIntBits((float) (1 - average.decay()));
              CpuTensor target = CpuTensor.of(average.average());
              long mean = Simd.in(target, start, length, scratch, SLOT + 4);
              if (average.remainder() == null) {
                AVERAGE.run(fraction, row, mean, length);
              } else {
                CpuTensor rest = CpuTensor.of(average.remainder());
                long remainder = Simd.in(rest, start, length, scratch, SLOT + 5);
                PRECISE_AVERAGE.run(fraction, row, mean, remainder, length);
                Simd.done(rest, start, length, remainder);
              }
              Simd.done(target, start, length, mean);
            }
            Simd.done(parameters, start, length, row);
            Simd.done(first, start, length, m1);
            Simd.done(second, start, length, m2);
          }
        });
  }

  private static long coefficients(AdamWUpdate u, Scratch scratch) {
    double[] all = {
      u.gradientScale(),
      u.beta1(),
      1 - u.beta1(),
      u.beta2(),
      1 - u.beta2(),
      1 / Math.sqrt(1 - Math.pow(u.beta2(), (double) u.step())),
      u.rate() / (1 - Math.pow(u.beta1(), (double) u.step())),
      1 - u.rate() * u.weightDecay(),
      u.epsilon()
    };
    long address = scratch.floats(COEFFICIENTS_SLOT, all.length);
    for (int i = 0; i < all.length; i++) {
      Simd.set(address, i, (float) all[i]);
    }
    return address;
  }

  private static void adamW(long coefficients, long p, long g, long m, long v, long length) {
    FloatVector scale = all(Simd.get(coefficients, 0));
    FloatVector beta1 = all(Simd.get(coefficients, 1));
    FloatVector new1 = all(Simd.get(coefficients, 2));
    FloatVector beta2 = all(Simd.get(coefficients, 3));
    FloatVector new2 = all(Simd.get(coefficients, 4));
    FloatVector correction2 = all(Simd.get(coefficients, 5));
    FloatVector rate = all(Simd.get(coefficients, 6));
    FloatVector keep = all(Simd.get(coefficients, 7));
    FloatVector epsilon = all(Simd.get(coefficients, 8));
    for (int i = 0; i < length; i += LANES) {
      FloatVector gradient = load(g, i).mul(scale);
      FloatVector first = load(m, i).mul(beta1).add(gradient.mul(new1));
      FloatVector second = load(v, i).mul(beta2).add(gradient.mul(gradient).mul(new2));
      store(first, m, i);
      store(second, v, i);
      FloatVector root = second.sqrt().mul(correction2).add(epsilon);
      store(load(p, i).mul(keep).sub(first.mul(rate).div(root)), p, i);
    }
  }

  private static void average(long fraction, long p, long average, long length) {
    FloatVector f = all(Float.intBitsToFloat((int) fraction));
    for (int i = 0; i < length; i += LANES) {
      FloatVector old = load(average, i);
      store(load(p, i).sub(old).fma(f, old), average, i);
    }
  }

  private static void preciseAverage(
      long fraction, long p, long average, long remainder, long length) {
    FloatVector f = all(Float.intBitsToFloat((int) fraction));
    for (int i = 0; i < length; i += LANES) {
      FloatVector old = load(average, i);
      FloatVector rest = load(remainder, i);
      FloatVector y = load(p, i).sub(old).sub(rest).fma(f, rest);
      FloatVector sum = old.add(y);
      store(sum, average, i);
      store(y.sub(sum.sub(old)), remainder, i);
    }
  }
}
