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
 * Both maps and the GELU for one tile of rows after the other, and for split factors chunk by chunk
 * of the hidden columns, so that what is in between stays in a core's cache. Of a forward pass h =
 * W₁ x + b₁ is kept; its GELU is computed again.
 */
final class CpuFeedForward implements FeedForwardKernels {
  private static final long WIDEST_OF_LARGE_TILES = 3072;
  private static final int X_SLOT = 2;
  private static final int H_SLOT = 3;
  private static final int A_SLOT = 4;

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

  /** Of an element of h. */
  private int bytes() {
    return half() ? Short.BYTES : Float.BYTES;
  }

  /**
   * The rows in tiles. Those whose h is not kept leave room in the cache for more rows, and weights
   * are read half as often.
   */
  private Pieces tiles(long rows, Weights w, boolean keep) {
    boolean large = !keep && w.w1().dim(0) <= WIDEST_OF_LARGE_TILES;
    return large ? TileProduct.tiles(rows, 0, Factor.FLOAT) : linear.tiles(rows, w.w1());
  }

  /** x W₁ᵀ for tiles, in the type of h. */
  private TileProduct first(Weights w, Pieces tiles, boolean halfSource, boolean bias) {
    Panels panels = linear.panels(w.w1(), Use.FORWARD, tiles.length(), half());
    return linear.compile(
        panels, tiles, halfSource, new TileProduct.Result(half(), w.w1().dim(0), bias, false));
  }

  /** a W₂ᵀ for tiles. */
  private TileProduct second(Weights w, Pieces tiles, CpuTensor y, boolean bias) {
    Panels panels = linear.panels(w.w2(), Use.FORWARD, tiles.length(), half());
    return linear.compile(
        panels, tiles, half(), new TileProduct.Result(y.half(), y.dim(1), bias, false));
  }

  /** Multiplies with the panels of {@code product} that a chunk of the next product's rows is. */
  private void multiply(
      TileProduct product,
      Pieces chunks,
      int chunk,
      Scratch scratch,
      boolean last,
      long a,
      long bias,
      long c) {
    Pieces panels = product.matrix().columns();
    long from = chunks.start(chunk);
    long to = from + chunks.size(chunks.isLast(chunk));
    for (int panel = 0; panel < panels.count(); panel++) {
      if (from <= panels.start(panel) && panels.start(panel) < to) {
        product.run(scratch, last, panel, a, bias, c);
      }
    }
  }

  @Override
  public Saved feedForward(Tensor x, Weights w, Tensor y, boolean keep) {
    CpuTensor from = CpuTensor.of(x.matrix(w.w1().dim(1)));
    CpuTensor to = CpuTensor.of(y.matrix(w.w2().dim(0)));
    Pieces tiles = tiles(from.dim(0), w, keep);
    long hidden = w.w1().dim(0);
    TileProduct first = first(w, tiles, from.half(), true);
    TileProduct second = second(w, tiles, to, true);
    long b1 = CpuTensor.of(w.b1()).address();
    long b2 = CpuTensor.of(w.b2()).address();
    int size = bytes();
    CpuTensor kept = keep ? allocateHidden(from.dim(0), w) : null;
    workers.run(
        tiles.count(),
        (tile, scratch) -> {
          boolean last = tiles.isLast(tile);
          long start = tiles.start(tile);
          long factor = first.factor(from, start, last, scratch, X_SLOT);
          long h =
              kept == null
                  ? scratch.bytes(H_SLOT, tiles.size(last) * hidden * size)
                  : kept.address(start * hidden);
          hiddenToY(
              first,
              second,
              scratch,
              last,
              factor,
              b1,
              h,
              keep,
              b2,
              to.address(start * to.dim(1)),
              (column, a, rowBytes, columns) ->
                  GeluRows.values(
                      half(),
                      h + column * size,
                      hidden * size,
                      a,
                      rowBytes,
                      tiles.size(last),
                      columns));
        });
    return kept == null ? Saved.NOTHING : new Hidden(kept);
  }

  /** Computes columns of a from those of h. */
  @FunctionalInterface
  private interface Activation {

    /**
     * Computes.
     *
     * @param column the first
     * @param a address of the result
     * @param rowBytes bytes between its rows
     * @param columns how many
     */
    void apply(long column, long a, long rowBytes, long columns);
  }

  /**
   * y = a W₂ᵀ with a of h = x W₁ᵀ, for one tile: chunk by chunk, so that h and a are read from a
   * cache.
   *
   * @param keep whether h is read later on; otherwise a may take its place
   */
  private void hiddenToY(
      TileProduct first,
      TileProduct second,
      Scratch scratch,
      boolean last,
      long x,
      long b1,
      long h,
      boolean keep,
      long b2,
      long y,
      Activation activation) {
    Pieces chunks = second.matrix().chunks();
    long a = keep || !second.isDirect() ? second.room(last, scratch, A_SLOT) : h;
    for (int chunk = 0; chunk < chunks.count(); chunk++) {
      multiply(first, chunks, chunk, scratch, last, x, b1, h);
      long from = chunks.start(chunk);
      long columns = chunks.size(chunks.isLast(chunk));
      second.fill(
          a, last, chunk, scratch, (to, rowBytes) -> activation.apply(from, to, rowBytes, columns));
      for (int panel = 0; panel < second.matrix().count(); panel++) {
        second.run(scratch, last, panel, chunk, a, b2, y);
      }
    }
  }

  @Override
  public void feedForwardTangent(Weights w, Saved saved, Tensor dx, Tensor dy) {
    CpuTensor from = CpuTensor.of(dx.matrix(w.w1().dim(1)));
    CpuTensor to = CpuTensor.of(dy.matrix(w.w2().dim(0)));
    CpuTensor h = ((Hidden) saved).h;
    Pieces tiles = linear.tiles(from.dim(0), w.w1());
    long hidden = w.w1().dim(0);
    TileProduct first = first(w, tiles, from.half(), false);
    TileProduct second = second(w, tiles, to, false);
    int size = bytes();
    workers.run(
        tiles.count(),
        (tile, scratch) -> {
          boolean last = tiles.isLast(tile);
          long start = tiles.start(tile);
          long factor = first.factor(from, start, last, scratch, X_SLOT);
          long d = scratch.bytes(H_SLOT, tiles.size(last) * hidden * size);
          long values = h.address(start * hidden);
          hiddenToY(
              first,
              second,
              scratch,
              last,
              factor,
              0,
              d,
              false,
              0,
              to.address(start * to.dim(1)),
              (column, a, rowBytes, columns) ->
                  GeluRows.slopes(
                      half(),
                      values + column * size,
                      d + column * size,
                      hidden * size,
                      a,
                      rowBytes,
                      tiles.size(last),
                      columns));
        });
  }

  @Override
  public void feedForwardBackward(
      Tensor x, Weights w, Saved saved, Tensor gy, @Nullable Cotangent gx, Gradients gradients) {
    CpuTensor from = CpuTensor.of(x.matrix(w.w1().dim(1)));
    CpuTensor g = CpuTensor.of(gy.matrix(w.w2().dim(0)));
    CpuTensor h = ((Hidden) saved).h;
    long rows = g.dim(0);
    long hidden = h.dim(1);
    Pieces tiles = linear.tiles(rows, w.w1());
    TileProduct toHidden =
        linear.compile(
            linear.panels(w.w2(), Use.BACKWARD, rows, half()),
            tiles,
            g.half(),
            new TileProduct.Result(half(), hidden, false, false));
    CpuTensor to = gx == null ? null : CpuTensor.of(gx.target().matrix(w.w1().dim(1)));
    TileProduct toX =
        gx == null || to == null
            ? null
            : linear.compile(
                linear.panels(w.w1(), Use.BACKWARD, rows, half()),
                tiles,
                half(),
                new TileProduct.Result(to.half(), to.dim(1), false, gx.add()));
    long rowBytes = hidden * bytes();
    Pieces chunks = toX == null ? new Pieces(hidden, hidden) : toX.matrix().chunks();
    try (CpuTensor a = allocateHidden(rows, w);
        CpuTensor gh = allocateHidden(rows, w);
        CpuTensor sums1 = allocateSums(tiles, hidden);
        CpuTensor sums2 = allocateSums(tiles, g.dim(1))) {
      workers.run(
          tiles.count(),
          (tile, scratch) -> {
            boolean last = tiles.isLast(tile);
            long start = tiles.start(tile);
            long count = tiles.size(last);
            if (gradients.b2() != null) {
              reductions.sumRows(g, start, count, sums2.address(tile * sums2.dim(1)), scratch);
            }
            long factor = toHidden.factor(g, start, last, scratch, X_SLOT);
            long gradient = toX == null ? 0 : toX.room(gh, start, last, scratch, A_SLOT);
            long target = to == null ? 0 : to.address(start * to.dim(1));
            for (int chunk = 0; chunk < chunks.count(); chunk++) {
              multiply(
                  toHidden, chunks, chunk, scratch, last, factor, 0, gh.address(start * hidden));
              long columns = chunks.size(chunks.isLast(chunk));
              long place = start * hidden + chunks.start(chunk);
              long part = h.address(place);
              long slopes = gh.address(place);
              GeluRows.values(half(), part, rowBytes, a.address(place), rowBytes, count, columns);
              GeluRows.slopes(half(), part, slopes, rowBytes, slopes, rowBytes, count, columns);
              if (toX != null) {
                toX.copy(gh, start, gradient, last, chunk);
                for (int panel = 0; panel < toX.matrix().count(); panel++) {
                  toX.run(scratch, last, panel, chunk, gradient, 0, target);
                }
              }
            }
            if (gradients.b1() != null) {
              reductions.sumRows(gh, start, count, sums1.address(tile * sums1.dim(1)), scratch);
            }
          });
      addUp(sums1, hidden, gradients.b1());
      addUp(sums2, g.dim(1), gradients.b2());
      if (gradients.w2() != null) {
        linear.addOuterProducts(g, a, gradients.w2());
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
