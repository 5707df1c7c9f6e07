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
  private final FewRows fewRows;
  private final Map<OuterProduct.Shape, OuterProduct> outerProducts = new HashMap<>();

  private final Map<PackedOuterProduct.Shape, Optional<PackedOuterProduct>> packedProducts =
      new HashMap<>();

  CpuLinear(CpuEngine engine, Workers workers, Products products, Reductions reductions) {
    this.engine = engine;
    this.workers = workers;
    this.products = products;
    this.reductions = reductions;
    fewRows = new FewRows(engine, workers);
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
    if (withBias > 0) {
      multiply(from, 0, tiles(withBias, w, Use.FORWARD), panels, bias, to, false, null);
    }
    if (rows > withBias) {
      Pieces tiles = tiles(rows - withBias, w, Use.FORWARD);
      multiply(from, withBias, tiles, panels, 0, to, false, null);
    }
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
        : products.packed(CpuTensor.of(w), use, tiles(rows, w, use).size());
  }

  /** Whether a product reads its weight about once: then it is seldom worth packing it. */
  private static boolean isFew(long rows) {
    return rows <= FEW_ROWS;
  }

  /** Rows in tiles, to be multiplied with a weight. */
  Pieces tiles(long rows, Tensor w, Use use) {
    boolean forward = use == Use.FORWARD;
    Factor factor = products.factor(w.dim(forward ? 1 : 0), w.dim(forward ? 0 : 1));
    return TileProduct.tiles(rows, factor);
  }

  /** The product of a tensor's rows. */
  TileProduct compile(
      Panels panels, Pieces tiles, boolean halfSource, TileProduct.@Nullable Result result) {
    boolean direct =
        panels.factor() == Factor.FLOAT || (panels.factor() == Factor.HALF && halfSource);
    return new TileProduct(products, panels, tiles, direct, result);
  }

  /** The product of rows that are filled in. */
  TileProduct compile(Panels panels, Pieces tiles, TileProduct.Result result) {
    return new TileProduct(products, panels, tiles, false, result);
  }

  /**
   * Rows of {@code to} = rows of {@code from} times the panels.
   *
   * @param first row
   * @param tiles the rows from there on
   * @param rowSums gets the sums over the rows of each tile of {@code from}; {@code null} for none
   */
  private void multiply(
      CpuTensor from,
      long first,
      Pieces tiles,
      Panels panels,
      long bias,
      CpuTensor to,
      boolean add,
      @Nullable CpuTensor rowSums) {
    TileProduct product =
        compile(
            panels,
            tiles,
            from.half(),
            new TileProduct.Result(to.half(), to.dim(1), bias != 0, add));
    // Few tiles are shared out by panels, too.
    int split = tiles.count() >= 2 * workers.count() ? 1 : panels.count();
    workers.run(
        tiles.count() * split,
        (item, scratch) -> {
          int tile = item / split;
          boolean isLast = tiles.isLast(tile);
          long start = first + tiles.start(tile);
          if (rowSums != null && item % split == 0) {
            reductions.sumRows(
                from, start, tiles.size(isLast), rowSums.address(tile * rowSums.dim(1)), scratch);
          }
          long a = product.factor(from, start, isLast, scratch, TILE_SLOT);
          for (int panel = item % split; panel < panels.count(); panel += split) {
            product.run(scratch, isLast, panel, a, bias, to.address(start * to.dim(1)));
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
    CpuTensor from = CpuTensor.of(x.matrix(w.dim(1)));
    if (FewRows.fits(g, from) && (gx == null || !CpuTensor.of(gx.target()).half())) {
      fewRowsBackward(from, CpuTensor.of(w), g, gx, gw, gb);
      return;
    }
    if (gx != null) {
      CpuTensor to = CpuTensor.of(gx.target().matrix(w.dim(1)));
      long rows = g.dim(0);
      Panels panels = panels(w, Use.BACKWARD, rows, g.half() || to.half());
      Pieces tiles = tiles(rows, w, Use.BACKWARD);
      try (CpuTensor sums =
          CpuTensor.of(engine.allocate(tiles.count(), Simd.padded((int) w.dim(0))))) {
        multiply(g, 0, tiles, panels, 0, to, gx.add(), gb == null ? null : sums);
        if (gb != null) {
          reductions.addUp(
              sums, tiles.count(), Math.toIntExact(g.dim(1)), CpuTensor.of(gb.target()), gb.add());
        }
      }
    } else if (gb != null) {
      reductions.sumRows(g, CpuTensor.of(gb.target()), gb.add());
    }
    if (gw != null) {
      addOuterProducts(g, from, gw);
    }
  }

  private void fewRowsBackward(
      CpuTensor x,
      CpuTensor w,
      CpuTensor g,
      @Nullable Cotangent gx,
      @Nullable Cotangent gw,
      @Nullable Cotangent gb) {
    if (gx != null) {
      fewRows.backward(g, w, CpuTensor.of(gx.target().matrix(w.dim(1))), gx.add());
    }
    if (gw != null) {
      gw.squares()
          .accept(fewRows.outer(g, x, CpuTensor.of(gw.target().matrix(w.dim(1))), gw.add()));
    }
    if (gb != null) {
      reductions.sumRows(g, CpuTensor.of(gb.target()), gb.add());
    }
  }

  /** W̄ = ȳᵀ x. */
  void addOuterProducts(CpuTensor g, CpuTensor x, Cotangent gw) {
    if (!addPackedOuterProducts(g, x, gw)) {
      addPlainOuterProducts(g, x, gw);
    }
  }

  private boolean addPackedOuterProducts(CpuTensor g, CpuTensor x, Cotangent gw) {
    PackedOuterProduct packed =
        packedProducts
            .computeIfAbsent(
                new PackedOuterProduct.Shape(
                    g.dim(0), g.dim(1), x.dim(1), products.factor(g.dim(1), x.dim(1))),
                this::packedOuterProduct)
            .orElse(null);
    if (packed == null) {
      return false;
    }
    CpuTensor w = CpuTensor.of(gw.target().matrix(x.dim(1)));
    try (CpuTensor memory =
        CpuTensor.of(engine.allocate(Math.ceilDiv(packed.packedBytes(), Float.BYTES)))) {
      gw.squares().accept(packed.run(g, x, memory.address(), w, gw.add()));
    }
    return true;
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
        double squares =
            product.run(
                a.address(),
                b.address(),
                memory.address(),
                CpuTensor.of(gw.target()).address(),
                gw.add());
        gw.squares().accept(squares);
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
