package org.meanflow.nn.engine.cpu;

import java.lang.foreign.ValueLayout;
import org.meanflow.nn.engine.Tensor;

/** Sums over rows, in an order that does not depend on who computes them. */
final class Reductions {
  /** Rows that one item sums. */
  private static final int ROWS = 128;

  private static final int ROW_SLOT = 1;
  private static final int SQUARES_SLOT = 8;

  private static final OutlinedLoop SQUARES =
      new OutlinedLoop(
          (x, rowBytes, rows, columns, to, _, _, _) ->
              Simd.ALL.set(
                  ValueLayout.JAVA_DOUBLE_UNALIGNED,
                  to,
                  Simd.squaresOfRows(x, rowBytes, rows, columns)));

  private final CpuEngine engine;
  private final Workers workers;

  Reductions(CpuEngine engine, Workers workers) {
    this.engine = engine;
    this.workers = workers;
  }

  /**
   * Σ x² over rows, in float64 of blocks of vectors.
   *
   * @param x address of the first row
   * @param rowBytes bytes between rows
   * @param rows how many
   * @param columns how many
   * @param scratch of the calling thread
   */
  static double squares(long x, long rowBytes, long rows, long columns, Scratch scratch) {
    long to = scratch.bytes(SQUARES_SLOT, Double.BYTES);
    SQUARES.run(x, rowBytes, rows, columns, to);
    return Simd.ALL.get(ValueLayout.JAVA_DOUBLE_UNALIGNED, to);
  }

  /** Σ x, in order. */
  static double sum(double[] x) {
    double sum = 0;
    for (double term : x) {
      sum += term;
    }
    return sum;
  }

  /**
   * y = Σ_rows x, or y += Σ_rows x.
   *
   * @param x {@code [rows, columns]}
   * @param y {@code columns} elements
   */
  void sumRows(CpuTensor x, CpuTensor y, boolean add) {
    int columns = Math.toIntExact(x.dim(1));
    int width = Simd.padded(columns);
    long rows = x.dim(0);
    int items = Math.toIntExact(Math.ceilDiv(rows, ROWS));
    try (Tensor partial = engine.allocate(items, width)) {
      CpuTensor sums = CpuTensor.of(partial);
      workers.run(
          items,
          (item, scratch) -> {
            long first = (long) item * ROWS;
            sumRows(
                x, first, Math.min(ROWS, rows - first), sums.address((long) item * width), scratch);
          });
      addUp(sums, items, columns, y, add);
    }
  }

  /** {@code sum}, padded columns, = Σ of {@code count} rows of x, one after the other. */
  void sumRows(CpuTensor x, long first, long count, long sum, Scratch scratch) {
    int columns = Math.toIntExact(x.dim(1));
    int width = Simd.padded(columns);
    Simd.clear(sum, width);
    for (long row = first; row < first + count; row++) {
      Simd.addTo(Simd.in(x, row * columns, columns, scratch, ROW_SLOT), sum, width);
    }
  }

  /** y = Σ of the rows of {@code partial}, {@code [items, padded columns]}, in order. */
  void addUp(CpuTensor partial, int items, int columns, CpuTensor y, boolean add) {
    int width = Simd.padded(columns);
    workers.run(
        1,
        (one, scratch) -> {
          long total = partial.address();
          for (int item = 1; item < items; item++) {
            Simd.addTo(partial.address((long) item * width), total, width);
          }
          if (add) {
            Simd.addTo(Simd.in(y, 0, columns, scratch, ROW_SLOT), total, width);
          }
          long to = Simd.out(y, 0, columns, scratch, ROW_SLOT);
          if (to != total) {
            Simd.copyRow(total, to, width);
          }
          Simd.done(y, 0, columns, to);
        });
  }
}
