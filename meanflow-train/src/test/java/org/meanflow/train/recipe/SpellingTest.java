package org.meanflow.train.recipe;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Test;

class SpellingTest {

  @Test
  void editsAreInsertionsDeletionsAndReplacements() {
    assertThat(Spelling.edits("kitten", "sitting")).isEqualTo(3);
    assertThat(Spelling.edits("", "abc")).isEqualTo(3);
    assertThat(Spelling.edits("abc", "")).isEqualTo(3);
    assertThat(Spelling.edits("same", "same")).isZero();
  }

  @Test
  void theNearestWordIsFound() {
    List<String> known = List.of("width", "depth", "patch", "heads", "p", "c");
    assertThat(Spelling.nearest("widht", known)).isEqualTo("width");
    assertThat(Spelling.nearest("Depth", known)).isEqualTo("depth");
    assertThat(Spelling.nearest("head", known)).isEqualTo("heads");
  }

  @Test
  void aWordFarFromAllIsNotGuessed() {
    assertThat(Spelling.nearest("learning_rate", List.of("rate", "beta1"))).isNull();
    assertThat(Spelling.nearest("x", List.of("p", "c"))).isNull();
  }
}
