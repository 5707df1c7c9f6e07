package org.meanflow.train.report;

import static org.assertj.core.api.Assertions.assertThat;

import java.time.Duration;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class NumbersTest {

  @ParameterizedTest
  @CsvSource({
    "0, 0",
    "-0.0, 0",
    "0.1, 0.1",
    "0.123456, 0.1235",
    "-2.5, -2.5",
    "9999, 9999",
    "10000, 10k",
    "123456, 123.5k",
    "1234567, 1.235M",
    "0.001, 0.001",
    "0.0002, 2e-4",
    "0.000123, 1.23e-4",
    "1e-12, 1e-12",
    "2e10, 2e+10",
    "NaN, –",
    "Infinity, –"
  })
  void fourDigits(double value, String text) {
    assertThat(Numbers.round(value)).isEqualTo(text);
  }

  @ParameterizedTest
  @CsvSource({
    "0, 0 s",
    "59, 59 s",
    "60, 1 min 0 s",
    "3599, 59 min 59 s",
    "3600, 1 h 0 min",
    "86399, 23 h 59 min",
    "180000, 2 d 2 h"
  })
  void theTwoLargestUnits(long seconds, String text) {
    assertThat(Numbers.time(Duration.ofSeconds(seconds))).isEqualTo(text);
  }

  @Test
  void groups() {
    assertThat(Numbers.group(1_234_567)).isEqualTo("1,234,567");
  }
}
