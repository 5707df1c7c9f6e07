package org.meanflow.nn.layer;

import org.jspecify.annotations.Nullable;
import org.meanflow.core.field.AverageVelocity;
import org.meanflow.nn.autodiff.Dual;
import org.meanflow.nn.autodiff.Initializer;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterLayout;
import org.meanflow.nn.autodiff.Tape;
import org.meanflow.nn.primitive.Embedding;

/** Embeds a class label; the last row of its table stands for no label, ∅. */
public final class LabelEmbedder {
  private final String name;
  private final int classes;
  private final Parameter table;

  /**
   * Declares the parameter {@code NAME.embedding.weight}, {@code [classes + 1, width]}.
   *
   * @param layout where the parameter is declared
   * @param name prefix of its name
   * @param classes number of classes, ≥ 1
   * @param width extent of an embedding
   */
  public LabelEmbedder(ParameterLayout layout, String name, int classes, int width) {
    this.name = name;
    this.classes = classes;
    this.table =
        layout.declare(name + ".embedding.weight", Initializer.normal(0.02), classes + 1L, width);
  }

  /**
   * Embeds one label for each sample.
   *
   * @param tape computes, and holds the parameters
   * @param labels classes in [0, classes], where the last, like {@link AverageVelocity#NO_LABEL},
   *     means none; {@code null} if no sample has one
   * @param batch number of samples
   * @return the embeddings, {@code [batch, width]}, without tangent
   * @throws IllegalArgumentException if a label is out of range
   */
  public Dual forward(Tape tape, int @Nullable [] labels, long batch) {
    int[] rows = new int[Math.toIntExact(batch)];
    for (int i = 0; i < rows.length; i++) {
      int label = labels == null ? AverageVelocity.NO_LABEL : labels[i];
      if (label < AverageVelocity.NO_LABEL || label > classes) {
        throw new IllegalArgumentException(
            "label must be a class in [0, %d) or %d for none, got %d in sample %d"
                .formatted(classes, AverageVelocity.NO_LABEL, label, i));
      }
      rows[i] = label == AverageVelocity.NO_LABEL ? classes : label;
    }
    return tape.scope(name, () -> tape.apply(new Embedding(rows), tape.parameter(table)));
  }
}
