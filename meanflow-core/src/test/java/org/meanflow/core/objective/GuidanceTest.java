package org.meanflow.core.objective;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.meanflow.core.Closeness.assertClose;
import static org.meanflow.core.Closeness.values;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.meanflow.core.field.AverageVelocity;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

class GuidanceTest {
  private static final double[] T = {0.1, 0.25, 0.5, 0.75, 0.9, 0.5};
  private static final int[] LABELS = {0, 1, 2, 3, 0, 1};
  private static final boolean[] DROPPED = {false, false, true, false, false, false};
  private static final boolean[] NONE_DROPPED = new boolean[6];

  private final INDArray z = noise(DataType.DOUBLE, 0, 6, 2, 3);
  private final INDArray v = noise(DataType.DOUBLE, 1, 6, 2, 3);

  /** u(z, r, t | c) = (c + 3)·z + t, with c = −1 for ∅; remembers what it was asked. */
  private static final class RecordingField implements AverageVelocity {
    final List<INDArray> points = new ArrayList<>();
    final List<int @Nullable []> labels = new ArrayList<>();

    static double at(double z, double t, int label) {
      return (label + 3) * z + t;
    }

    @Override
    public INDArray u(INDArray z, double[] r, double[] t, int @Nullable [] labels) {
      assertThat(r).isEqualTo(t);
      points.add(z);
      this.labels.add(labels == null ? null : labels.clone());
      double[] in = values(z);
      int elements = in.length / t.length;
      double[] out = new double[in.length];
      for (int i = 0; i < in.length; i++) {
        int sample = i / elements;
        out[i] = at(in[i], t[sample], labels == null ? NO_LABEL : labels[sample]);
      }
      return Nd4j.createFromArray(out).castTo(z.dataType()).reshape(z.shape());
    }
  }

  @ParameterizedTest
  @CsvSource({
    "2, 0, 0, 1, VELOCITY",
    "2, 0, 0, 1, GUIDED",
    "0.75, 0.625, 0.25, 0.75, VELOCITY",
    "0.75, 0.625, 0.25, 0.75, GUIDED",
    "0.4, 0.6, 0, 1, GUIDED",
    "0.7, 0.3, 0, 0.6, VELOCITY",
    "1, 0.5, 0.5, 0.5, GUIDED",
    "1, 0, 0, 1, GUIDED"
  })
  void isTheFormula(double omega, double kappa, double from, double to, DroppedTarget target) {
    Guidance guidance = new Guidance(omega, kappa, from, to, 0.1, target);
    INDArray guided = guidance.velocity(new RecordingField(), z, T, v, LABELS, DROPPED);
    double[] points = values(z);
    double[] expected = values(v);
    for (int i = 0; i < expected.length; i++) {
      int sample = i / 6;
      boolean plain = DROPPED[sample] && target == DroppedTarget.VELOCITY;
      if (T[sample] >= from && T[sample] <= to && !plain) {
        expected[i] =
            omega * expected[i]
                + (1 - omega - kappa) * RecordingField.at(points[i], T[sample], -1)
                + kappa * RecordingField.at(points[i], T[sample], LABELS[sample]);
      }
    }
    assertClose(guided.reshape(36), Nd4j.createFromArray(expected), 1e-14);
    assertThat(guided.shape()).containsExactly(6, 2, 3);
  }

  /** Values are below 30 and sums of three: 4·30·2⁻²⁴ = 7e-6. */
  @Test
  void singlePrecisionAgreesWithDouble() {
    Guidance guidance = new Guidance(0.75, 0.625, 0.25, 0.75, 0.1, DroppedTarget.VELOCITY);
    INDArray exact = guidance.velocity(new RecordingField(), z, T, v, LABELS, DROPPED);
    INDArray single =
        guidance.velocity(
            new RecordingField(),
            z.castTo(DataType.FLOAT),
            T,
            v.castTo(DataType.FLOAT),
            LABELS,
            DROPPED);
    assertThat(single.dataType()).isEqualTo(DataType.FLOAT);
    assertClose(single, exact.castTo(DataType.FLOAT), 7e-6);
  }

  @Test
  void inactiveGuidanceAsksNothing() {
    RecordingField field = new RecordingField();
    assertThat(Guidance.none().active()).isFalse();
    assertThat(Guidance.none().velocity(field, z, T, v, LABELS, DROPPED)).isSameAs(v);
    assertThat(field.points).isEmpty();
  }

  @Test
  void outsideTheIntervalNothingIsAsked() {
    RecordingField field = new RecordingField();
    Guidance guidance = new Guidance(2, 0, 0.95, 1, 0, DroppedTarget.VELOCITY);
    assertThat(guidance.velocity(field, z, T, v, LABELS, DROPPED)).isSameAs(v);
    assertThat(field.points).isEmpty();
  }

  @Test
  void withoutKappaOnlyTheUnconditionalFieldIsAskedAndZIsNotCopied() {
    RecordingField field = new RecordingField();
    new Guidance(2, 0, 0, 1, 0, DroppedTarget.VELOCITY)
        .velocity(field, z, T, v, LABELS, NONE_DROPPED);
    assertThat(field.points).hasSize(1);
    assertThat(field.points.getFirst()).isSameAs(z);
    assertThat(field.labels.getFirst()).containsOnly(AverageVelocity.NO_LABEL).hasSize(6);
  }

  /** 1 − 0.7 − 0.3 is 6e-17, not 0. */
  @ParameterizedTest
  @CsvSource({"0.4, 0.6", "0.7, 0.3"})
  void withoutTheUnconditionalTermOnlyTheConditionalFieldIsAsked(double omega, double kappa) {
    RecordingField field = new RecordingField();
    new Guidance(omega, kappa, 0, 1, 0, DroppedTarget.GUIDED)
        .velocity(field, z, T, v, LABELS, DROPPED);
    assertThat(field.points).hasSize(1);
    assertThat(field.points.getFirst()).isSameAs(z);
    assertThat(field.labels.getFirst()).containsExactly(LABELS);
  }

  @Test
  void bothTermsAreOneStackedBatchOfTheRowsThatNeedThem() {
    RecordingField field = new RecordingField();
    new Guidance(0.75, 0.625, 0.25, 0.75, 0, DroppedTarget.VELOCITY)
        .velocity(field, z, T, v, LABELS, DROPPED);
    assertThat(field.points).hasSize(1);
    assertThat(field.points.getFirst().shape()).containsExactly(6, 2, 3);
    assertThat(field.labels.getFirst()).containsExactly(-1, -1, -1, 1, 3, 1);
    double[] asked = values(field.points.getFirst());
    double[] all = values(z);
    int[] rows = {1, 3, 5, 1, 3, 5};
    for (int i = 0; i < 6; i++) {
      assertClose(
          Arrays.copyOfRange(asked, 6 * i, 6 * i + 6),
          Arrays.copyOfRange(all, 6 * rows[i], 6 * rows[i] + 6),
          0);
    }
  }

  @Test
  void withoutLabelsTheConditionalFieldIsTheUnconditionalOne() {
    RecordingField field = new RecordingField();
    INDArray guided =
        new Guidance(0.75, 0.625, 0, 1, 0, DroppedTarget.VELOCITY)
            .velocity(field, z, T, v, null, NONE_DROPPED);
    assertThat(field.points).hasSize(1);
    assertThat(field.labels.getFirst()).isNull();
    INDArray unconditional = new RecordingField().v(z, T, null);
    assertClose(guided, v.mul(0.75).add(unconditional.mul(0.25)), 1e-14);

    Guidance cancelling = new Guidance(1, 0.5, 0, 1, 0, DroppedTarget.VELOCITY);
    assertThat(cancelling.velocity(field, z, T, v, null, NONE_DROPPED)).isSameAs(v);
    assertThat(field.points).hasSize(1);
  }

  @Test
  void argumentsStayAsTheyAre() {
    double[] zBefore = values(z);
    double[] vBefore = values(v);
    for (double kappa : new double[] {0, 0.5}) {
      Guidance guidance = new Guidance(2, kappa, 0, 1, 0, DroppedTarget.GUIDED);
      guidance.velocity(new RecordingField(), z, T, v, LABELS, DROPPED).assign(0);
      guidance.effectiveLabels(LABELS, DROPPED);
    }
    assertClose(values(z), zBefore, 0);
    assertClose(values(v), vBefore, 0);
    assertThat(LABELS).containsExactly(0, 1, 2, 3, 0, 1);
  }

  @Test
  void acceptsViewsAndColumnMajorArrays() {
    Guidance guidance = new Guidance(0.75, 0.625, 0.25, 0.75, 0, DroppedTarget.VELOCITY);
    INDArray view = noise(DataType.DOUBLE, 0, 3, 2, 6).permute(2, 1, 0);
    INDArray columnMajor = v.dup('f');
    assertClose(
        guidance.velocity(new RecordingField(), view, T, columnMajor, LABELS, DROPPED),
        guidance.velocity(new RecordingField(), view.dup('c'), T, v, LABELS, DROPPED),
        0);
  }

  @Test
  void aBatchOfOneIsGuided() {
    Guidance guidance = new Guidance(2, 0.25, 0, 1, 0, DroppedTarget.VELOCITY);
    INDArray point = Nd4j.createFromArray(new double[][] {{3}});
    INDArray guided =
        guidance.velocity(
            new RecordingField(), point, new double[] {0.5}, point, new int[] {1}, new boolean[1]);
    // 2·3 + (1 − 2 − 0.25)·(2·3 + 0.5) + 0.25·(4·3 + 0.5)
    assertClose(values(guided), new double[] {6 - 1.25 * 6.5 + 0.25 * 12.5}, 0);
  }

  @Test
  void droppedLabelsBecomeNone() {
    assertThat(Guidance.none().effectiveLabels(LABELS, DROPPED)).containsExactly(0, 1, -1, 3, 0, 1);
    assertThat(Guidance.none().effectiveLabels(null, DROPPED)).isNull();
  }

  /** Share of dropped labels: 0.1 ± 5·√(0.09/n). */
  @Test
  void labelsAreDroppedWithTheProbability() {
    int n = 100_000;
    RandomStream random = new RandomStream(1, 0, Purpose.LABEL_DROP);
    int count = 0;
    for (boolean dropped : new Guidance(1, 0, 0, 1, 0.1, DroppedTarget.VELOCITY).drop(n, random)) {
      count += dropped ? 1 : 0;
    }
    assertClose((double) count / n, 0.1, 5 * Math.sqrt(0.09 / n));
    assertThat(Guidance.none().drop(1000, random)).containsOnly(false);
    assertThat(new Guidance(1, 0, 0, 1, 1, DroppedTarget.VELOCITY).drop(1000, random))
        .containsOnly(true);
  }

  @ParameterizedTest
  @CsvSource({
    "NaN, 0, 0, 1, 0, omega must be finite and > 0",
    "0, 0, 0, 1, 0, omega must be finite and > 0",
    "1, NaN, 0, 1, 0, 'kappa must be in [0, 1)'",
    "1, 1, 0, 1, 0, 'kappa must be in [0, 1)'",
    "1, 0, NaN, 1, 0, 'from must be in [0, 1]'",
    "1, 0, 0.5, 0.4, 0, 'to must be in [from, 1]'",
    "1, 0, 0, NaN, 0, 'to must be in [from, 1]'",
    "1, 0, 0, 1, NaN, 'dropProbability must be in [0, 1]'",
    "1, 0, 0, 1, 1.5, 'dropProbability must be in [0, 1]'"
  })
  void refusesWhatIsOutOfRange(
      double omega, double kappa, double from, double to, double drop, String message) {
    assertThatThrownBy(() -> new Guidance(omega, kappa, from, to, drop, DroppedTarget.VELOCITY))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageStartingWith(message);
  }

  @Test
  void refusesWhatDoesNotFit() {
    Guidance guidance = Guidance.none();
    RecordingField field = new RecordingField();
    assertThatThrownBy(() -> guidance.velocity(field, z, new double[5], v, LABELS, DROPPED))
        .hasMessage("t must have one value for each of 6 samples, got 5");
    assertThatThrownBy(() -> guidance.velocity(field, z, T, v, new int[5], DROPPED))
        .hasMessage("labels must have one value for each of 6 samples, got 5");
    assertThatThrownBy(() -> guidance.velocity(field, z, T, v, LABELS, new boolean[7]))
        .hasMessage("dropped must have one value for each of 6 samples, got 7");
    INDArray flat = v.reshape(6, 6);
    assertThatThrownBy(() -> guidance.velocity(field, z, T, flat, LABELS, DROPPED))
        .hasMessageStartingWith("v must have the shape and type of z");
  }

  private static INDArray noise(DataType type, long step, long... shape) {
    return new RandomStream(1, step, Purpose.NOISE).normalArray(type, shape);
  }
}
