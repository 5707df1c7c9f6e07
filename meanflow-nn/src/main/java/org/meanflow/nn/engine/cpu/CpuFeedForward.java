package org.meanflow.nn.engine.cpu;

import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.FeedForwardKernels;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.engine.cpu.PackedWeight.Use;

/**
 * Both maps and the GELU for one tile of rows after the other, and panel by panel of the hidden
 * columns, so that what is in between stays in a core's cache. Of a forward pass h = W₁ x + b₁ is
 * kept; a backward pass computes its GELU again, together with the slope, and puts it in its place.
 */
final class CpuFeedForward implements FeedForwardKernels {
  private static final int X_SLOT = 2;
  private static final int A_SLOT = 3;
  private static final int Y_SLOT = 4;
  private static final int H_SLOT = 6;

  private final CpuEngine engine;
  private final Workers workers;
  private final CpuLinear linear;
  private final Reductions reductions;

  CpuFeedForward(CpuEngine engine, Workers workers, CpuLinear linear, Reductions reductions) {
    this.engine = engine;
    this.workers = workers;
    this.linear = linear;
    this.reductions = reductions;
  }

  /** h, {@code [rows, hidden]}. */
  private record Hidden(CpuTensor h) implements Saved {
    @Override
    public void close() {
      h.close();
    }
  }

  private CpuTensor allocateHidden(long rows, Weights w) {
    return CpuTensor.of(engine.allocate(Storage.COMPACT, rows, w.w1().dim(0)));
  }

  private boolean half() {
    return engine.precision() == Precision.BF16;
  }

  /** Works on a strip of rows of a panel. */
  @FunctionalInterface
  private interface Activation {

    /**
     * Computes rows of the second product's factor, in the place of the first product's result.
     *
     * @param h address of the first row
     * @param row of the tile, the first
     * @param column the first
     * @param rows how many
     * @param columns how many
     */
    void apply(long h, long row, long column, long rows, long columns);
  }

  /**
   * Two products, one after the other, for tiles of rows: the result of the first, panel by panel,
   * becomes the factor of the second by way of an activation. In between are bfloat16 numbers with
   * the bias, or float32 sums without.
   */
  private final class Chain {
    private final TileProduct first;
    private final TileProduct second;
    private final Pieces tiles;

    /**
     * Compiles.
     *
     * @param w1 panels of the first matrix
     * @param tiles the rows
     * @param from rows that are multiplied with it
     * @param bias whether a row is added to the first result
     * @param w2 panels of the second matrix
     * @param result of the second
     */
    Chain(
        Panels w1,
        Pieces tiles,
        CpuTensor from,
        boolean bias,
        Panels w2,
        TileProduct.Result result) {
      this.tiles = tiles;
      TileProduct.Result hidden =
          half() ? new TileProduct.Result(true, TileProduct.stride(w1), bias, false) : null;
      first = linear.compile(w1, tiles, from.half(), hidden);
      second = linear.compile(w2, tiles, result);
    }

    /** Bytes between the rows that the activation gets. */
    long rowBytes() {
      return half() ? first.resultRowBytes() : first.sumsRowBytes();
    }

    private long hidden(Scratch scratch, boolean last, int panel, long x, long bias) {
      if (!half()) {
        return first.sums(scratch, last, panel, x);
      }
      long h = scratch.bytes(H_SLOT, tiles.size() * rowBytes());
      first.run(
          scratch, last, panel, x, bias, h - first.matrix().columns().start(panel) * Short.BYTES);
      return h;
    }

    /**
     * Computes a tile.
     *
     * @param tile which
     * @param scratch of the calling thread
     * @param x rows that are multiplied, all tiles
     * @param b1 address of the first bias, used for bfloat16; 0 without one
     * @param b2 address of the second bias; 0 without one
     * @param to address of the second result, the tile's first row
     * @param activation in between
     */
    void run(
        int tile, Scratch scratch, CpuTensor x, long b1, long b2, long to, Activation activation) {
      boolean last = tiles.isLast(tile);
      long rows = tiles.size(last);
      Pieces panels = first.matrix().columns();
      Pieces chunks = second.matrix().chunks();
      int targets = second.matrix().count();
      long factor = first.factor(x, tiles.start(tile), last, scratch, X_SLOT);
      long a = second.chunkRoom(scratch, A_SLOT);
      long y = second.isSummed() ? scratch.bytes(Y_SLOT, targets * second.sumsBytes()) : 0;
      for (int panel = 0; panel < panels.count(); panel++) {
        long h = hidden(scratch, last, panel, factor, b1);
        long column = panels.start(panel);
        long columns = panels.size(panels.isLast(panel));
        int chunk = chunks.at(column);
        long inChunk = column - chunks.start(chunk);
        for (long row = 0; row < rows; row += SumRows.STRIP) {
          long strip = Math.min(SumRows.STRIP, rows - row);
          long from = h + row * rowBytes();
          activation.apply(from, row, column, strip, columns);
          long begin = scratch.beginProduct();
          second.fill(a, last, row, inChunk, from, rowBytes(), strip, columns);
          scratch.endProduct(begin);
        }
        if (inChunk + columns == chunks.size(chunks.isLast(chunk))) {
          for (int target = 0; target < targets; target++) {
            if (second.isSummed()) {
              second.run(scratch, last, target, chunk, a, y + target * second.sumsBytes());
            } else {
              second.run(scratch, last, target, a, b2, to);
            }
          }
        }
      }
      for (int target = 0; target < targets && second.isSummed(); target++) {
        second.write(scratch, y + target * second.sumsBytes(), last, target, b2, to);
      }
    }
  }

  private Chain forward(Weights w, CpuTensor x, boolean bias, CpuTensor y) {
    long rows = x.dim(0);
    return new Chain(
        linear.panels(w.w1(), Use.FORWARD, rows, half()),
        linear.tiles(rows, w.w1(), Use.FORWARD),
        x,
        bias,
        linear.panels(w.w2(), Use.FORWARD, rows, half()),
        new TileProduct.Result(y.half(), y.dim(1), bias, false));
  }

  @Override
  public Saved feedForward(Tensor x, Weights w, Tensor y, boolean keep) {
    CpuTensor from = CpuTensor.of(x.matrix(w.w1().dim(1)));
    CpuTensor to = CpuTensor.of(y.matrix(w.w2().dim(0)));
    Chain chain = forward(w, from, true, to);
    Pieces tiles = chain.tiles;
    CpuTensor b1 = CpuTensor.of(w.b1());
    long b2 = CpuTensor.of(w.b2()).address();
    CpuTensor kept = keep ? allocateHidden(from.dim(0), w) : null;
    long rowBytes = chain.rowBytes();
    long keptBytes = kept == null ? 0 : rowBytes(kept);
    workers.run(
        tiles.count(),
        (tile, scratch) -> {
          long start = tiles.start(tile);
          chain.run(
              tile,
              scratch,
              from,
              b1.address(),
              b2,
              to.address(start * to.dim(1)),
              (h, row, column, rows, columns) -> {
                long place = kept == null ? 0 : address(kept, start + row, column);
                if (half()) {
                  GeluRows.kept(h, rowBytes, place, keptBytes, rows, columns);
                } else {
                  GeluRows.biased(h, rowBytes, b1.address(column), place, keptBytes, rows, columns);
                }
              });
        });
    return kept == null ? Saved.NOTHING : new Hidden(kept);
  }

  @Override
  public void feedForwardTangent(Weights w, Saved saved, Tensor dx, Tensor dy) {
    CpuTensor from = CpuTensor.of(dx.matrix(w.w1().dim(1)));
    CpuTensor to = CpuTensor.of(dy.matrix(w.w2().dim(0)));
    CpuTensor h = ((Hidden) saved).h;
    Chain chain = forward(w, from, false, to);
    Pieces tiles = chain.tiles;
    workers.run(
        tiles.count(),
        (tile, scratch) -> {
          long start = tiles.start(tile);
          chain.run(
              tile,
              scratch,
              from,
              0,
              0,
              to.address(start * to.dim(1)),
              (d, row, column, rows, columns) ->
                  GeluRows.slopes(
                      half(),
                      address(h, start + row, column),
                      rowBytes(h),
                      d,
                      chain.rowBytes(),
                      rows,
                      columns));
        });
  }

  private static long address(CpuTensor h, long row, long column) {
    return h.address(row * h.dim(1) + column);
  }

  private static long rowBytes(CpuTensor h) {
    return h.dim(1) * h.elementBytes();
  }

  @Override
  public void feedForwardBackward(
      Tensor x, Weights w, Saved saved, Tensor gy, @Nullable Cotangent gx, Gradients gradients) {
    CpuTensor from = CpuTensor.of(x.matrix(w.w1().dim(1)));
    CpuTensor g = CpuTensor.of(gy.matrix(w.w2().dim(0)));
    CpuTensor h = ((Hidden) saved).h;
    long rows = g.dim(0);
    long in = w.w1().dim(1);
    Pieces tiles = linear.tiles(rows, w.w2(), Use.BACKWARD);
    try (CpuTensor gh = allocateHidden(rows, w);
        CpuTensor to =
            CpuTensor.of(
                gx == null
                    ? engine.allocate(Storage.COMPACT, rows, in)
                    : gx.target().view(0, rows, in));
        CpuTensor sums1 = allocateSums(tiles, h.dim(1));
        CpuTensor sums2 = allocateSums(tiles, g.dim(1))) {
      Chain chain =
          new Chain(
              linear.panels(w.w2(), Use.BACKWARD, rows, half()),
              tiles,
              g,
              false,
              linear.panels(w.w1(), Use.BACKWARD, rows, half()),
              new TileProduct.Result(to.half(), in, false, gx != null && gx.add()));
      long rowBytes = chain.rowBytes();
      FactorPacking copies = FactorPacking.copies(half());
      workers.run(
          tiles.count(),
          (tile, scratch) -> {
            long start = tiles.start(tile);
            if (gradients.b2() != null) {
              long count = tiles.size(tiles.isLast(tile));
              reductions.sumRows(g, start, count, sums2.address(tile * sums2.dim(1)), scratch);
            }
            long ofB1 = sums1.address(tile * sums1.dim(1));
            Simd.clear(ofB1, Math.toIntExact(sums1.dim(1)));
            chain.run(
                tile,
                scratch,
                g,
                0,
                0,
                to.address(start * in),
                (d, row, column, count, columns) -> {
                  long place = start + row;
                  GeluRows.backward(
                      half(), address(h, place, column), rowBytes(h), d, rowBytes, count, columns);
                  copies.rows(
                      d, rowBytes, address(gh, place, column), rowBytes(gh), 0, count, columns);
                  if (gradients.b1() != null) {
                    long sums = ofB1 + column * Float.BYTES;
                    SumRows.addUp(half(), d, rowBytes, count, columns, sums);
                  }
                });
          });
      addUp(sums1, h.dim(1), gradients.b1());
      addUp(sums2, g.dim(1), gradients.b2());
      if (gradients.w2() != null) {
        linear.addOuterProducts(g, h, gradients.w2()); // W̄₂ = ȳᵀ GELU(h)
      }
      if (gradients.w1() != null) {
        linear.addOuterProducts(gh, from, gradients.w1());
      }
    }
  }

  private CpuTensor allocateSums(Pieces tiles, long columns) {
    return CpuTensor.of(engine.allocate(tiles.count(), Simd.padded(Math.toIntExact(columns))));
  }

  private void addUp(CpuTensor sums, long columns, @Nullable Cotangent to) {
    if (to != null) {
      int items = Math.toIntExact(sums.dim(0));
      reductions.addUp(sums, items, Math.toIntExact(columns), CpuTensor.of(to.target()), to.add());
    }
  }
}
