package org.meanflow.nn.engine.nd4j;

import static org.meanflow.nn.engine.nd4j.Nd4jOps.array;

import java.util.Arrays;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.OptimizerKernels;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.ops.transforms.Transforms;

/** The optimiser, one pass after the other, in as many parts as the engine has threads. */
final class Nd4jOptimizer implements OptimizerKernels {
  /** Below this many elements, threads cost more than they gain. */
  private static final int SMALL = 1 << 16;

  private final Nd4jEngine engine;

  Nd4jOptimizer(Nd4jEngine engine) {
    this.engine = engine;
  }

  @Override
  public double squaredNorm(Tensor x) {
    double[] norms = new double[engine.team().size()];
    inParts(
        x,
        (part, range) ->
            norms[part] = range.of(x).castTo(DataType.DOUBLE).norm2Number().doubleValue());
    return Arrays.stream(norms).map(norm -> norm * norm).sum();
  }

  @Override
  public void adamW(AdamWUpdate u, Tensor p, Tensor g, Tensor m, Tensor v, Average... averages) {
    try (Tensor work = engine.allocate(p.shape())) {
      inParts(
          p,
          (part, range) ->
              adamW(u, range.of(p), range.of(g), range.of(m), range.of(v), range.of(work)));
      for (Average each : averages) {
        Tensor remainder = each.remainder();
        inParts(
            p,
            (part, range) ->
                average(
                    each.decay(),
                    range.of(p),
                    range.of(each.average()),
                    remainder == null ? null : range.of(remainder),
                    range.of(work)));
      }
    }
  }

  private static void adamW(
      AdamWUpdate u, INDArray p, INDArray g, INDArray m, INDArray v, INDArray work) {
    m.muli(u.beta1());
    g.muli((1 - u.beta1()) * u.gradientScale(), work);
    m.addi(work);
    v.muli(u.beta2());
    g.muli(g, work);
    work.muli((1 - u.beta2()) * u.gradientScale() * u.gradientScale());
    v.addi(work);
    v.muli(1 / (1 - Math.pow(u.beta2(), (double) u.step())), work);
    Transforms.sqrt(work, false);
    work.addi(u.epsilon());
    m.divi(work, work);
    work.muli(u.rate() / (1 - Math.pow(u.beta1(), (double) u.step())));
    p.muli(1 - u.rate() * u.weightDecay()).subi(work);
  }

  private static void average(
      double decay, INDArray p, INDArray average, @Nullable INDArray remainder, INDArray work) {
    p.subi(average, work);
    if (remainder == null) {
      average.addi(work.muli(1 - decay));
      return;
    }
    work.subi(remainder).muli(1 - decay);
    remainder.addi(work); // y
    average.addi(remainder, work);
    average.subi(work);
    remainder.addi(average); // y − (sum − average), exactly
    average.assign(work);
  }

  /** A part of buffers of one length. */
  private record Range(long from, long to) {
    INDArray of(Tensor buffer) {
      return array(buffer.view(from, to - from));
    }
  }

  @FunctionalInterface
  private interface PartTask {
    void run(int part, Range range);
  }

  /** Runs a task on each of as many parts of {@code buffer} as there are engines in the team. */
  private void inParts(Tensor buffer, PartTask task) {
    int parts = buffer.size() < SMALL ? 1 : engine.team().size();
    IntStream.range(0, parts)
        .parallel()
        .forEach(
            part ->
                task.run(
                    part,
                    new Range(buffer.size() * part / parts, buffer.size() * (part + 1) / parts)));
  }
}
