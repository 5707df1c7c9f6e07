package org.meanflow.nn.engine.cuda;

import java.util.ArrayList;
import java.util.List;
import org.meanflow.core.objective.AdaptiveLoss;
import org.meanflow.core.objective.Guidance;
import org.meanflow.core.objective.MeanFlowObjective;
import org.meanflow.core.objective.Reduction;
import org.meanflow.core.path.LinearPath;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.core.time.TimePairSampler;
import org.meanflow.nn.NetworkField;
import org.meanflow.nn.TinyDiT;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.dit.DiT;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.OptimizerKernels.AdamWUpdate;
import org.meanflow.nn.engine.OptimizerKernels.Average;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;

/** Training of a tiny transformer with labels, a function of the seeds alone. */
final class TrainingRun implements AutoCloseable {
  private static final int BATCH = 8;
  private static final int[] LABELS = {0, 1, 2, 0, 1, 2, 0, 1};

  private final MeanFlowObjective objective =
      new MeanFlowObjective(
          new LinearPath(),
          TimePairSampler.paper(),
          Guidance.none(),
          new AdaptiveLoss(1, 1e-2, Reduction.SUM));
  private final Engine engine;
  private final double rate;
  private final ParameterStore store;
  private final ParameterStore average;
  private final Tensor firstMoments;
  private final Tensor secondMoments;
  private final NetworkField field;
  private int step;

  TrainingRun(Engine engine) {
    this(engine, 3e-3);
  }

  TrainingRun(Engine engine, double rate) {
    this.engine = engine;
    this.rate = rate;
    DiT network = new DiT(TinyDiT.CONFIG);
    store = new ParameterStore(engine, network.parameters());
    List<Parameter> all = network.parameters().parameters();
    for (int i = 0; i < all.size(); i++) {
      RandomStream random = new RandomStream(3, i, Purpose.INITIALISATION);
      INDArray normal = random.normalArray(DataType.DOUBLE, all.get(i).shape());
      store.write(all.get(i), normal.muli(0.2));
    }
    average = store.copy();
    firstMoments = store.zeroBuffer();
    secondMoments = store.zeroBuffer();
    field = new NetworkField(network, store);
  }

  /** Takes steps; their losses, that is mean squared errors: the weighted loss hardly moves. */
  List<Double> steps(int count) {
    List<Double> losses = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      store.clearGradients();
      INDArray x = TinyDiT.images(step, BATCH).castTo(engine.precision().dataType());
      try (var result = objective.evaluate(field, x, LABELS, 5, step, 0)) {
        losses.add(result.loss().meanSquaredError());
        result.backward();
      }
      step++;
      double norm = Math.sqrt(engine.kernels().optimizer().squaredNorm(store.gradients()));
      engine
          .kernels()
          .optimizer()
          .adamW(
              new AdamWUpdate(rate, 0.9, 0.95, 1e-8, 0.01, step, Math.min(1, 1 / norm)),
              store.values(),
              store.gradients(),
              firstMoments,
              secondMoments,
              new Average(0.99, average.values()));
    }
    return losses;
  }

  @Override
  public void close() {
    store.close();
    average.close();
    firstMoments.close();
    secondMoments.close();
  }
}
