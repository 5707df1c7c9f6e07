package org.meanflow.nn.engine.cpu;

import java.util.List;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.FeedForwardKernels;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.engine.cpu.PackedWeight.Panel;
import org.meanflow.nn.engine.cpu.PackedWeight.Use;

/**
 * Both maps and the GELU for one tile of rows after the other, so that what is in between stays in
 * a core's cache. Of a forward pass h = W₁ x + b₁ is kept; its GELU is computed again.
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
    return large ? TileProduct.tiles(rows, 0, half()) : linear.tiles(rows, w.w1());
  }

  /** x W₁ᵀ for tiles, in the type of h. */
  private TileProduct first(Weights w, Pieces tiles, boolean bias) {
    List<Panel> panels = linear.panels(w.w1(), Use.FORWARD, tiles.length(), half());
    return linear.compile(panels, tiles, w.w1().dim(1), w.w1().dim(0), half(), bias, false);
  }

  /** a W₂ᵀ for tiles. */
  private TileProduct second(Weights w, Pieces tiles, boolean halfResult, boolean bias) {
    List<Panel> panels = linear.panels(w.w2(), Use.FORWARD, tiles.length(), half());
    return linear.compile(panels, tiles, w.w2().dim(1), w.w2().dim(0), halfResult, bias, false);
  }

  @Override
  public Saved feedForward(Tensor x, Weights w, Tensor y, boolean keep) {
    CpuTensor from = CpuTensor.of(x.matrix(w.w1().dim(1)));
    CpuTensor to = CpuTensor.of(y.matrix(w.w2().dim(0)));
    Pieces tiles = tiles(from.dim(0), w, keep);
    TileProduct first = first(w, tiles, true);
    TileProduct second = second(w, tiles, to.half(), true);
    long b1 = CpuTensor.of(w.b1()).address();
    long b2 = CpuTensor.of(w.b2()).address();
    long hidden = w.w1().dim(0);
    int size = bytes();
    CpuTensor kept = keep ? allocateHidden(from.dim(0), w) : null;
    workers.run(
        tiles.count(),
        (tile, scratch) -> {
          boolean last = tiles.isLast(tile);
          long start = tiles.start(tile);
          long rows = tiles.size(last);
          int length = Math.toIntExact(rows * hidden);
          long a = scratch.bytes(A_SLOT, (long) length * size);
          long h = kept == null ? a : kept.address(start * hidden);
          first.run(scratch, last, first.factor(from, start, rows, scratch, X_SLOT), b1, h);
          CpuElementwise.gelu(half(), h, a, length);
          second.run(scratch, last, a, b2, to.address(start * to.dim(1)));
        });
    return kept == null ? Saved.NOTHING : new Hidden(kept);
  }

  @Override
  public void feedForwardTangent(Weights w, Saved saved, Tensor dx, Tensor dy) {
    CpuTensor from = CpuTensor.of(dx.matrix(w.w1().dim(1)));
    CpuTensor to = CpuTensor.of(dy.matrix(w.w2().dim(0)));
    CpuTensor h = ((Hidden) saved).h;
    Pieces tiles = linear.tiles(from.dim(0), w.w1());
    TileProduct first = first(w, tiles, false);
    TileProduct second = second(w, tiles, to.half(), false);
    long hidden = w.w1().dim(0);
    workers.run(
        tiles.count(),
        (tile, scratch) -> {
          boolean last = tiles.isLast(tile);
          long start = tiles.start(tile);
          long rows = tiles.size(last);
          int length = Math.toIntExact(rows * hidden);
          long d = scratch.bytes(H_SLOT, (long) length * bytes());
          first.run(scratch, last, first.factor(from, start, rows, scratch, X_SLOT), 0, d);
          CpuElementwise.geluSlope(half(), h.address(start * hidden), d, d, length);
          second.run(scratch, last, d, 0, to.address(start * to.dim(1)));
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
            g.dim(1),
            hidden,
            half(),
            false,
            false);
    CpuTensor to = gx == null ? null : CpuTensor.of(gx.target().matrix(w.w1().dim(1)));
    TileProduct toX =
        gx == null || to == null
            ? null
            : linear.compile(
                linear.panels(w.w1(), Use.BACKWARD, rows, half()),
                tiles,
                hidden,
                to.dim(1),
                to.half(),
                false,
                gx.add());
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
            int length = Math.toIntExact(count * hidden);
            long place = start * hidden;
            if (gradients.b2() != null) {
              reductions.sumRows(g, start, count, sums2.address(tile * sums2.dim(1)), scratch);
            }
            long factor = toHidden.factor(g, start, count, scratch, X_SLOT);
            toHidden.run(scratch, last, factor, 0, gh.address(place));
            CpuElementwise.gelu(half(), h.address(place), a.address(place), length);
            CpuElementwise.geluSlope(
                half(), h.address(place), gh.address(place), gh.address(place), length);
            if (gradients.b1() != null) {
              reductions.sumRows(gh, start, count, sums1.address(tile * sums1.dim(1)), scratch);
            }
            if (toX != null && to != null) {
              toX.run(scratch, last, gh.address(place), 0, to.address(start * to.dim(1)));
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
