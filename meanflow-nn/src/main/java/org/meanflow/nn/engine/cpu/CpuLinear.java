package org.meanflow.nn.engine.cpu;

import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.LinearKernels;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.engine.cpu.PackedWeight.Use;

/**
 * Affine maps: rows in tiles that stay in a core's cache, times panels of the packed weight. Tiles
 * depend on the shapes alone, so the results don't depend on the number of threads.
 */
final class CpuLinear implements LinearKernels {
  private static final long FEW_ROWS = 64;

  /** Up to so many columns are read by few pieces of a gradient: packing them does not pay. */
  private static final long NARROW = 256;

  private static final int TILE_SLOT = 2;

  private final CpuEngine engine;
  private final Workers workers;
  private final Products products;
  private final Reductions reductions;
  private final Map<OuterProduct.Shape, OuterProduct> outerProducts = new HashMap<>();

  private final Map<PackedOuterProduct.Shape, Optional<PackedOuterProduct>> packedProducts =
      new HashMap<>();

  CpuLinear(CpuEngine engine, Workers workers, Products products, Reductions reductions) {
    this.engine = engine;
    this.workers = workers;
    this.products = products;
    this.reductions = reductions;
  }

  @Override
  public void linear(Tensor x, Tensor w, @Nullable Tensor b, long biasRows, Tensor y) {
    CpuTensor from = CpuTensor.of(x.matrix(w.dim(1)));
    CpuTensor to = CpuTensor.of(y.matrix(w.dim(0)));
    long rows = from.dim(0);
    long withBias = b == null ? 0 : biasRows;
    Panels panels = panels(w, Use.FORWARD, rows, from.half() || to.half());
    long bias = b == null ? 0 : CpuTensor.of(b).address();
    // Two loops: values with bias, then tangents without.
    multiply(from, 0, withBias, panels, w, bias, to, false, null);
    multiply(from, withBias, rows, panels, w, 0, to, false, null);
  }

  /**
   * The weight as a factor.
   *
   * @param rows how many it is multiplied with
   * @param half whether one of the other tensors is bfloat16
   */
  Panels panels(Tensor w, Use use, long rows, boolean half) {
    // As bfloat16 even few rows read a packed weight faster, and when samples are drawn it stays
    // packed from batch to batch.
    return isFew(rows) && !half && !(use == Use.FORWARD && products.half())
        ? Products.plain(CpuTensor.of(w), use)
        : products.packed(CpuTensor.of(w), use, tiles(rows, w).size());
  }

  /** Whether a product reads its weight about once: then it is seldom worth packing it. */
  private static boolean isFew(long rows) {
    return rows <= FEW_ROWS;
  }

  Pieces tiles(long rows, Tensor w) {
    return TileProduct.tiles(
        rows, Math.max(w.dim(0), w.dim(1)), products.factor(w.dim(1), w.dim(0)));
  }

  TileProduct compile(Panels panels, Pieces tiles, boolean halfSource, TileProduct.Result result) {
    return new TileProduct(products, panels, tiles, halfSource, result);
  }

  /**
   * Rows [first, last) of {@code to} = rows of {@code from} times the panels.
   *
   * @param sums gets the sums over the rows of each tile of {@code from}; {@code null} for none
   */
  private void multiply(
      CpuTensor from,
      long first,
      long last,
      Panels panels,
      Tensor w,
      long bias,
      CpuTensor to,
      boolean add,
      @Nullable CpuTensor sums) {
    if (first == last) {
      return;
    }
    long n = to.dim(1);
    Pieces tiles = tiles(last - first, w);
    TileProduct product =
        compile(panels, tiles, from.half(), new TileProduct.Result(to.half(), n, bias != 0, add));
    // Few tiles are shared out by panels, too.
    boolean whole = tiles.count() >= 2 * workers.count();
    int split = whole ? 1 : panels.count();
    workers.run(
        tiles.count() * split,
        (item, scratch) -> {
          int tile = item / split;
          boolean isLast = tiles.isLast(tile);
          long start = first + tiles.start(tile);
          if (sums != null && item % split == 0) {
            reductions.sumRows(
                from, start, tiles.size(isLast), sums.address(tile * sums.dim(1)), scratch);
          }
          long a = product.factor(from, start, isLast, scratch, TILE_SLOT);
          long c = to.address(start * n);
          if (whole) {
            product.run(scratch, isLast, a, bias, c);
          } else {
            product.run(scratch, isLast, item % split, a, bias, c);
          }
        });
  }

  @Override
  public void linearBackward(
      Tensor x,
      Tensor w,
      Tensor gy,
      @Nullable Cotangent gx,
      @Nullable Cotangent gw,
      @Nullable Cotangent gb) {
    CpuTensor g = CpuTensor.of(gy.matrix(w.dim(0)));
    if (gx != null) {
      CpuTensor to = CpuTensor.of(gx.target().matrix(w.dim(1)));
      long rows = g.dim(0);
      Panels panels = panels(w, Use.BACKWARD, rows, g.half() || to.half());
      int tiles = tiles(rows, w).count();
      try (CpuTensor sums = CpuTensor.of(engine.allocate(tiles, Simd.padded((int) w.dim(0))))) {
        multiply(g, 0, rows, panels, w, 0, to, gx.add(), gb == null ? null : sums);
        if (gb != null) {
          reductions.addUp(
              sums, tiles, Math.toIntExact(g.dim(1)), CpuTensor.of(gb.target()), gb.add());
        }
      }
    } else if (gb != null) {
      reductions.sumRows(g, CpuTensor.of(gb.target()), gb.add());
    }
    if (gw != null) {
      addOuterProducts(g, CpuTensor.of(x.matrix(w.dim(1))), gw);
    }
  }

  /** W̄ = ȳᵀ x. */
  void addOuterProducts(CpuTensor g, CpuTensor x, Cotangent gw) {
    PackedOuterProduct packed =
        packedProducts
            .computeIfAbsent(
                new PackedOuterProduct.Shape(
                    g.dim(0), g.dim(1), x.dim(1), products.factor(g.dim(1), x.dim(1))),
                this::packedOuterProduct)
            .orElse(null);
    if (packed == null) {
      addPlainOuterProducts(g, x, gw);
      return;
    }
    try (CpuTensor memory =
        CpuTensor.of(engine.allocate(Math.ceilDiv(packed.packedBytes(), Float.BYTES)))) {
      packed.run(g, x, memory.address(), CpuTensor.of(gw.target()).address(), gw.add());
    }
  }

  private Optional<PackedOuterProduct> packedOuterProduct(PackedOuterProduct.Shape shape) {
    boolean pays =
        shape.factor() != Factor.FLOAT
            && !isFew(shape.rows())
            && Math.min(shape.out(), shape.in()) > NARROW;
    return pays ? PackedOuterProduct.of(workers, products, shape) : Optional.empty();
  }

  private void addPlainOuterProducts(CpuTensor g, CpuTensor x, Cotangent gw) {
    boolean few = isFew(g.dim(0));
    boolean half = products.half() && (g.half() || x.half() || !few);
    boolean packed = OneDnn.available() && !few && Math.min(g.dim(1), x.dim(1)) > NARROW;
    try (CpuTensor a = asFactor(g, half);
        CpuTensor b = packed ? CpuTensor.of(x.view(0, x.shape())) : asFactor(x, half)) {
      OuterProduct product =
          outerProducts.computeIfAbsent(
              new OuterProduct.Shape(g.dim(0), g.dim(1), x.dim(1), half, b.half(), packed),
              shape -> new OuterProduct(workers, products, shape));
      long bytes = packed ? product.packedBytes() : 0;
      try (CpuTensor memory = CpuTensor.of(engine.allocate(Math.ceilDiv(bytes, Float.BYTES)))) {
        product.run(
            a.address(),
            b.address(),
            memory.address(),
            CpuTensor.of(gw.target()).address(),
            gw.add());
      }
    }
  }

  /** The tensor in the type that products take; the caller closes it, which is free for a view. */
  private CpuTensor asFactor(CpuTensor x, boolean half) {
    if (x.half() == half) {
      return CpuTensor.of(x.view(0, x.shape()));
    }
    CpuTensor narrow = engine.allocateHalf(x.shape());
    long columns = x.dim(1);
    workers.run(
        Math.toIntExact(x.dim(0)),
        (row, scratch) ->
            Simd.narrow(
                x.address(row * columns), narrow.address(row * columns), Math.toIntExact(columns)));
    return narrow;
  }
}
