package org.meanflow.train.report;

import java.util.List;
import java.util.stream.IntStream;
import org.meanflow.train.run.Metric;
import org.meanflow.train.run.Metrics;

/**
 * The records of a run in a bounded number of bins of neighbours, so that a report of a long run is
 * as small as that of a short one. While there are few records each has a bin of its own.
 *
 * @param bins the records of each bin, none empty, oldest first
 */
record Bins(List<List<Metrics>> bins) {

  /** How a metric varies within each bin; NaN where no value of the bin is a number. */
  record Band(double[] low, double[] median, double[] high) {}

  /** Distributes records to at most {@code most} bins, evenly. */
  static Bins of(List<Metrics> records, int most) {
    int count = Math.min(records.size(), most);
    return new Bins(
        IntStream.range(0, count)
            .mapToObj(i -> records.subList(start(records, count, i), start(records, count, i + 1)))
            .toList());
  }

  private static int start(List<Metrics> records, int count, int bin) {
    return (int) ((long) records.size() * bin / count);
  }

  int count() {
    return bins.size();
  }

  /** First step of each bin. */
  long[] first() {
    return bins.stream().mapToLong(bin -> bin.getFirst().step()).toArray();
  }

  /** Last step of each bin. */
  long[] last() {
    return bins.stream().mapToLong(bin -> bin.getLast().step()).toArray();
  }

  /** The step in the middle of each bin. */
  double[] middle() {
    return bins.stream()
        .mapToDouble(bin -> (bin.getFirst().step() + bin.getLast().step()) / 2.0)
        .toArray();
  }

  Band of(Metric metric) {
    Band band = new Band(new double[count()], new double[count()], new double[count()]);
    for (int i = 0; i < count(); i++) {
      double[] sorted =
          bins.get(i).stream().mapToDouble(metric::of).filter(Double::isFinite).sorted().toArray();
      int n = sorted.length;
      band.low[i] = n == 0 ? Double.NaN : sorted[0];
      band.median[i] = n == 0 ? Double.NaN : (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
      band.high[i] = n == 0 ? Double.NaN : sorted[n - 1];
    }
    return band;
  }

  /** The bins with a record that the guard had something to say about. */
  int[] guarded() {
    return IntStream.range(0, count())
        .filter(i -> bins.get(i).stream().anyMatch(each -> !each.guard().isEmpty()))
        .toArray();
  }

  /** Whether any bin has more than one record. */
  boolean gathered() {
    return bins.stream().anyMatch(bin -> bin.size() > 1);
  }
}
