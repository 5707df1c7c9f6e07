package org.meanflow.nn.autodiff;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.offset;

import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.primitive.LinearCombination;
import org.meanflow.nn.primitive.Silu;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

class TapeTest {
  private static final LinearCombination DOUBLED = new LinearCombination(1, 1);

  private final Engine engine = Engines.create("nd4j", Precision.FP64);
  private final ParameterLayout layout = new ParameterLayout();
  private final Parameter weight = layout.declare("weight", Initializer.constant(3), 4);
  private final ParameterStore store = ParameterStore.initialized(engine, layout, 0);
  private final INDArray numbers = Nd4j.createFromArray(1., -2, 3, 0.5).reshape(2, 2);

  @AfterEach
  void close() {
    store.close();
    engine.close();
  }

  private static Dual twice(Tape tape, Dual x) {
    return tape.apply(DOUBLED, x, x);
  }

  @ParameterizedTest
  @EnumSource(Tape.Mode.class)
  void resultsOfScopesLiveOn(Tape.Mode mode) {
    try (Tensor x = engine.copyOf(numbers);
        Tape tape = new Tape(store, mode)) {
      Dual input = tape.input(x, 2, true);
      Dual skip = tape.scope("skip", () -> twice(tape, input));
      Dual deep =
          tape.scope(
              "outer",
              () -> {
                Dual inner = tape.scope("outer.inner", () -> twice(tape, twice(tape, input)));
                return tape.apply(DOUBLED, twice(tape, inner), skip);
              });
      // Memory that a scope gave back is overwritten by what follows.
      for (int i = 0; i < 5; i++) {
        tape.scope("more", () -> twice(tape, input));
      }
      assertThat(engine.read(deep.value())).isEqualTo(numbers.mul(10));
      assertThat(engine.read(skip.value())).isEqualTo(numbers.mul(2));
    }
  }

  /** A layer may return what it was given; that is not the tape's to close. */
  @ParameterizedTest
  @EnumSource(Tape.Mode.class)
  void aLayerMayReturnItsInput(Tape.Mode mode) {
    try (Tensor x = engine.copyOf(numbers)) {
      try (Tape tape = new Tape(store, mode)) {
        Dual input = tape.input(x, 2, false);
        Dual output =
            tape.scope(
                "outer",
                () -> {
                  tape.scope("identity", () -> input);
                  return twice(tape, input);
                });
        assertThat(engine.read(output.value())).isEqualTo(numbers.mul(2));
      }
      // Would overwrite x if its memory had been given back.
      for (int i = 0; i < 4; i++) {
        engine.copyOf(numbers.mul(0));
      }
      assertThat(engine.read(x)).isEqualTo(numbers);
    }
  }

  @Test
  void anEvaluationGivesBackWhatLayersComputed() {
    try (Tensor x = engine.copyOf(numbers);
        Tape tape = new Tape(store, Tape.Mode.EVALUATE)) {
      Dual y = tape.input(x, 2, false);
      long held = 0;
      for (int i = 0; i < 6; i++) {
        Dual before = y;
        y = tape.scope("layer" + i, () -> twice(tape, twice(tape, twice(tape, before))));
        if (i == 0) {
          held = engine.bytesHeld();
        }
      }
      // Results alone stay: one for each layer after the first, of which two fit in what it freed.
      assertThat(engine.bytesHeld()).isLessThanOrEqualTo(held + 5 * 4 * Double.BYTES);
      assertThat(engine.read(y.value())).isEqualTo(numbers.mul(Math.pow(8, 6)));
    }
  }

  @Test
  void whatIsReleasedIsGivenBackInAnEvaluation() {
    try (Tensor x = engine.copyOf(numbers);
        Tape tape = new Tape(store, Tape.Mode.EVALUATE)) {
      Dual input = tape.input(x, 2, false);
      Dual y = twice(tape, input);
      tape.release(input);
      Dual next = twice(tape, y);
      long held = engine.bytesHeld();
      for (int i = 0; i < 4; i++) {
        tape.release(y);
        y = next;
        next = twice(tape, y);
      }
      assertThat(engine.bytesHeld()).isEqualTo(held);
      assertThat(engine.read(next.value())).isEqualTo(numbers.mul(64));
      assertThat(engine.read(x)).as("an input is not the tape's").isEqualTo(numbers);
    }
  }

  @Test
  void aRecordingKeepsWhatIsReleased() {
    try (Tensor x = engine.copyOf(numbers);
        Tape tape = new Tape(store, Tape.Mode.RECORD)) {
      Dual input = tape.input(x, 2, true);
      Dual y = tape.apply(new Silu(), input);
      Dual z = tape.apply(new Silu(), y);
      tape.release(y);
      for (int i = 0; i < 4; i++) {
        twice(tape, input); // would get the memory of y
      }
      INDArray kept = engine.read(y.value());
      tape.backward(z, x);
      assertThat(kept.getDouble(0)).isEqualTo(1 / (1 + Math.exp(-1)), offset(1e-12));
    }
  }

  @Test
  void errorsNameTheLayer() {
    try (Tensor x = engine.copyOf(numbers);
        Tensor longer = engine.allocate(3, 2);
        Tape tape = new Tape(store, Tape.Mode.RECORD)) {
      Dual a = tape.input(x, 2, true);
      Dual b = tape.input(longer, 3, true);
      assertThatThrownBy(
              () ->
                  tape.scope(
                      "outer", () -> tape.scope("outer.mlp", () -> tape.apply(DOUBLED, a, b))))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("outer.mlp: terms must have the same shape, got [[2, 2], [3, 2]]");
      assertThatThrownBy(() -> tape.apply(DOUBLED, a, b))
          .as("the scope has ended")
          .hasMessage("terms must have the same shape, got [[2, 2], [3, 2]]");
    }
  }

  @Test
  void findsTheFirstOperationThatIsNotFinite() {
    try (Tensor x = engine.copyOf(numbers.mul(10));
        Tape tape = new Tape(store, Tape.Mode.RECORD)) {
      Dual fine = tape.scope("a", () -> tape.apply(new Silu(), tape.input(x, 2, true)));
      assertThat(tape.firstNonFinite()).isNull();
      Dual broken =
          tape.scope("b", () -> tape.apply(new LinearCombination(1e308, 1e308), fine, fine));
      tape.scope("c", () -> twice(tape, broken));
      assertThat(tape.firstNonFinite()).isEqualTo("b (LinearCombination)");
    }
  }

  @Test
  void backwardNeedsARecordingAndTheRightShape() {
    try (Tensor x = engine.copyOf(numbers);
        Tensor wrong = engine.allocate(2, 3);
        Tape evaluating = new Tape(store, Tape.Mode.EVALUATE);
        Tape recording = new Tape(store, Tape.Mode.RECORD)) {
      Dual value = twice(evaluating, evaluating.input(x, 2, true));
      assertThatThrownBy(() -> evaluating.backward(value, x))
          .isInstanceOf(IllegalStateException.class)
          .hasMessage("this tape does not record");
      Dual input = recording.input(x, 2, true);
      Dual output = twice(recording, input);
      assertThatThrownBy(() -> recording.backward(output, wrong))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("cotangent must have shape [2, 2], got [2, 3]");
      recording.backward(output, x);
      assertThat(engine.read(input.cotangent())).isEqualTo(numbers.mul(2));
      assertThat(engine.read(x)).as("the cotangent given").isEqualTo(numbers);
    }
  }

  @Test
  void onlyDifferentiableInputsGetACotangent() {
    try (Tensor x = engine.copyOf(numbers);
        Tape tape = new Tape(store, Tape.Mode.RECORD)) {
      Dual given = tape.input(x, 2, false);
      Dual asked = tape.input(x, 2, true);
      Dual output = tape.apply(DOUBLED, given, asked);
      tape.backward(output, x);
      assertThat(given.cotangent()).isNull();
      assertThat(asked.cotangent()).isNotNull();
      assertThat(tape.parameter(weight).value().shape()).containsExactly(4);
    }
  }
}
