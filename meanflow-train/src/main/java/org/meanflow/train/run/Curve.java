package org.meanflow.train.run;

import java.lang.annotation.ElementType;
import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.lang.annotation.Target;

/** Has a component of {@link Metrics} drawn in the report. */
@Retention(RetentionPolicy.RUNTIME)
@Target(ElementType.RECORD_COMPONENT)
@interface Curve {
  /** What stands above the chart. */
  String value();

  /** Whether its axis is logarithmic where the values span a large factor. */
  boolean logarithmic() default false;
}
