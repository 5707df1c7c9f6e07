package org.meanflow.nn.engine.cpu;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.meanflow.nn.engine.cpu.PackedWeight.Use;
import org.meanflow.nn.engine.cpu.Panels.Chunk;
import org.meanflow.nn.engine.cpu.Product.Layout;
import org.meanflow.nn.engine.cpu.Product.Spec;

/** Compiled products and packed weights of one engine. */
final class Products {
  /** Columns of a plain panel: several panels, to be shared out, of no more columns than this. */
  private static final long PLAIN_PANEL = 192;

  private static final long PLAIN_PANELS = 4;
  private static final long PANEL_MULTIPLE = 32;

  private final Memory memory;
  private final Workers workers;
  private final boolean half;
  private final boolean split;
  private final Map<Spec, Product> compiled = new HashMap<>();
  private final Map<PackedFor, Layout> packedLayouts = new HashMap<>();
  private final Map<Change, Reorder> reorders = new HashMap<>();
  private final Map<Change, Boolean> pairs = new HashMap<>();

  /** With shorter sides, splitting costs more than it saves. */
  private static final long LEAST_SPLIT = 128;

  /** Up to so many rows {@link Factor#JOINED} is the faster way; with more it leaves the cache. */
  private static final long MOST_JOINED = 192;

  private final Map<Split, Boolean> splits = new HashMap<>();

  private record Split(Factor factor, long k, long n) {}

  private record PackedFor(long m, long k, long n, Layout a) {}

  private record Change(long rows, long columns, Layout from, Layout to) {}

  /**
   * @param half whether factors are bfloat16
   * @param split whether float32 may be split into bfloat16 numbers
   */
  Products(Memory memory, Workers workers, boolean half, boolean split) {
    this.memory = memory;
    this.workers = workers;
    this.half = half;
    this.split = split;
  }

  /** {@return whether factors of products are bfloat16} */
  boolean half() {
    return half;
  }

  /** The product of these shapes and layouts. Not to be called by several threads at once. */
  Product product(Spec spec) {
    Product known = compiled.get(spec);
    if (known == null) {
      known = OneDnn.available() ? new OneDnnProduct(spec, workers.count()) : new BlasProduct(spec);
      compiled.put(spec, known);
    }
    return known;
  }

  /**
   * The layout that oneDNN prefers for B, {@code [k, n]}, in A·B.
   *
   * @param m rows of A
   * @param k columns of A
   * @param n columns of B
   * @param a layout of A; B is of its type
   */
  Layout packedLayout(long m, long k, long n, Layout a) {
    return packedLayouts.computeIfAbsent(
        new PackedFor(m, k, n, a),
        key -> {
          int type = a.half() ? OneDnn.BF16 : OneDnn.F32;
          OneDnn.useOneThread();
          long description =
              OneDnn.matmul(
                  a.descriptor(1, m, k),
                  OneDnn.anyMatrix(type, k, n),
                  0,
                  OneDnn.matrix(OneDnn.F32, m, n, n, 1),
                  OneDnn.attributes(false, OneDnn.F32));
          return Layout.packed(a.half(), OneDnn.query(description, OneDnn.QUERY_WEIGHTS));
        });
  }

  /** What copies a matrix {@code [rows, columns]} into another layout. */
  Reorder reorder(long rows, long columns, Layout from, Layout to) {
    return reorders.computeIfAbsent(
        new Change(rows, columns, from, to),
        key ->
            new Reorder(
                from.descriptor(1, rows, columns),
                to.descriptor(1, rows, columns),
                workers.count()));
  }

  /**
   * What packs a float32 matrix {@code [rows, columns]} as a right-hand factor: our own loops for
   * the layout that they know, as that of split numbers is.
   */
  PackedWeight.Packer packer(Factor factor, long rows, long columns, Layout from, Layout to) {
    if (!factor.isSplit() && !isPairs(rows, columns, to)) {
      Reorder reorder = reorder(rows, columns, from, to);
      return (scratch, source, target, part) -> reorder.run(scratch, source, target);
    }
    FactorPacking packing = FactorPacking.of(factor, false);
    return from.columnStride() == 1
        ? (scratch, source, target, part) ->
            packing.pairs(source, from.rowStride(), rows, columns, target, part)
        : (scratch, source, target, part) ->
            packing.transposedPairs(
                source, from.columnStride(), rows, columns, target, part, scratch);
  }

  /** Whether a layout for a right-hand factor is the one that {@link FactorPacking} writes. */
  boolean isPairs(long rows, long columns, Layout layout) {
    return layout.half()
        && pairs.computeIfAbsent(
            new Change(rows, columns, Layout.rows(false, columns), layout),
            change -> {
              boolean[] result = new boolean[1];
              Reorder reorder = reorder(rows, columns, change.from, layout);
              workers.run(
                  1,
                  (item, scratch) ->
                      result[0] =
                          FactorPacking.isPairs(rows, columns, layout, reorder, scratch, memory));
              return result[0];
            });
  }

  /**
   * The numbers that a product of a matrix {@code [k, n]} takes. float32 is split where that is
   * faster, and where the layout for it is known.
   */
  Factor factor(long k, long n) {
    if (half) {
      return Factor.HALF;
    }
    Factor factor = k <= MOST_JOINED ? Factor.JOINED : Factor.SPLIT;
    if (!split || Math.min(k, n) < LEAST_SPLIT || !FactorPacking.fits(k, n)) {
      return Factor.FLOAT;
    }
    return splits.computeIfAbsent(new Split(factor, k, n), this::isPossible)
        ? factor
        : Factor.FLOAT;
  }

  private boolean isPossible(Split way) {
    Pieces chunks = PackedWeight.chunks(way.factor, way.k);
    Pieces columns = PackedWeight.cut(way.n);
    for (boolean lastChunk : new boolean[] {false, true}) {
      for (boolean lastPanel : new boolean[] {false, true}) {
        long k = way.factor.side * chunks.size(lastChunk);
        long n = columns.size(lastPanel);
        if (!isPairs(k, n, splitLayout(k, n))) {
          return false;
        }
      }
    }
    return true;
  }

  /** The layout of factors {@code [k, n]} of split numbers, whatever they are multiplied with. */
  Layout splitLayout(long k, long n) {
    return packedLayout(n, k, n, Layout.rows(true, k));
  }

  /**
   * A weight ready to be multiplied with, packed anew if it was changed: right before it is used,
   * so that it is read from a cache then.
   *
   * @param w {@code [out, in]}
   * @param use what it is multiplied with
   * @param typicalRows rows of the other factor that the layout is chosen for
   */
  Panels packed(CpuTensor w, Use use, long typicalRows) {
    if (!OneDnn.available()) {
      return plain(w, use);
    }
    Memory.Block block = w.block();
    PackedWeight weight =
        block.packed.computeIfAbsent(
            new PackedWeight.Key(w.address(), w.dim(0), w.dim(1), use),
            key -> new PackedWeight(memory, this, key, typicalRows));
    if (!weight.isOf(block.version)) {
      workers.run(weight.packings(), weight::pack);
      weight.packedFrom(block.version);
    }
    return weight.panels();
  }

  /** A weight as it lies in memory, float32, in panels of columns. */
  static Panels plain(CpuTensor w, Use use) {
    long in = w.dim(1);
    long rows = use == Use.FORWARD ? in : w.dim(0);
    long columns = use == Use.FORWARD ? w.dim(0) : in;
    Pieces panels =
        Pieces.of(
            columns,
            Math.clamp(columns / PLAIN_PANELS, PANEL_MULTIPLE, PLAIN_PANEL),
            PANEL_MULTIPLE);
    Layout layout = use == Use.FORWARD ? Layout.transposed(false, in) : Layout.rows(false, in);
    List<Chunk> all = new ArrayList<>();
    for (int i = 0; i < panels.count(); i++) {
      long from = panels.start(i);
      all.add(new Chunk(w.address(use == Use.FORWARD ? from * in : from), layout, 0));
    }
    return new Panels(Factor.FLOAT, new Pieces(rows, rows), panels, all);
  }
}
