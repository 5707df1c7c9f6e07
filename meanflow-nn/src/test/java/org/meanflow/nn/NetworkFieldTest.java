package org.meanflow.nn;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.util.Objects;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.meanflow.core.field.AverageVelocity;
import org.meanflow.core.field.Derivative;
import org.meanflow.core.field.Tangent;
import org.meanflow.core.field.TrainableVelocity.Pass;
import org.meanflow.nn.autodiff.Parameter;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

class NetworkFieldTest {
  private final TinyDiT dit = new TinyDiT(TinyDiT.CONFIG);
  private final NetworkField field = dit.field;
  private final INDArray z = TinyDiT.images(1, 3);
  private final INDArray v = TinyDiT.images(2, 3);
  private final double[] r = {0.25, 0, 0.5};
  private final double[] t = {0.75, 1, 0.5};
  private final int[] labels = {2, AverageVelocity.NO_LABEL, 0};

  @AfterEach
  void close() {
    dit.close();
  }

  private Pass pass() {
    return field.pass(z, r, t, labels, Tangent.along(v));
  }

  @Test
  void passDerivativeAndValueAgree() {
    INDArray u = field.u(z, r, t, labels);
    Derivative derivative = field.derivative(z, r, t, labels, Tangent.along(v));
    assertThat(u.shape()).isEqualTo(z.shape());
    assertThat(derivative.u()).isEqualTo(u);
    try (Pass pass = pass()) {
      assertThat(pass.u()).isEqualTo(u);
      assertThat(pass.jvp()).isEqualTo(derivative.jvp());
    }
    assertThat(z).as("arguments are not changed").isEqualTo(TinyDiT.images(1, 3));
    assertThat(v).as("arguments are not changed").isEqualTo(TinyDiT.images(2, 3));
  }

  @Test
  void samplesDoNotMix() {
    INDArray all = field.u(z, r, t, labels);
    for (int i = 0; i < 3; i++) {
      INDArray alone =
          field.u(
              z.slice(i).dup().reshape(1, 1, 4, 4),
              new double[] {r[i]},
              new double[] {t[i]},
              new int[] {labels[i]});
      assertThat(alone.reshape(16).distance2(all.slice(i).dup().reshape(16))).isLessThan(1e-12);
    }
  }

  @Test
  void noLabelsAreTheNullClassForAll() {
    int none = AverageVelocity.NO_LABEL;
    assertThat(field.u(z, r, t, null)).isEqualTo(field.u(z, r, t, new int[] {none, none, none}));
    assertThat(field.u(z, r, t, null)).isNotEqualTo(field.u(z, r, t, new int[] {0, 1, 2}));
  }

  @Test
  void tangentOfNoSamples() {
    INDArray none = Nd4j.create(DataType.DOUBLE, 0, 1, 4, 4);
    Derivative derivative = field.derivative(z, r, t, labels, Tangent.along(none));
    assertThat(derivative.u()).isEqualTo(field.u(z, r, t, labels));
    assertThat(derivative.jvp().shape()).containsExactly(0, 1, 4, 4);
    try (Pass pass = field.pass(z, r, t, labels, Tangent.along(none))) {
      assertThat(pass.jvp().shape()).containsExactly(0, 1, 4, 4);
      pass.backward(v);
    }
    INDArray withoutTangent = dit.engine.read(dit.parameters.gradients());
    dit.engine.kernels().elementwise().fill(dit.parameters.gradients(), 0);
    try (Pass pass = pass()) {
      pass.backward(v);
    }
    INDArray withTangent = dit.engine.read(dit.parameters.gradients());
    assertThat(withTangent.distance2(withoutTangent))
        .isLessThan(1e-12 * withTangent.norm2Number().doubleValue());
  }

  /** ⟨cotangent, u⟩ grows along a direction of the parameters as its gradient says. */
  @Test
  void gradientIsTheSlopeOfThePairing() {
    try (Pass pass = pass()) {
      pass.backward(v);
    }
    Parameter parameter = dit.parameter("blocks.0.attn.qkv.weight");
    INDArray start = dit.parameters.read(parameter);
    INDArray direction = start.mul(0).addi(1);
    double h = 1e-5;
    dit.parameters.write(parameter, start.add(direction.mul(h)));
    double above = field.u(z, r, t, labels).mul(v).sumNumber().doubleValue();
    dit.parameters.write(parameter, start.sub(direction.mul(h)));
    double below = field.u(z, r, t, labels).mul(v).sumNumber().doubleValue();
    double slope = dit.engine.read(dit.parameters.gradient(parameter)).sumNumber().doubleValue();
    // Truncation h² and rounding ulp/h are below 1e-9 of the pairing, which is of order 10.
    assertThat(slope).isCloseTo((above - below) / (2 * h), within(1e-7));
  }

  @Test
  void gradientsOfPassesAddUp() {
    try (Pass pass = pass()) {
      pass.backward(v);
    }
    INDArray once = dit.engine.read(dit.parameters.gradients());
    try (Pass pass = pass()) {
      pass.backward(v);
    }
    INDArray twice = dit.engine.read(dit.parameters.gradients());
    assertThat(twice.distance2(once.mul(2))).isLessThan(1e-12 * twice.norm2Number().doubleValue());
  }

  @Test
  void whatAPassGaveOutlivesIt() {
    Pass pass = pass();
    INDArray u = pass.u();
    INDArray copy = u.dup();
    pass.backward(v);
    pass.close();
    try (Pass another = field.pass(v, r, t, null, Tangent.along(z))) {
      assertThat(another.u()).isNotEqualTo(copy);
    }
    assertThat(u).isEqualTo(copy);
  }

  @Test
  void backwardRunsOnce() {
    try (Pass pass = pass()) {
      pass.backward(v);
      assertThatThrownBy(() -> pass.backward(v))
          .isInstanceOf(IllegalStateException.class)
          .hasMessage("backward was already run on this tape");
    }
  }

  @Test
  void aCotangentOfAnotherShapeIsRefusedAndTheRightOneStillTaken() {
    try (Pass pass = pass()) {
      assertThatThrownBy(() -> pass.backward(TinyDiT.images(3, 2)))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("cotangent must have shape [3, 1, 4, 4], got [2, 1, 4, 4]");
      pass.backward(v);
    }
  }

  @Test
  void refusesImagesOfAnotherShape() {
    for (long[] shape : new long[][] {{3, 2, 4, 4}, {3, 1, 4, 6}, {3, 1, 16}}) {
      assertThatThrownBy(() -> field.u(Nd4j.zeros(DataType.DOUBLE, shape), r, t, labels))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessageContaining("z must be [batch, 1, 4, 4], got [3, ");
    }
  }

  @Test
  void refusesOtherNumbersOfTimesAndLabels() {
    double[] two = {0.5, 0.5};
    assertThatThrownBy(() -> field.u(z, two, t, labels))
        .hasMessageContaining("one entry for each of the 3 samples, got 2, 3, 3");
    assertThatThrownBy(() -> field.u(z, r, two, labels)).hasMessageContaining("got 3, 2, 3");
    assertThatThrownBy(() -> field.u(z, r, t, new int[4])).hasMessageContaining("got 3, 3, 4");
  }

  @Test
  void refusesTimesOutOfOrderOrRange() {
    for (double[] pair :
        new double[][] {{0.6, 0.5}, {-0.1, 0.5}, {0.5, 1.1}, {Double.NaN, 1}, {0, Double.NaN}}) {
      assertThatThrownBy(
              () -> field.u(z, new double[] {0, pair[0], 0}, new double[] {1, pair[1], 1}, labels))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage(
              "times must satisfy 0 <= r <= t <= 1, got r = %s, t = %s in sample 1"
                  .formatted(pair[0], pair[1]));
    }
  }

  @Test
  void refusesLabelsOutOfRange() {
    for (int label : new int[] {-2, 4}) {
      assertThatThrownBy(() -> field.u(z, r, t, new int[] {0, 1, label}))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessageContaining(
              "label must be a class in [0, 3) or -1 for none, got " + label + " in sample 2");
    }
  }

  @Test
  void refusesTangentsOfAnotherShape() {
    for (long[] shape : new long[][] {{4, 1, 4, 4}, {2, 1, 4, 2}, {3, 16}}) {
      INDArray wrong = Nd4j.zeros(DataType.DOUBLE, shape);
      assertThatThrownBy(() -> field.derivative(z, r, t, labels, Tangent.along(wrong)))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessageContaining("at most the 3 rows of z [3, 1, 4, 4], got");
    }
  }

  @Test
  void anErrorKeepsNoMemory() {
    int[] wrong = {0, 1, 9};
    long held = 0;
    for (int i = 0; i < 4; i++) {
      assertThatThrownBy(() -> field.pass(z, r, t, wrong, Tangent.along(v)))
          .isInstanceOf(IllegalArgumentException.class);
      if (i == 1) {
        held = dit.engine.bytesHeld();
      }
    }
    assertThat(dit.engine.bytesHeld()).isEqualTo(held);
  }

  @Test
  void namesTheLayerThatBroke() {
    try (Pass pass = pass()) {
      assertThat(pass.firstNonFinite()).isNull();
      pass.backward(v);
      assertThat(pass.firstNonFinite()).isNull();
    }
    Parameter parameter = dit.parameter("blocks.1.attn.qkv.weight");
    INDArray weight = dit.parameters.read(parameter);
    dit.parameters.write(parameter, weight.putScalar(5, Double.NaN));
    try (Pass pass = pass()) {
      assertThat(pass.firstNonFinite()).isEqualTo("blocks.1.attn (Linear)");
      pass.backward(v);
      String broken = Objects.requireNonNull(pass.firstNonFinite());
      assertThat(dit.parameters.layout().parameters()).extracting(Parameter::name).contains(broken);
    }
  }

  /** A cotangent that overflows on its way back: everything behind the head is still finite. */
  @Test
  void namesTheParameterWhoseGradientBroke() {
    Parameter head = dit.parameter("final_layer.linear.bias");
    try (Pass pass = pass()) {
      pass.backward(v.mul(0).addi(Double.MAX_VALUE));
      assertThat(pass.firstNonFinite()).startsWith("final_layer.");
    }
    assertThat(dit.engine.read(dit.parameters.gradient(head)).isInfinite().any()).isTrue();
  }

  /** The first pass fills the pool; gradients are allocated by the first backward. */
  @Test
  void repeatedWorkAllocatesNothing() {
    INDArray first = TinyDiT.images(2, 2);
    long held = 0;
    for (int i = 0; i < 5; i++) {
      try (Pass pass = field.pass(z, r, t, labels, Tangent.along(first))) {
        pass.backward(v);
      }
      field.u(z, r, t, labels);
      field.derivative(z, r, t, null, Tangent.along(v));
      if (i == 1) {
        held = dit.engine.bytesHeld();
      }
    }
    assertThat(held).isPositive();
    assertThat(dit.engine.bytesHeld()).isEqualTo(held);
  }
}
