package org.meanflow.nn.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.List;
import org.junit.jupiter.api.Test;

class EnginesTest {
  private static final String PROPERTY = "meanflow.engine";

  @Test
  void theReferenceEngineIsThereAndRuns() {
    List<EngineProvider> providers = Engines.providers();
    assertThat(providers).extracting(EngineProvider::name).doesNotHaveDuplicates().contains("nd4j");
    assertThat(providers).extracting(EngineProvider::rank).isSortedAccordingTo((a, b) -> b - a);
    EngineProvider nd4j =
        providers.stream().filter(p -> p.name().equals("nd4j")).findFirst().orElseThrow();
    assertThat(nd4j.unavailableBecause()).isNull();
    assertThat(nd4j.description()).contains("ND4J backend").doesNotContain("null");
  }

  @Test
  void createsByName() {
    for (Precision precision : new Precision[] {Precision.FP64, Precision.FP32}) {
      try (Engine engine = Engines.create("nd4j", precision)) {
        assertThat(engine.name()).isEqualTo("nd4j");
        assertThat(engine.precision()).isEqualTo(precision);
        try (Tensor tensor = engine.allocate(2, 3)) {
          assertThat(engine.read(tensor).dataType()).isEqualTo(precision.dataType());
        }
      }
    }
  }

  @Test
  void refusesUnknownNamesAndNamesTheKnown() {
    assertThatThrownBy(() -> Engines.create("gpu", Precision.FP32))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageStartingWith("engine must be one of [")
        .hasMessageContaining("nd4j")
        .hasMessageEndingWith("], got 'gpu'");
  }

  @Test
  void thePropertyChoosesWhereNoNameIsGiven() {
    String before = System.getProperty(PROPERTY);
    try {
      System.setProperty(PROPERTY, "absent");
      assertThatThrownBy(() -> Engines.create(null, Precision.FP32))
          .hasMessageEndingWith("got 'absent'");
      try (Engine named = Engines.create("nd4j", Precision.FP32)) {
        assertThat(named.name()).isEqualTo("nd4j");
      }
      System.clearProperty(PROPERTY);
      try (Engine best = Engines.create(null, Precision.FP32)) {
        assertThat(best.precision()).isEqualTo(Precision.FP32);
      }
    } finally {
      if (before != null) {
        System.setProperty(PROPERTY, before);
      } else {
        System.clearProperty(PROPERTY);
      }
    }
  }

  @Test
  void tensorsRefuseWhatDoesNotFit() {
    try (Engine engine = Engines.create("nd4j", Precision.FP64);
        Tensor tensor = engine.allocate(2, 6)) {
      assertThat(tensor.dim(-1)).isEqualTo(6);
      assertThat(tensor.matrix(4).shape()).containsExactly(3, 4);
      assertThat(tensor.rows(1, 2).shape()).containsExactly(1, 6);
      assertThatThrownBy(() -> tensor.reshape(5, 2))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("shape must have 12 elements, got [5, 2]");
      assertThatThrownBy(() -> tensor.view(8, 5)).isInstanceOf(IndexOutOfBoundsException.class);
      assertThatThrownBy(() -> tensor.rows(1, 3)).isInstanceOf(IndexOutOfBoundsException.class);
    }
  }
}
