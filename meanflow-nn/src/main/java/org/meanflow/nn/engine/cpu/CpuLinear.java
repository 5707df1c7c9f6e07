package org.meanflow.nn.engine.cpu;

import java.lang.foreign.MemorySegment;
import java.util.List;
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
  /** A tile's longer side in floats: with its result it fills half of a 2 MB second-level cache. */
  private static final long TILE_FLOATS = 1 << 17;

  private static final long LARGEST_TILE = 512;
  private static final long SMALLEST_TILE = 64;
  private static final long TILE_MULTIPLE = 16;

  private static final long FEW_ROWS = 64;

  /** Rows that a gradient's product sums at a time. */
  private static final long GRADIENT_ROWS = 512;

  /** The same with bfloat16 factors: reading and writing the sums again costs relatively more. */
  private static final long HALF_GRADIENT_ROWS = 1024;

  /** Longer side of a gradient's piece. */
  private static final long GRADIENT_PIECE = 384;

  private static final int TILE_SLOT = 2;

  private final CpuEngine engine;
  private final Workers workers;
  private final Products products;

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

  private static long tile(long rows, Tensor w) {
    long most = Math.clamp(TILE_FLOATS / Math.max(w.dim(0), w.dim(1)), SMALLEST_TILE, LARGEST_TILE);
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

  /** W̄ = ȳᵀ x, in pieces of W̄, each a sum over blocks of rows. */
  private void addOuterProducts(CpuTensor g, CpuTensor x, Cotangent gw) {
    boolean half = products.half() && (g.half() || x.half() || !isFew(g.dim(0)));
    try (CpuTensor a = asFactor(g, half);
        CpuTensor b = asFactor(x, half)) {
      long rows = g.dim(0);
      long out = g.dim(1);
      long in = x.dim(1);
      CpuTensor target = CpuTensor.of(gw.target());
      boolean byColumns = in > out;
      // Columns of wide float32 rows are copied together: strided, the product takes twice as long.
      boolean copied = byColumns && !half;
      long longer = Math.max(in, out);
      long middle = Math.ceilDiv(longer / 2, TILE_MULTIPLE) * TILE_MULTIPLE;
      long piece = Math.min(longer, Math.clamp(middle, 1, GRADIENT_PIECE));
      int pieces = Math.toIntExact(Math.ceilDiv(longer, piece));
      long block = Math.min(rows, half ? HALF_GRADIENT_ROWS : GRADIENT_ROWS);
      int blocks = Math.toIntExact(Math.ceilDiv(rows, block));
      // By [last piece or not][last block or not][added or not].
      Product[][][] compiled = new Product[2][2][2];
      for (int lastPiece = 0; lastPiece < 2; lastPiece++) {
        long length = lastPiece == 0 ? piece : longer - (pieces - 1) * piece;
        for (int lastBlock = 0; lastBlock < 2; lastBlock++) {
          long k = lastBlock == 0 ? block : rows - (blocks - 1) * block;
          for (int add = 0; add < 2; add++) {
            compiled[lastPiece][lastBlock][add] =
                products.product(
                    new Spec(
                        byColumns ? out : length,
                        k,
                        byColumns ? length : in,
                        Layout.transposed(a.half(), out),
                        Layout.rows(half, copied ? length : in),
                        Layout.rows(false, in),
                        false,
                        add == 1));
          }
        }
      }
      workers.run(
          pieces,
          (item, scratch) -> {
            long start = item * piece;
            for (int r = 0; r < blocks; r++) {
              Product product =
                  compiled[item == pieces - 1 ? 1 : 0][r == blocks - 1 ? 1 : 0][
                      r > 0 || gw.add() ? 1 : 0];
              long row = r * block;
              long right = b.address(row * in + (byColumns ? start : 0));
              if (copied) {
                long columns = Math.min(piece, longer - start);
                long last = Math.min(rows, row + block);
                right = copyColumns(right, in, last - row, columns, scratch);
              }
              product.run(
                  scratch,
                  a.address(row * out + (byColumns ? 0 : start)),
                  right,
                  0,
                  target.address(byColumns ? start : start * in));
            }
          });
    }
  }

  private static long copyColumns(
      long from, long stride, long rows, long columns, Scratch scratch) {
    long to = scratch.floats(TILE_SLOT, rows * columns);
    for (long row = 0; row < rows; row++) {
      MemorySegment.copy(
          Simd.ALL,
          from + row * stride * Float.BYTES,
          Simd.ALL,
          to + row * columns * Float.BYTES,
          columns * Float.BYTES);
    }
    return to;
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
