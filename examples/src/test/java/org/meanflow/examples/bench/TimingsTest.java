package org.meanflow.examples.bench;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

class TimingsTest {

  @Test
  void medianIsTheMiddleOrBetweenTheTwoMiddles() {
    assertThat(Timings.of(3, 1, 2).median()).isEqualTo(2);
    assertThat(Timings.of(4, 1, 100, 2).median()).isEqualTo(3);
  }

  @Test
  void minimumAndNineTenths() {
    Timings timings = Timings.of(IntStream.rangeClosed(1, 20).mapToDouble(i -> i).toArray());

    assertThat(timings.min()).isEqualTo(1);
    assertThat(timings.p90()).isEqualTo(18);
    assertThat(timings.count()).isEqualTo(20);
  }

  @Test
  void doesTheWorkAsOftenAsAsked() {
    AtomicInteger done = new AtomicInteger();

    Timings.warmUp(done::incrementAndGet, 4);
    Timings timings = Timings.measure(done::incrementAndGet, 3);

    assertThat(done).hasValue(7);
    assertThat(timings.count()).isEqualTo(3);
    assertThat(timings.min()).isPositive();
  }
}
