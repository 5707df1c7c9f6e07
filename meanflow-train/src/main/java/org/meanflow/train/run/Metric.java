package org.meanflow.train.run;

import java.lang.reflect.Method;
import java.lang.reflect.RecordComponent;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import org.jspecify.annotations.Nullable;

/** A number among the components of {@link Metrics}; each is known here by being one. */
public final class Metric {
  private static final List<Metric> ALL =
      Arrays.stream(Metrics.class.getRecordComponents())
          .filter(component -> component.getType().isPrimitive())
          .map(Metric::new)
          .toList();

  private final String name;
  private final @Nullable Curve curve;
  private final Method accessor;

  private Metric(RecordComponent component) {
    this.name = component.getName();
    this.curve = component.getAnnotation(Curve.class);
    this.accessor = component.getAccessor();
  }

  /** {@return all of them, in the order of the components} */
  public static List<Metric> all() {
    return ALL;
  }

  /** {@return the name of the component} */
  public String name() {
    return name;
  }

  /** {@return what stands above its chart; empty if it is not drawn} */
  public Optional<String> title() {
    return Optional.ofNullable(curve).map(Curve::value);
  }

  /** {@return whether its axis is logarithmic where the values span a large factor} */
  public boolean logarithmic() {
    return curve != null && curve.logarithmic();
  }

  /**
   * Its value.
   *
   * @param metrics a record
   * @return the component of the record
   */
  public double of(Metrics metrics) {
    try {
      return ((Number) accessor.invoke(metrics)).doubleValue();
    } catch (ReflectiveOperationException e) {
      throw new LinkageError(name, e);
    }
  }
}
