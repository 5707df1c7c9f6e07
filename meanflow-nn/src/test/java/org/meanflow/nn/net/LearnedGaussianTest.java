package org.meanflow.nn.net;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.meanflow.core.field.Derivative;
import org.meanflow.core.field.Tangent;
import org.meanflow.core.field.TrainableVelocity;
import org.meanflow.core.objective.AdaptiveLoss;
import org.meanflow.core.objective.Guidance;
import org.meanflow.core.objective.IdentityResidual;
import org.meanflow.core.objective.MeanFlowObjective;
import org.meanflow.core.objective.Reduction;
import org.meanflow.core.oracle.GaussianField;
import org.meanflow.core.path.LinearPath;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.core.time.EqualCount;
import org.meanflow.core.time.Pairing;
import org.meanflow.core.time.TimePairSampler;
import org.meanflow.core.time.TimePairs;
import org.meanflow.core.time.Uniform;
import org.meanflow.nn.NetworkField;
import org.meanflow.nn.TestEngines;
import org.meanflow.nn.TestEngines.TestEngine;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.OptimizerKernels.AdamWUpdate;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/**
 * Training as a whole: a small network learns the average velocity of a Gaussian in the plane, x ~
 * N(μ, s²I), whose closed form is known.
 *
 * <p>The loss is the plain squared error, whose minimiser is u exactly. What is left after 1000
 * steps of 128 samples is noise of the last steps and what the network has not learned yet, so the
 * bounds are measured ones, with a margin. Errors with seeds 1 to 5 (bound):
 *
 * <pre>{@code
 *                          RMS of u             mean                 covariance
 * trained                  0.040–0.043 (0.08)   0.001–0.013 (0.05)   0.014–0.034 (0.06)
 * du/dt taken as 0         0.214–0.223          0.039–0.074          0.156–0.159
 * untrained                0.82–0.83            0.49–0.51            0.84–0.85
 * }</pre>
 *
 * <p>The sampling error of 20 000 samples is far smaller: 0.4/√20000 = 0.003 for the mean and
 * 0.16·√(2/20000) = 0.002 for the variances.
 */
class LearnedGaussianTest {
  private static final double[] MEAN = {0.5, -0.3};
  private static final double STD = 0.4;

  private static final double VARIANCE = STD * STD;

  /** Of the root mean square of u − u_exact. */
  private static final double MAX_ERROR = 0.08;

  /** Of the mean residual of the identity: 0.043 trained, 0.233 with du/dt taken as 0. */
  private static final double MAX_RESIDUAL = 0.1;

  private static final long SEED = 1;
  private static final int BATCH = 128;
  private static final double RATE = 0.03;

  private static final int EVALUATED = 20_000;
  private static final TimePairSampler PAIRS =
      new TimePairSampler(new Uniform(), new Uniform(), Pairing.MAX_MIN, 0.25, EqualCount.EXACT);

  static List<TestEngine> engines() {
    return TestEngines.with(Precision.FP32);
  }

  @ParameterizedTest
  @MethodSource("engines")
  void trainingFindsTheExactAverageVelocity(TestEngine engine) {
    Learned learned = train(engine, 1000, false);

    assertThat(learned.error).isLessThan(MAX_ERROR);
    assertThat(learned.residual).isLessThan(MAX_RESIDUAL);
    assertThat(learned.mean).containsExactly(MEAN, within(0.05));
    assertThat(learned.covariance)
        .containsExactly(new double[] {VARIANCE, 0, 0, VARIANCE}, within(0.06));
  }

  @ParameterizedTest
  @MethodSource("engines")
  void withoutTrainingEverythingIsMissed(TestEngine engine) {
    Learned learned = train(engine, 0, false);

    assertThat(learned.error).isGreaterThan(8 * MAX_ERROR);
    assertThat(learned.covariance).containsExactly(new double[] {1, 0, 0, 1}, within(0.03));
  }

  /**
   * With u_tgt = v the network learns the instantaneous velocity E[v | z_t], whatever r is. At t =
   * 1 that is ε − μ: one step ends in the mean, x = ε − (ε − μ) = μ.
   */
  @ParameterizedTest
  @MethodSource("engines")
  void withoutTheDerivativeOneStepCollapsesToTheMean(TestEngine engine) {
    Learned learned = train(engine, 300, true);

    assertThat(learned.error).isGreaterThan(2 * MAX_ERROR);
    assertThat(learned.residual).isGreaterThan(2 * MAX_RESIDUAL);
    assertThat(learned.covariance).containsExactly(new double[] {0, 0, 0, 0}, within(0.02));
  }

  /**
   * What training led to.
   *
   * @param error root mean square of u − u_exact at random (z, r, t) of the path
   * @param residual mean of the residual of the MeanFlow identity there; 0 for a field that is 0
   * @param mean mean of samples drawn in one step
   * @param covariance their covariance, row-major
   */
  private record Learned(double error, double residual, double[] mean, double[] covariance) {
    static Learned of(NetworkField field) {
      TimePairs pairs =
          new TimePairSampler(new Uniform(), new Uniform(), Pairing.MAX_MIN, 0, EqualCount.EXACT)
              .sample(EVALUATED, new RandomStream(SEED + 1, 0, Purpose.TIME));
      INDArray noise =
          new RandomStream(SEED + 1, 0, Purpose.NOISE).normalArray(DataType.FLOAT, EVALUATED, 2);
      INDArray z = new LinearPath().interpolate(data(SEED + 1, 0, EVALUATED), noise, pairs.t());
      INDArray exact =
          new GaussianField(MEAN, new double[] {STD, STD}).u(z, pairs.r(), pairs.t(), null);
      INDArray difference = field.u(z, pairs.r(), pairs.t(), null).sub(exact);

      double[] ones = new double[EVALUATED];
      Arrays.fill(ones, 1);
      INDArray samples = noise.sub(field.u(noise, new double[EVALUATED], ones, null));
      INDArray mean = samples.mean(0);
      INDArray deviation = samples.subRowVector(mean);
      return new Learned(
          difference.norm2Number().doubleValue() / Math.sqrt(difference.length()),
          Arrays.stream(IdentityResidual.of(field, z, pairs.r(), pairs.t(), null))
              .average()
              .orElseThrow(),
          mean.toDoubleVector(),
          deviation.transpose().mmul(deviation).div(EVALUATED).dup('c').data().asDouble());
    }
  }

  /** Trains a network from scratch, with the learning rate falling as half a cosine. */
  private static Learned train(TestEngine on, int steps, boolean withoutDerivative) {
    MlpNetwork network = new MlpNetwork(new MlpConfig(2, 32, 2, 0, 2, 2));
    MeanFlowObjective objective =
        new MeanFlowObjective(
            new LinearPath(), PAIRS, Guidance.none(), new AdaptiveLoss(0, 1, Reduction.SUM));
    try (Engine engine = on.create();
        ParameterStore store = ParameterStore.initialized(engine, network.parameters(), SEED);
        Tensor firstMoment = store.zeroBuffer();
        Tensor secondMoment = store.zeroBuffer()) {
      NetworkField field = new NetworkField(network, store);
      TrainableVelocity trained = withoutDerivative ? new WithoutDerivative(field) : field;
      for (int step = 0; step < steps; step++) {
        store.clearGradients();
        INDArray x = data(SEED, step, BATCH);
        try (var result = objective.evaluate(trained, x, null, SEED, step, 0)) {
          result.backward();
        }
        double rate = RATE * (1 + Math.cos(Math.PI * step / steps)) / 2;
        engine
            .kernels()
            .optimizer()
            .adamW(
                new AdamWUpdate(rate, 0.9, 0.99, 1e-8, 0, step + 1, 1),
                store.values(),
                store.gradients(),
                firstMoment,
                secondMoment);
      }
      return Learned.of(field);
    }
  }

  private static INDArray data(long seed, long step, int count) {
    return new RandomStream(seed, step, Purpose.DATA_ORDER)
        .normalArray(DataType.FLOAT, count, 2)
        .muli(STD)
        .addiRowVector(Nd4j.createFromArray(MEAN).castTo(DataType.FLOAT));
  }

  /** A field that says du/dt = 0, so that its target is v alone. */
  private record WithoutDerivative(TrainableVelocity field) implements TrainableVelocity {
    @Override
    public INDArray u(INDArray z, double[] r, double[] t, int @Nullable [] labels) {
      return field.u(z, r, t, labels);
    }

    @Override
    public Derivative derivative(
        INDArray z, double[] r, double[] t, int @Nullable [] labels, Tangent tangent) {
      throw new UnsupportedOperationException("not used in training");
    }

    @Override
    public Pass pass(INDArray z, double[] r, double[] t, int @Nullable [] labels, Tangent tangent) {
      return field.pass(z, r, t, labels, new Tangent(tangent.z().mul(0), 0, 0));
    }
  }
}
