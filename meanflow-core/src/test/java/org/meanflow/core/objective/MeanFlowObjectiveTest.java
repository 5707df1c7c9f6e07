package org.meanflow.core.objective;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.meanflow.core.Closeness.assertClose;
import static org.meanflow.core.Closeness.values;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.meanflow.core.field.Derivative;
import org.meanflow.core.field.Tangent;
import org.meanflow.core.field.TrainableVelocity;
import org.meanflow.core.path.LinearPath;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.core.time.TimePairSampler;
import org.meanflow.core.time.TimePairs;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

class MeanFlowObjectiveTest {
  private static final AdaptiveLoss LOSS = new AdaptiveLoss(0.75, 1e-3, Reduction.SUM);
  private static final int[] LABELS = {0, 1, 2, 0, 1};
  private static final boolean[] DROPPED = {false, true, false, false, true};
  private static final TimePairs PAIRS =
      new TimePairs(new double[] {0, 0.25, 0.5, 0.3, 1}, new double[] {1, 0.75, 0.875, 0.3, 1}, 3);

  private final INDArray x = noise(DataType.DOUBLE, 0);
  private final INDArray noise = noise(DataType.DOUBLE, 1);

  /** u = θ₀·z + θ₁·r + θ₂·t + θ₃·(c + 1)·z·t, with c = −1 for ∅. */
  private static final class ToyField implements TrainableVelocity {
    final double[] theta = {0.5, -0.3, 0.7, 0.2};
    final double[] gradient = new double[4];
    int open;
    @Nullable Tangent seenTangent;
    int @Nullable [] seenLabels;
    int jvpColumns = -1;

    @Override
    public INDArray u(INDArray z, double[] r, double[] t, int @Nullable [] labels) {
      return derivative(z, r, t, labels, Tangent.along(Nd4j.create(z.dataType(), 0, 2))).u();
    }

    @Override
    public Derivative derivative(
        INDArray z, double[] r, double[] t, int @Nullable [] labels, Tangent tangent) {
      double[] points = values(z);
      double[] dz = values(tangent.z());
      double[] u = new double[points.length];
      double[] jvp = new double[dz.length];
      for (int i = 0; i < u.length; i++) {
        int b = i / 2;
        double f = feature(labels, b);
        u[i] =
            theta[0] * points[i]
                + theta[1] * r[b]
                + theta[2] * t[b]
                + theta[3] * f * points[i] * t[b];
        if (i < dz.length) {
          jvp[i] =
              (theta[0] + theta[3] * f * t[b]) * dz[i]
                  + theta[1] * tangent.r()
                  + (theta[2] + theta[3] * f * points[i]) * tangent.t();
        }
      }
      return new Derivative(array(u, z), array(jvp, z));
    }

    @Override
    public Pass pass(INDArray z, double[] r, double[] t, int @Nullable [] labels, Tangent tangent) {
      seenTangent = tangent;
      seenLabels = labels;
      Derivative derivative = derivative(z, r, t, labels, tangent);
      open++;
      return new Pass() {
        private boolean done;

        @Override
        public INDArray u() {
          return derivative.u();
        }

        @Override
        public INDArray jvp() {
          return jvpColumns < 0 ? derivative.jvp() : Nd4j.zeros(z.dataType(), 3, jvpColumns);
        }

        @Override
        public void backward(INDArray cotangent) {
          if (done) {
            throw new IllegalStateException("backward was already called");
          }
          done = true;
          double[] g = values(cotangent);
          double[] points = values(z);
          for (int i = 0; i < g.length; i++) {
            int b = i / 2;
            gradient[0] += g[i] * points[i];
            gradient[1] += g[i] * r[b];
            gradient[2] += g[i] * t[b];
            gradient[3] += g[i] * feature(labels, b) * points[i] * t[b];
          }
        }

        @Override
        public @Nullable String firstNonFinite() {
          return null;
        }

        @Override
        public void close() {
          open--;
        }
      };
    }

    private static double feature(int @Nullable [] labels, int sample) {
      return labels == null ? 0 : labels[sample] + 1;
    }

    private static INDArray array(double[] values, INDArray like) {
      return values.length == 0
          ? Nd4j.create(like.dataType(), 0, 2)
          : Nd4j.createFromArray(values).castTo(like.dataType()).reshape(values.length / 2, 2);
    }
  }

  /** The whole step by hand: z, v, ṽ, du/dt, u_tgt, loss. */
  @Test
  void isAlgorithmOne() {
    ToyField field = new ToyField();
    Guidance guidance = new Guidance(1.5, 0.25, 0.4, 1, 0.1, DroppedTarget.VELOCITY);
    double[] th = field.theta;
    double[] xs = values(x);
    double[] es = values(noise);
    double[] velocity = new double[10];
    double[] target = new double[10];
    double[] squared = new double[5];
    for (int i = 0; i < 10; i++) {
      int b = i / 2;
      double r = PAIRS.r()[b];
      double t = PAIRS.t()[b];
      double z = (1 - t) * xs[i] + t * es[i];
      double v = es[i] - xs[i];
      boolean guided = t >= 0.4 && !DROPPED[b];
      double diagonal = th[0] * z + (th[1] + th[2]) * t;
      double conditional = diagonal + th[3] * (LABELS[b] + 1) * z * t;
      velocity[i] = guided ? 1.5 * v + (1 - 1.5 - 0.25) * diagonal + 0.25 * conditional : v;
      double f = DROPPED[b] ? 0 : LABELS[b] + 1;
      double jvp = (th[0] + th[3] * f * t) * velocity[i] + th[2] + th[3] * f * z;
      target[i] = velocity[i] - (t - r) * jvp;
      double u = th[0] * z + th[1] * r + th[2] * t + th[3] * f * z * t;
      squared[b] += (u - target[i]) * (u - target[i]);
    }
    double loss = 0;
    for (double s : squared) {
      loss += s / Math.pow(s + 1e-3, 0.75) / 5;
    }

    MeanFlowObjective objective = objective(guidance);
    try (var result = objective.evaluate(field, x, noise, PAIRS, LABELS, DROPPED)) {
      assertClose(values(result.velocity()), velocity, 1e-14);
      assertClose(values(result.target()), target, 1e-14);
      assertClose(result.loss().squaredError(), squared, 1e-13);
      assertClose(result.loss().value(), loss, 1e-13);
      assertThat(result.pairs()).isSameAs(PAIRS);
    }
    assertThat(field.seenLabels).containsExactly(0, -1, 2, 0, -1);
    assertClose(
        values(field.seenTangent.z()), Arrays.copyOf(velocity, 6), 1e-14); // r ≠ t rows only
    assertThat(field.seenTangent.r()).isZero();
    assertThat(field.seenTangent.t()).isEqualTo(1);
    assertThat(field.open).isZero();
  }

  /**
   * The gradient is that of mean w‖u_θ − u_tgt‖² with target and w held: quadratic in θ, so central
   * differences have no truncation error; rounding 2⁻⁵³·10/h = 1e-12 with h = 1e-3.
   */
  @Test
  void backwardIsTheGradientWithTargetAndWeightHeld() {
    ToyField field = new ToyField();
    Guidance guidance = new Guidance(1.5, 0.25, 0.4, 1, 0.1, DroppedTarget.GUIDED);
    try (var result = objective(guidance).evaluate(field, x, noise, PAIRS, LABELS, DROPPED)) {
      result.backward();
      double[] gradient = field.gradient.clone();
      INDArray z = new LinearPath().interpolate(x, noise, PAIRS.t());
      int[] seen = guidance.effectiveLabels(LABELS, DROPPED);
      double h = 1e-3;
      for (int k = 0; k < 4; k++) {
        double[] loss = new double[2];
        for (int side = 0; side < 2; side++) {
          double before = field.theta[k];
          field.theta[k] += side == 0 ? -h : h;
          INDArray u = field.u(z, PAIRS.r(), PAIRS.t(), seen);
          field.theta[k] = before;
          double[] s = LOSS.of(u, result.target()).squaredError();
          for (int b = 0; b < 5; b++) {
            loss[side] += result.loss().weight()[b] * s[b] / 5;
          }
        }
        assertClose(gradient[k], (loss[1] - loss[0]) / (2 * h), 1e-9);
      }
      assertThatThrownBy(result::backward).isInstanceOf(IllegalStateException.class);
    }
  }

  @ParameterizedTest
  @EnumSource(
      value = DataType.class,
      names = {"FLOAT", "DOUBLE"})
  void ownRandomnessIsAFunctionOfSeedStepAndRank(DataType type) {
    Guidance guidance = new Guidance(1.5, 0, 0, 1, 0.5, DroppedTarget.VELOCITY);
    double loss = lossAt(type, guidance, 1, 2, 0);
    assertThat(lossAt(type, guidance, 1, 2, 0)).isEqualTo(loss).isFinite();
    assertThat(lossAt(type, guidance, 2, 2, 0)).isNotEqualTo(loss);
    assertThat(lossAt(type, guidance, 1, 3, 0)).isNotEqualTo(loss);
    assertThat(lossAt(type, guidance, 1, 2, 1)).isNotEqualTo(loss);
  }

  @Test
  void ownRandomnessIsThatOfTheStreams() {
    Guidance guidance = new Guidance(1.5, 0, 0, 1, 0.5, DroppedTarget.VELOCITY);
    MeanFlowObjective objective = objective(guidance);
    INDArray drawn =
        new RandomStream(7, 4, 1, Purpose.NOISE).normalArray(DataType.DOUBLE, x.shape());
    TimePairs pairs = objective.times().sample(5, new RandomStream(7, 4, 1, Purpose.TIME));
    boolean[] dropped = guidance.drop(5, new RandomStream(7, 4, 1, Purpose.LABEL_DROP));
    try (var own = objective.evaluate(new ToyField(), x, LABELS, 7, 4, 1);
        var given = objective.evaluate(new ToyField(), x, drawn, pairs, LABELS, dropped)) {
      assertThat(own.loss().value()).isEqualTo(given.loss().value());
      assertThat(own.pairs().distinct()).isEqualTo(2); // 5 − ⌊0.75·5⌋
    }
  }

  @Test
  void withoutLabelsNothingIsDropped() {
    ToyField field = new ToyField();
    Guidance guidance = new Guidance(2, 0, 0, 1, 1, DroppedTarget.VELOCITY);
    try (var result = objective(guidance).evaluate(field, x, null, 1, 0, 0)) {
      assertThat(field.seenLabels).isNull();
      INDArray drawn =
          new RandomStream(1, 0, 0, Purpose.NOISE).normalArray(DataType.DOUBLE, x.shape());
      INDArray v = new LinearPath().velocity(x, drawn, result.pairs().t());
      assertThat(result.velocity().distance1(v)).isGreaterThan(0.1); // ṽ, not v
    }
  }

  @Test
  void onlyEqualTimesNeedNoTangent() {
    ToyField field = new ToyField();
    double[] t = {0.1, 0.2, 0.3, 0.4, 0.5};
    TimePairs equal = new TimePairs(t, t, 0);
    try (var result =
        objective(Guidance.none()).evaluate(field, x, noise, equal, null, new boolean[5])) {
      assertThat(field.seenTangent.rows()).isZero();
      assertClose(result.target(), noise.sub(x), 0);
    }
  }

  @Test
  void thePassIsClosedWhenItsOutputDoesNotFit() {
    ToyField field = new ToyField();
    field.jvpColumns = 7;
    assertThatThrownBy(
            () ->
                objective(Guidance.none()).evaluate(field, x, noise, PAIRS, LABELS, new boolean[5]))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("jvp must have the shape");
    assertThat(field.open).isZero();
  }

  private static MeanFlowObjective objective(Guidance guidance) {
    return new MeanFlowObjective(new LinearPath(), TimePairSampler.paper(), guidance, LOSS);
  }

  private static double lossAt(DataType type, Guidance guidance, long seed, long step, int rank) {
    try (var result =
        objective(guidance).evaluate(new ToyField(), noise(type, 0), LABELS, seed, step, rank)) {
      assertThat(result.loss().cotangent().dataType()).isEqualTo(type);
      return result.loss().value();
    }
  }

  private static INDArray noise(DataType type, long step) {
    return new RandomStream(1, step, Purpose.NOISE).normalArray(type, 5, 2);
  }
}
