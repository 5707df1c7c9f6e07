package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.all;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorOperators;
import org.meanflow.nn.engine.ElementwiseKernels;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;

/** Elementwise maps and softmax. Slopes are computed again instead of being remembered. */
final class CpuElementwise implements ElementwiseKernels {
  /** Elements that one vector loop covers: three rows of them fit into the first-level cache. */
  private static final int SEGMENT = 2048;

  private static final int SEGMENTS_PER_ITEM = 16;
  private static final int X_SLOT = 1;
  private static final int Y_SLOT = 2;
  private static final int Z_SLOT = 3;
  private static final int OLD_SLOT = 4;

  private static final OutlinedLoop SILU =
      new OutlinedLoop((x, y, length, _, _, _, _, _) -> silu(x, y, length));
  private static final OutlinedLoop SILU_SLOPE =
      new OutlinedLoop((x, d, y, length, _, _, _, _) -> siluSlope(x, d, y, length));

  private final Workers workers;
  private final Reductions reductions;

  CpuElementwise(Workers workers, Reductions reductions) {
    this.workers = workers;
    this.reductions = reductions;
  }

  /** A vector loop from {@code x} to {@code y}, of {@code length} floats, whole vectors. */
  @FunctionalInterface
  private interface Map {
    void run(long x, long y, int length);
  }

  /** A vector loop from {@code x} and {@code y} to {@code z}. */
  @FunctionalInterface
  private interface Map2 {
    void run(long x, long y, long z, int length);
  }

  @FunctionalInterface
  private interface Segment {
    void run(long start, int length, Scratch scratch);
  }

  private void segments(long size, Segment segment) {
    long perItem = (long) SEGMENT * SEGMENTS_PER_ITEM;
    workers.run(
        Math.toIntExact(Math.ceilDiv(size, perItem)),
        (item, scratch) -> {
          long end = Math.min(size, (item + 1) * perItem);
          for (long start = item * perItem; start < end; start += SEGMENT) {
            segment.run(start, (int) Math.min(SEGMENT, end - start), scratch);
          }
        });
  }

  /** Whether loops over bfloat16 do: all is, and whole vectors. */
  private static boolean half(boolean add, CpuTensor... tensors) {
    boolean half = !add && tensors[0].size() % LANES == 0;
    for (CpuTensor tensor : tensors) {
      half &= tensor.half();
    }
    return half;
  }

  /** A map that has a loop of its own over bfloat16. */
  private void map(Tensor from, Tensor to, Map loop, Map halfLoop) {
    CpuTensor x = CpuTensor.of(from);
    CpuTensor y = CpuTensor.of(to);
    if (half(false, x, y)) {
      segments(
          y.size(),
          (start, length, scratch) -> halfLoop.run(x.address(start), y.address(start), length));
    } else {
      map(from, to, false, loop);
    }
  }

  /** A map that has a loop of its own over bfloat16. */
  private void map(Tensor first, Tensor second, Tensor to, boolean add, Map2 loop, Map2 halfLoop) {
    CpuTensor x = CpuTensor.of(first);
    CpuTensor y = CpuTensor.of(second);
    CpuTensor z = CpuTensor.of(to);
    if (half(add, x, y, z)) {
      segments(
          z.size(),
          (start, length, scratch) ->
              halfLoop.run(x.address(start), y.address(start), z.address(start), length));
    } else {
      map(first, second, to, add, loop);
    }
  }

  private void map(Tensor from, Tensor to, boolean add, Map loop) {
    CpuTensor x = CpuTensor.of(from);
    CpuTensor y = CpuTensor.of(to);
    segments(
        y.size(),
        (start, length, scratch) -> {
          int padded = Simd.padded(length);
          long source = Simd.in(x, start, length, scratch, X_SLOT);
          if (add) {
            long term = scratch.floats(Z_SLOT, padded);
            loop.run(source, term, padded);
            long sum = Simd.in(y, start, length, scratch, Y_SLOT);
            Simd.addTo(term, sum, padded);
            Simd.done(y, start, length, sum);
          } else {
            long target = Simd.out(y, start, length, scratch, Y_SLOT);
            loop.run(source, target, padded);
            Simd.done(y, start, length, target);
          }
        });
  }

  private void map(Tensor first, Tensor second, Tensor to, boolean add, Map2 loop) {
    CpuTensor x = CpuTensor.of(first);
    CpuTensor y = CpuTensor.of(second);
    CpuTensor z = CpuTensor.of(to);
    segments(
        z.size(),
        (start, length, scratch) -> {
          int padded = Simd.padded(length);
          long a = Simd.in(x, start, length, scratch, X_SLOT);
          long b = Simd.in(y, start, length, scratch, Y_SLOT);
          if (add) {
            long term = scratch.floats(Z_SLOT, padded);
            loop.run(a, b, term, padded);
            long sum = Simd.in(z, start, length, scratch, OLD_SLOT);
            Simd.addTo(term, sum, padded);
            Simd.done(z, start, length, sum);
          } else {
            long target = Simd.out(z, start, length, scratch, Z_SLOT);
            loop.run(a, b, target, padded);
            Simd.done(z, start, length, target);
          }
        });
  }

  @Override
  public void fill(Tensor x, double value) {
    CpuTensor target = CpuTensor.of(x).changed();
    FloatVector v = all((float) value);
    segments(
        x.size(),
        (start, length, scratch) -> {
          long to = Simd.out(target, start, length, scratch, X_SLOT);
          for (int i = 0; i < length; i += LANES) {
            store(v, to, i);
          }
          Simd.done(target, start, length, to);
        });
  }

  @Override
  public void copy(Tensor x, Tensor y) {
    scale(1, x, y, false);
  }

  @Override
  public void combine(double alpha, Tensor x, double beta, Tensor y, Tensor z) {
    CpuTensor.of(z).changed();
    FloatVector a = all((float) alpha);
    FloatVector b = all((float) beta);
    map(
        x,
        y,
        z,
        false,
        (from, other, to, length) -> {
          for (int i = 0; i < length; i += LANES) {
            store(load(from, i).mul(a).add(load(other, i).mul(b)), to, i);
          }
        });
  }

  @Override
  public void scale(double alpha, Tensor x, Tensor y, boolean add) {
    CpuTensor.of(y).changed();
    FloatVector a = all((float) alpha);
    map(
        x,
        y,
        add,
        (from, to, length) -> {
          for (int i = 0; i < length; i += LANES) {
            store(load(from, i).mul(a), to, i);
          }
        });
  }

  @Override
  public void multiply(Tensor x, Tensor y, Tensor z, boolean add) {
    CpuTensor.of(z).changed();
    map(
        x,
        y,
        z,
        add,
        (from, other, to, length) -> {
          for (int i = 0; i < length; i += LANES) {
            store(load(from, i).mul(load(other, i)), to, i);
          }
        });
  }

  @Override
  public Saved gelu(Tensor x, Tensor y, boolean keep) {
    map(x, y, GeluRows::values, GeluRows::halfValues);
    return Saved.NOTHING;
  }

  @Override
  public void geluSlope(Tensor x, Saved saved, Tensor d, Tensor y, boolean add) {
    map(x, d, y, add, GeluRows::slopes, GeluRows::halfSlopes);
  }

  @Override
  public Saved silu(Tensor x, Tensor y, boolean keep) {
    map(x, y, false, (from, to, length) -> SILU.run(from, to, length));
    return Saved.NOTHING;
  }

  private static void silu(long x, long y, long length) {
    for (int i = 0; i < length; i += LANES) {
      FloatVector v = load(x, i);
      store(v.mul(Simd.sigmoid(v)), y, i);
    }
  }

  @Override
  public void siluSlope(Tensor x, Saved saved, Tensor d, Tensor y, boolean add) {
    map(x, d, y, add, (from, direction, to, length) -> SILU_SLOPE.run(from, direction, to, length));
  }

  private static void siluSlope(long x, long d, long y, long length) {
    for (int i = 0; i < length; i += LANES) {
      FloatVector v = load(x, i);
      FloatVector s = Simd.sigmoid(v);
      FloatVector slope = s.fma(all(1f).sub(s).mul(v), s);
      store(slope.mul(load(d, i)), y, i);
    }
  }

  @Override
  public void softmax(Tensor x, Tensor y) {
    CpuTensor from = CpuTensor.of(x);
    CpuTensor to = CpuTensor.of(y);
    int n = Math.toIntExact(x.dim(-1));
    workers.run(
        Math.toIntExact(x.size() / n),
        (row, scratch) -> {
          long start = (long) row * n;
          long source = Simd.in(from, start, n, scratch, X_SLOT);
          long target = scratch.floats(Z_SLOT, Simd.padded(n));
          softmax(source, target, n);
          long out = Simd.out(to, start, n, scratch, Y_SLOT);
          for (int i = 0; i < n; i += LANES) {
            store(load(target, i), out, i);
          }
          Simd.done(to, start, n, out);
        });
  }

  /** y = softmax(x) of {@code n} floats; zeros behind the end. */
  private static void softmax(long x, long y, int n) {
    int whole = n / LANES * LANES;
    VectorMask<Float> rest = Simd.FLOATS.indexInRange(whole, n);
    FloatVector most = all(Float.NEGATIVE_INFINITY);
    for (int i = 0; i < whole; i += LANES) {
      most = most.max(load(x, i));
    }
    if (whole < n) {
      most = most.max(all(Float.NEGATIVE_INFINITY).blend(load(x, whole), rest));
    }
    FloatVector top = all(most.reduceLanes(VectorOperators.MAX));
    FloatVector sum = FloatVector.zero(Simd.FLOATS);
    for (int i = 0; i < whole; i += LANES) {
      FloatVector e = Simd.exp(load(x, i).sub(top));
      sum = sum.add(e);
      store(e, y, i);
    }
    if (whole < n) {
      FloatVector e = FloatVector.zero(Simd.FLOATS);
      e = e.blend(Simd.exp(load(x, whole).sub(top)), rest);
      sum = sum.add(e);
      store(e, y, whole);
    }
    FloatVector inverse = all(1 / Simd.sum(sum));
    for (int i = 0; i < n; i += LANES) {
      store(load(y, i).mul(inverse), y, i);
    }
  }

  @Override
  public void softmaxSlope(Tensor y, Tensor d, Tensor z, boolean add) {
    CpuTensor p = CpuTensor.of(y);
    CpuTensor direction = CpuTensor.of(d);
    CpuTensor to = CpuTensor.of(z);
    int n = Math.toIntExact(y.dim(-1));
    int padded = Simd.padded(n);
    workers.run(
        Math.toIntExact(y.size() / n),
        (row, scratch) -> {
          long start = (long) row * n;
          long a = Simd.in(p, start, n, scratch, X_SLOT);
          long b = Simd.in(direction, start, n, scratch, Y_SLOT);
          FloatVector mean = all(Simd.dot(a, b, padded));
          long term = scratch.floats(Z_SLOT, padded);
          for (int i = 0; i < padded; i += LANES) {
            store(load(a, i).mul(load(b, i).sub(mean)), term, i);
          }
          if (add) {
            Simd.addTo(Simd.in(to, start, n, scratch, OLD_SLOT), term, padded);
          }
          long out = Simd.out(to, start, n, scratch, OLD_SLOT);
          for (int i = 0; i < padded; i += LANES) {
            store(load(term, i), out, i);
          }
          Simd.done(to, start, n, out);
        });
  }

  @Override
  public void addTable(Tensor x, Tensor table, Tensor y) {
    CpuTensor from = CpuTensor.of(x);
    CpuTensor fixed = CpuTensor.of(table);
    CpuTensor to = CpuTensor.of(y);
    long sample = table.size();
    workers.run(
        Math.toIntExact(x.dim(0)),
        (b, scratch) -> {
          for (long start = 0; start < sample; start += SEGMENT) {
            int length = (int) Math.min(SEGMENT, sample - start);
            long a = Simd.in(from, b * sample + start, length, scratch, X_SLOT);
            long t = Simd.in(fixed, start, length, scratch, Z_SLOT);
            long out = Simd.out(to, b * sample + start, length, scratch, Y_SLOT);
            for (int i = 0; i < length; i += LANES) {
              store(load(a, i).add(load(t, i)), out, i);
            }
            Simd.done(to, b * sample + start, length, out);
          }
        });
  }

  @Override
  public void sumOverBatch(Tensor x, Tensor y, boolean add) {
    CpuTensor rows = CpuTensor.of(x.reshape(x.dim(0), x.size() / x.dim(0)));
    reductions.sumRows(rows, CpuTensor.of(y), add);
  }
}
