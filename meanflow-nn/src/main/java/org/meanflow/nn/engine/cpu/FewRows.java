package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.all;
import static org.meanflow.nn.engine.cpu.Simd.get;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;

import jdk.incubator.vector.FloatVector;

/**
 * The backward pass of few float32 rows times a weight {@code [out, in]}. It takes as long as the
 * weight takes to be read, and its gradient to be written: so that is done once, where it lies, one
 * row after the other.
 */
final class FewRows {
  /** With more rows arithmetic takes longer than memory. */
  private static final long MOST = 32;

  /** Rows of a weight that one item reads or writes. */
  private static final long ITEM = 32;

  /** The same where items have sums of their own. */
  private static final long LONG_ITEM = 8 * ITEM;

  private static final OutlinedLoop ADD = new OutlinedLoop(FewRows::add);

  private final CpuEngine engine;
  private final Workers workers;

  FewRows(CpuEngine engine, Workers workers) {
    this.engine = engine;
    this.workers = workers;
  }

  /** Whether rows {@code [rows, out]} and {@code [rows, in]} are such ones. */
  static boolean fits(CpuTensor y, CpuTensor x) {
    return x.dim(0) <= MOST && !x.half() && !y.half() && x.dim(1) % (2L * LANES) == 0;
  }

  /** x̄ = ȳ w, or x̄ += ȳ w. */
  void backward(CpuTensor gy, CpuTensor w, CpuTensor gx, boolean add) {
    long rows = gx.dim(0);
    long in = gx.dim(1);
    long out = gy.dim(1);
    Pieces items = new Pieces(out, Math.min(out, LONG_ITEM));
    try (CpuTensor sums = CpuTensor.of(engine.allocate(items.count(), rows, in))) {
      workers.run(
          items.count(),
          (item, scratch) -> {
            long begin = scratch.beginProduct();
            long end = items.start(item) + items.size(items.isLast(item));
            long to = sums.address(item * rows * in);
            for (long o = items.start(item); o < end; o += ITEM) {
              boolean more = o > items.start(item);
              add(
                  gy.address(o),
                  out,
                  1,
                  w.address(o * in),
                  to,
                  rows,
                  Math.min(ITEM, end - o),
                  in,
                  more);
            }
            scratch.endProduct(begin);
          });
      workers.run(
          Math.toIntExact(rows),
          (row, scratch) -> {
            long begin = scratch.beginProduct();
            long total = sums.address(row * in);
            for (int item = 1; item < items.count(); item++) {
              Simd.addTo(sums.address((item * rows + row) * in), total, Math.toIntExact(in));
            }
            SumRows.write(total, 0, 0, gx.address(row * in), 0, false, add, 1, in);
            scratch.endProduct(begin);
          });
    }
  }

  /** w̄ = ȳᵀ x, or w̄ += ȳᵀ x; returns Σ w̄². */
  double outer(CpuTensor gy, CpuTensor x, CpuTensor gw, boolean add) {
    long in = x.dim(1);
    long out = gy.dim(1);
    Pieces items = new Pieces(out, Math.min(out, ITEM));
    double[] squares = new double[items.count()];
    workers.run(
        items.count(),
        (item, scratch) -> {
          long begin = scratch.beginProduct();
          long o = items.start(item);
          long count = items.size(items.isLast(item));
          long to = gw.address(o * in);
          add(gy.address(o), 1, out, x.address(), to, count, x.dim(0), in, add);
          scratch.endProduct(begin);
          squares[item] = Reductions.squares(to, in * Float.BYTES, count, in, scratch);
        });
    return Reductions.sum(squares);
  }

  /**
   * C = A·B, or C += A·B; rows of B and C follow each other.
   *
   * @param a address of A, {@code [rows, k]}
   * @param aRow floats between its rows
   * @param aColumn floats between its columns
   * @param b address of B, {@code [k, columns]}
   * @param c address of C
   * @param columns a multiple of two vectors
   */
  private static void add(
      long a,
      long aRow,
      long aColumn,
      long b,
      long c,
      long rows,
      long k,
      long columns,
      boolean add) {
    ADD.run(a, aRow, aColumn, b, c, rows, columns, add ? k : -k);
  }

  private static void add(
      long a, long aRow, long aColumn, long b, long c, long rows, long columns, long signedK) {
    long k = Math.abs(signedK);
    for (long row = 0; row < rows; row += 4) {
      long row1 = Math.min(row + 1, rows - 1); // beyond the end the last one, again
      long row2 = Math.min(row + 2, rows - 1);
      long row3 = Math.min(row + 3, rows - 1);
      for (long column = 0; column < columns; column += 2L * LANES) {
        long c0 = c + (row * columns + column) * Float.BYTES;
        long c1 = c + (row1 * columns + column) * Float.BYTES;
        long c2 = c + (row2 * columns + column) * Float.BYTES;
        long c3 = c + (row3 * columns + column) * Float.BYTES;
        FloatVector u0 = all(0);
        FloatVector v0 = u0;
        FloatVector u1 = u0;
        FloatVector v1 = u0;
        FloatVector u2 = u0;
        FloatVector v2 = u0;
        FloatVector u3 = u0;
        FloatVector v3 = u0;
        if (signedK > 0) {
          u0 = load(c0, 0);
          v0 = load(c0, LANES);
          u1 = load(c1, 0);
          v1 = load(c1, LANES);
          u2 = load(c2, 0);
          v2 = load(c2, LANES);
          u3 = load(c3, 0);
          v3 = load(c3, LANES);
        }
        for (long i = 0; i < k; i++) {
          long at = a + i * aColumn * Float.BYTES;
          FloatVector u = load(b + (i * columns + column) * Float.BYTES, 0);
          FloatVector v = load(b + (i * columns + column) * Float.BYTES, LANES);
          FloatVector f = all(get(at + row * aRow * Float.BYTES));
          u0 = u.fma(f, u0);
          v0 = v.fma(f, v0);
          f = all(get(at + row1 * aRow * Float.BYTES));
          u1 = u.fma(f, u1);
          v1 = v.fma(f, v1);
          f = all(get(at + row2 * aRow * Float.BYTES));
          u2 = u.fma(f, u2);
          v2 = v.fma(f, v2);
          f = all(get(at + row3 * aRow * Float.BYTES));
          u3 = u.fma(f, u3);
          v3 = v.fma(f, v3);
        }
        store(u0, c0, 0);
        store(v0, c0, LANES);
        store(u1, c1, 0);
        store(v1, c1, LANES);
        store(u2, c2, 0);
        store(v2, c2, LANES);
        store(u3, c3, 0);
        store(v3, c3, LANES);
      }
    }
  }
}
