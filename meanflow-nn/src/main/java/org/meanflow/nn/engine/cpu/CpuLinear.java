package org.meanflow.nn.engine.cpu;

import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.LinearKernels;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.engine.cpu.PackedWeight.Panel;
import org.meanflow.nn.engine.cpu.PackedWeight.Use;
import org.meanflow.nn.engine.cpu.Product.Layout;
import org.meanflow.nn.engine.cpu.Product.Spec;

/**
 * Affine maps: rows in tiles that stay in a core's cache, times panels of the packed weight. Tiles
 * depend on the shapes alone, so the results don't depend on the number of threads.
 */
final class CpuLinear implements LinearKernels {
  /** Rows of a tile: fewer read the weight too often, more leave the second-level cache. */
  private static final long TILE_ROWS = 256;

  /** The same for wide rows of bfloat16. */
  private static final long WIDE_HALF_TILE_ROWS = 128;

  private static final long WIDE = 1024;
  private static final long TILE_MULTIPLE = 16;

  private static final long FEW_ROWS = 64;

  private static final int TILE_SLOT = 2;

  private final CpuEngine engine;
  private final Workers workers;
  private final Products products;
  private final Map<OuterProduct.Shape, OuterProduct> outerProducts = new HashMap<>();

  CpuLinear(CpuEngine engine, Workers workers, Products products) {
    this.engine = engine;
    this.workers = workers;
    this.products = products;
  }

  @Override
  public void linear(Tensor x, Tensor w, @Nullable Tensor b, long biasRows, Tensor y) {
    CpuTensor from = CpuTensor.of(x.matrix(w.dim(1)));
    CpuTensor to = CpuTensor.of(y.matrix(w.dim(0)));
    long rows = from.dim(0);
    long withBias = b == null ? 0 : biasRows;
    List<Panel> panels = panels(from, to, w, Use.FORWARD);
    long bias = b == null ? 0 : CpuTensor.of(b).address();
    // Two loops: values with bias, then tangents without.
    multiply(from, 0, withBias, panels, bias, to, false, w);
    multiply(from, withBias, rows, panels, 0, to, false, w);
  }

  private List<Panel> panels(CpuTensor from, CpuTensor to, Tensor w, Use use) {
    long rows = from.dim(0);
    return isFew(rows) && !from.half() && !to.half()
        ? Products.plain(CpuTensor.of(w), use)
        : products.packed(CpuTensor.of(w), use, tile(rows, w));
  }

  /** Whether a product reads its weight about once: then it is not worth packing it. */
  private static boolean isFew(long rows) {
    return rows <= FEW_ROWS;
  }

  /** Rows [first, last) of {@code to} = rows of {@code from} times the panels. */
  private void multiply(
      CpuTensor from,
      long first,
      long last,
      List<Panel> panels,
      long bias,
      CpuTensor to,
      boolean add,
      Tensor w) {
    if (first == last) {
      return;
    }
    long rows = last - first;
    long k = from.dim(1);
    long n = to.dim(1);
    long tile = tile(rows, w);
    int tiles = Math.toIntExact(Math.ceilDiv(rows, tile));
    boolean half = panels.getFirst().layout().half();
    boolean narrow = half && !from.half();
    Product[] whole = compile(Math.min(tile, rows), k, n, panels, to, bias != 0, add);
    Product[] rest =
        rows % tile == 0 || tiles == 1
            ? whole
            : compile(rows % tile, k, n, panels, to, bias != 0, add);
    // Few tiles are shared out by panels, too.
    int split = tiles >= 2 * workers.count() ? 1 : panels.size();
    workers.run(
        tiles * split,
        (item, scratch) -> {
          int t = item / split;
          long start = first + t * tile;
          long a = from.address(start * k);
          if (narrow) {
            int length = Math.toIntExact(Math.min(tile, last - start) * k);
            long staged = scratch.bytes(TILE_SLOT, tile * k * Short.BYTES);
            Simd.narrow(a, staged, length);
            a = staged;
          }
          Product[] compiled = t == tiles - 1 ? rest : whole;
          int firstPanel = split == 1 ? 0 : item % split;
          int lastPanel = split == 1 ? panels.size() : firstPanel + 1;
          for (int p = firstPanel; p < lastPanel; p++) {
            Panel panel = panels.get(p);
            compiled[p].run(
                scratch,
                a,
                panel.address(),
                bias == 0 ? 0 : bias + panel.from() * Float.BYTES,
                to.address(start * n + panel.from()));
          }
        });
  }

  private Product[] compile(
      long rows, long k, long n, List<Panel> panels, CpuTensor to, boolean bias, boolean add) {
    Layout a = Layout.rows(panels.getFirst().layout().half(), k);
    Layout c = Layout.rows(to.half(), n);
    Product[] compiled = new Product[panels.size()];
    for (int p = 0; p < compiled.length; p++) {
      Panel panel = panels.get(p);
      compiled[p] =
          products.product(new Spec(rows, k, panel.columns(), a, panel.layout(), c, bias, add));
    }
    return compiled;
  }

  private long tile(long rows, Tensor w) {
    boolean wide = Math.max(w.dim(0), w.dim(1)) > WIDE;
    long most = wide && products.half() ? WIDE_HALF_TILE_ROWS : TILE_ROWS;
    long tiles = Math.ceilDiv(rows, most);
    return Math.ceilDiv(Math.ceilDiv(rows, tiles), TILE_MULTIPLE) * TILE_MULTIPLE;
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
      List<Panel> panels = panels(g, to, w, Use.BACKWARD);
      multiply(g, 0, g.dim(0), panels, 0, to, gx.add(), w);
    }
    if (gw != null) {
      addOuterProducts(g, CpuTensor.of(x.matrix(w.dim(1))), gw);
    }
    if (gb != null) {
      engine.reductions().sumRows(g, CpuTensor.of(gb.target()), gb.add());
    }
  }

  /** W̄ = ȳᵀ x. */
  private void addOuterProducts(CpuTensor g, CpuTensor x, Cotangent gw) {
    boolean few = isFew(g.dim(0));
    boolean half = products.half() && (g.half() || x.half() || !few);
    boolean packed = OneDnn.available() && !few;
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
