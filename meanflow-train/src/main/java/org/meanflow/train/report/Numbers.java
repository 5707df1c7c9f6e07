package org.meanflow.train.report;

import java.math.BigDecimal;
import java.math.MathContext;
import java.time.Duration;
import java.util.Locale;

/** Numbers as a person reads them. */
final class Numbers {
  private static final MathContext DIGITS = new MathContext(4);

  private Numbers() {}

  /** Four significant digits: 0.1234, 1500, 12k, 2e-5. */
  static String round(double value) {
    if (!Double.isFinite(value)) {
      return "–";
    }
    double size = Math.abs(value);
    if (size >= 1e10 || (size > 0 && size < 1e-3)) {
      return String.format(Locale.ROOT, "%.2e", value).replaceFirst("\\.?0*e([+-])0?", "e$1");
    }
    if (size >= 1e6) {
      return plain(value / 1e6) + "M";
    }
    return size >= 1e4 ? plain(value / 1e3) + "k" : plain(value);
  }

  private static String plain(double value) {
    BigDecimal rounded = new BigDecimal(value).round(DIGITS);
    return rounded.signum() == 0 ? "0" : rounded.stripTrailingZeros().toPlainString();
  }

  /** Digits in groups of three. */
  static String group(long value) {
    return String.format(Locale.ROOT, "%,d", value);
  }

  /** The two largest units: 2 d 3 h, 3 h 5 min, 4 min 7 s, 8 s. */
  static String time(Duration time) {
    if (time.toDays() > 0) {
      return time.toDays() + " d " + time.toHoursPart() + " h";
    }
    if (time.toHours() > 0) {
      return time.toHours() + " h " + time.toMinutesPart() + " min";
    }
    return time.toMinutes() > 0
        ? time.toMinutes() + " min " + time.toSecondsPart() + " s"
        : time.toSeconds() + " s";
  }
}
