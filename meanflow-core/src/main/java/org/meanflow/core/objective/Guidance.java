package org.meanflow.core.objective;

import java.util.Arrays;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import org.meanflow.core.field.AverageVelocity;
import org.meanflow.core.random.RandomStream;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/**
 * Classifier-free guidance built into the target (arXiv 2505.13447, section 4.2):
 *
 * <pre>{@code
 * ṽ = ω v + (1 − ω − κ) u(z, t, t | ∅) + κ u(z, t, t | c)     where from ≤ t ≤ to
 * ṽ = v                                                       elsewhere
 * }</pre>
 *
 * <p>The network then learns the guided field itself, and sampling still takes one evaluation. The
 * effective guidance scale is ω/(1 − κ); κ = 0 is eq. 19.
 *
 * @param omega ω, weight of the conditional velocity, finite and &gt; 0
 * @param kappa κ, weight of the class-conditional field, in [0, 1)
 * @param from first guided time, in [0, 1]
 * @param to last guided time, in [from, 1]
 * @param dropProbability probability with which a sample loses its label in training, in [0, 1]
 * @param dropped what samples without their label regress to
 */
public record Guidance(
    double omega,
    double kappa,
    double from,
    double to,
    double dropProbability,
    DroppedTarget dropped) {

  /** Below this, 1 − ω − κ is rounding: 1 − 0.7 − 0.3 is 6e-17 in float64. */
  private static final double NEGLIGIBLE = 1e-12;

  /** Refuses values outside the ranges of the parameters. */
  public Guidance {
    if (!(omega > 0 && Double.isFinite(omega))) {
      throw new IllegalArgumentException("omega must be finite and > 0, got " + omega);
    }
    if (!(kappa >= 0 && kappa < 1)) {
      throw new IllegalArgumentException("kappa must be in [0, 1), got " + kappa);
    }
    if (!(from >= 0 && from <= 1)) {
      throw new IllegalArgumentException("from must be in [0, 1], got " + from);
    }
    if (!(to >= from && to <= 1)) {
      throw new IllegalArgumentException("to must be in [from, 1], got " + to);
    }
    if (!(dropProbability >= 0 && dropProbability <= 1)) {
      throw new IllegalArgumentException(
          "dropProbability must be in [0, 1], got " + dropProbability);
    }
  }

  /**
   * No guidance and no dropped labels: ṽ = v.
   *
   * @return ω = 1, κ = 0
   */
  public static Guidance none() {
    return new Guidance(1, 0, 0, 1, 0, DroppedTarget.VELOCITY);
  }

  /**
   * Whether ṽ can differ from v.
   *
   * @return false exactly if ω = 1 and κ = 0
   */
  public boolean active() {
    return omega != 1 || kappa != 0;
  }

  /**
   * Draws which samples of a batch lose their label.
   *
   * @param batch number of samples
   * @param random where the randomness comes from
   * @return true for those that lose it
   */
  public boolean[] drop(int batch, RandomStream random) {
    boolean[] drop = new boolean[batch];
    for (int i = 0; i < batch; i++) {
      drop[i] = random.nextUniform() < dropProbability;
    }
    return drop;
  }

  /**
   * The labels that the network sees.
   *
   * @param labels class of each sample, or {@code null} if no sample has one; not changed
   * @param dropped which samples lose theirs
   * @return a new array with {@link AverageVelocity#NO_LABEL} where dropped; {@code null} for
   *     {@code null}
   */
  public int @Nullable [] effectiveLabels(int @Nullable [] labels, boolean[] dropped) {
    if (labels == null) {
      return null;
    }
    int[] effective = labels.clone();
    for (int i = 0; i < effective.length; i++) {
      if (dropped[i]) {
        effective[i] = AverageVelocity.NO_LABEL;
      }
    }
    return effective;
  }

  /**
   * The guided velocity ṽ. Asks the field only about samples whose ṽ differs from v, and only for
   * the terms whose weight is not zero; for both terms in one stacked batch.
   *
   * @param field the field being trained
   * @param z points, shape {@code [batch, ...]}; not changed
   * @param t times, one for each sample
   * @param v conditional velocities, shape and data type of {@code z}; not changed
   * @param labels class of each sample before any was dropped, or {@code null} if no sample has
   *     one; then u(· | c) is u(· | ∅)
   * @param dropped which samples lose their label
   * @return ṽ, shape and data type of {@code v}; {@code v} itself if no sample is guided
   * @throws IllegalArgumentException if shapes, data types or lengths do not fit
   */
  public INDArray velocity(
      AverageVelocity field,
      INDArray z,
      double[] t,
      INDArray v,
      int @Nullable [] labels,
      boolean[] dropped) {
    Rows.requireSame("v", v, "z", z);
    Rows.requireOneEach("t", t.length, z);
    Rows.requireOneEach("dropped", dropped.length, z);
    if (labels != null) {
      Rows.requireOneEach("labels", labels.length, z);
    }
    boolean weightless = labels == null && omega == 1; // κ and −κ then weigh the same field
    int[] rows =
        active() && !weightless
            ? IntStream.range(0, t.length).filter(i -> guides(t[i], dropped[i])).toArray()
            : new int[0];
    if (rows.length == 0) {
      return v;
    }
    double[] times = Arrays.stream(rows).mapToDouble(i -> t[i]).toArray();
    INDArray correction = correction(field, Rows.take(z, rows), times, labels, rows);
    INDArray guided = Rows.take(v, rows).mul(omega).addi(correction);
    return rows.length == t.length ? guided : replaced(v, rows, guided);
  }

  private boolean guides(double t, boolean isDropped) {
    return t >= from && t <= to && !(isDropped && dropped == DroppedTarget.VELOCITY);
  }

  /** (1 − ω − κ) u(z, t, t | ∅) + κ u(z, t, t | c). */
  private INDArray correction(
      AverageVelocity field, INDArray z, double[] t, int @Nullable [] labels, int[] rows) {
    if (labels == null) {
      return field.v(z, t, null).mul(1 - omega);
    }
    double unconditional = 1 - omega - kappa;
    int[] classes = Arrays.stream(rows).map(i -> labels[i]).toArray();
    int[] none = new int[rows.length];
    Arrays.fill(none, AverageVelocity.NO_LABEL);
    if (kappa == 0) {
      return field.v(z, t, none).mul(unconditional);
    }
    if (Math.abs(unconditional) < NEGLIGIBLE) {
      return field.v(z, t, classes).mul(kappa);
    }
    int count = rows.length;
    INDArray both = field.v(Nd4j.concat(0, z, z), concat(t, t), concat(none, classes));
    INDArray conditional = Rows.take(both, IntStream.range(count, 2 * count).toArray());
    return conditional.mul(kappa).addi(Rows.first(both, count).mul(unconditional));
  }

  private static INDArray replaced(INDArray v, int[] rows, INDArray guided) {
    INDArray result = v.dup('c');
    INDArray to = Rows.matrix(result);
    INDArray from = Rows.matrix(guided);
    for (int i = 0; i < rows.length; i++) {
      to.getRow(rows[i]).assign(from.getRow(i));
    }
    return result;
  }

  private static double[] concat(double[] first, double[] second) {
    double[] both = Arrays.copyOf(first, first.length + second.length);
    System.arraycopy(second, 0, both, first.length, second.length);
    return both;
  }

  private static int[] concat(int[] first, int[] second) {
    int[] both = Arrays.copyOf(first, first.length + second.length);
    System.arraycopy(second, 0, both, first.length, second.length);
    return both;
  }
}
