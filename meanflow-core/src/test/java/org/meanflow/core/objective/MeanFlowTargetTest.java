package org.meanflow.core.objective;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.meanflow.core.Closeness.assertClose;
import static org.meanflow.core.Closeness.values;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

class MeanFlowTargetTest {

  /** ṽ − (t − r)·du/dt with dyadic numbers, exact in both data types. */
  @ParameterizedTest
  @CsvSource({"FLOAT, 2", "DOUBLE, 2", "FLOAT, 3", "DOUBLE, 3"})
  void isVelocityMinusGapTimesDerivative(DataType type, int m) {
    INDArray velocity = array(type, new double[] {1, 2, 3, 4, 5, 6}, 3, 2, 1);
    double[] jvp = {8, -8, 4, 2, 100, 100};
    INDArray target =
        MeanFlowTarget.of(
            velocity,
            array(type, java.util.Arrays.copyOf(jvp, 2 * m), m, 2, 1),
            new double[] {0.25, 0, 0.5},
            new double[] {0.75, 1, 0.5});
    assertThat(target.dataType()).isEqualTo(type);
    assertThat(target.shape()).containsExactly(3, 2, 1);
    assertClose(values(target), new double[] {-3, 6, -1, 2, 5, 6}, 0);
    assertClose(values(velocity), new double[] {1, 2, 3, 4, 5, 6}, 0);
  }

  @Test
  void withoutDistinctTimesItIsTheVelocity() {
    INDArray velocity = array(DataType.FLOAT, new double[] {1, 2, 3, 4}, 2, 2);
    double[] t = {0.3, 0.7};
    INDArray target = MeanFlowTarget.of(velocity, Nd4j.create(DataType.FLOAT, 0, 2), t, t);
    assertClose(target, velocity, 0);
    assertThat(target).isNotSameAs(velocity);
  }

  @Test
  void refusesWhatDoesNotFit() {
    INDArray velocity = array(DataType.DOUBLE, new double[] {1, 2, 3, 4}, 2, 2);
    INDArray one = array(DataType.DOUBLE, new double[] {1, 2}, 1, 2);
    double[] t = {1, 0.5};
    assertThatThrownBy(() -> MeanFlowTarget.of(velocity, one, new double[] {0, 0.25}, t))
        .hasMessage("r[1] must equal t[1] because jvp covers 1 samples, got 0.25, 0.5");
    assertThatThrownBy(() -> MeanFlowTarget.of(velocity, one, new double[] {0, Double.NaN}, t))
        .hasMessageContaining("r[1] must equal t[1]");
    assertThatThrownBy(() -> MeanFlowTarget.of(velocity, one, new double[1], t))
        .hasMessage("r must have one value for each of 2 samples, got 1");
    INDArray three = Nd4j.zeros(DataType.DOUBLE, 3, 2);
    assertThatThrownBy(() -> MeanFlowTarget.of(velocity, three, t, t))
        .hasMessage("jvp must have at most 2 samples, got 3");
    INDArray wide = Nd4j.zeros(DataType.DOUBLE, 1, 3);
    assertThatThrownBy(() -> MeanFlowTarget.of(velocity, wide, t, t))
        .hasMessageContaining("jvp must have the shape and type of");
    INDArray single = one.castTo(DataType.FLOAT);
    assertThatThrownBy(() -> MeanFlowTarget.of(velocity, single, t, t))
        .hasMessageContaining("got FLOAT[1, 2]");
  }

  private static INDArray array(DataType type, double[] values, long... shape) {
    return Nd4j.createFromArray(values).castTo(type).reshape(shape);
  }
}
