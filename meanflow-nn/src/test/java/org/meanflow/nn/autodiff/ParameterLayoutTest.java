package org.meanflow.nn.autodiff;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.List;
import org.junit.jupiter.api.Test;
import org.meanflow.nn.engine.Tensor;

class ParameterLayoutTest {
  private final ParameterLayout layout = new ParameterLayout();

  @Test
  void keepsTheOrderOfDeclaration() {
    layout.declare("b.weight", Initializer.zeros(), 3, 5);
    layout.declare("a.bias", Initializer.zeros(), 7);
    assertThat(layout.parameters())
        .extracting(Parameter::name)
        .containsExactly("b.weight", "a.bias");
    assertThat(layout.count()).isEqualTo(3 * 5 + 7);
  }

  @Test
  void parametersAreAlignedAndApart() {
    for (int i = 0; i < 40; i++) {
      layout.declare("p" + i, Initializer.zeros(), i + 1);
    }
    List<Parameter> parameters = layout.parameters();
    long end = 0;
    for (Parameter parameter : parameters) {
      assertThat(parameter.offset()).isGreaterThanOrEqualTo(end);
      assertThat(parameter.offset() % 16).isZero();
      end = parameter.offset() + Tensor.size(parameter.shape());
    }
    assertThat(layout.length()).isGreaterThanOrEqualTo(end).isLessThan(end + 16);
    assertThat(layout.length() % 16).isZero();
  }

  @Test
  void refusesANameTwice() {
    layout.declare("a.weight", Initializer.zeros(), 2);
    long length = layout.length();
    assertThatThrownBy(() -> layout.declare("a.weight", Initializer.zeros(), 3))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("parameter 'a.weight' is declared twice");
    assertThat(layout.length()).isEqualTo(length);
    assertThat(layout.parameters()).hasSize(1);
  }
}
