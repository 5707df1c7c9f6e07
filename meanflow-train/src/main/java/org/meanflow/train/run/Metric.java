package org.meanflow.train.run;

import java.lang.reflect.Method;
import java.lang.reflect.RecordComponent;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;

/** A number among the components of {@link Metrics}; each is known here by being one. */
public final class Metric {
  private static final List<Metric> ALL =
      Arrays.stream(Metrics.class.getRecordComponents())
          .filter(component -> component.getType().isPrimitive())
          .map(Metric::new)
          .toList();

  private final String name;
  private final Optional<String> title;
  private final Method accessor;

  private Metric(RecordComponent component) {
    this.name = component.getName();
    this.title = Optional.ofNullable(component.getAnnotation(Curve.class)).map(Curve::value);
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
    return title;
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
