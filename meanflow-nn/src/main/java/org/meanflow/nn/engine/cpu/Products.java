package org.meanflow.nn.engine.cpu;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import org.meanflow.nn.engine.cpu.PackedWeight.Panel;
import org.meanflow.nn.engine.cpu.PackedWeight.Use;
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
  private final Map<Spec, Product> compiled = new HashMap<>();
  private final Map<PackedFor, Layout> packedLayouts = new HashMap<>();
  private final Map<Change, Reorder> reorders = new HashMap<>();
  private final Map<Change, Boolean> pairs = new HashMap<>();

  private record PackedFor(long m, long k, long n, Layout a) {}

  private record Change(long rows, long columns, Layout from, Layout to) {}

  /**
   * @param half whether factors are bfloat16
   */
  Products(Memory memory, Workers workers, boolean half) {
    this.memory = memory;
    this.workers = workers;
    this.half = half;
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

  /** What packs a float32 matrix {@code [rows, columns]}: our own loop for the layout it knows. */
  PackedWeight.Packer packer(long rows, long columns, Layout from, Layout to) {
    return from.columnStride() == 1 && to.half() && isPairs(rows, columns, to)
        ? (scratch, source, target) ->
            PairPacking.pack(source, from.rowStride(), rows, columns, target)
        : reorder(rows, columns, from, to)::run;
  }

  private boolean isPairs(long rows, long columns, Layout layout) {
    return pairs.computeIfAbsent(
        new Change(rows, columns, Layout.rows(false, columns), layout),
        change -> {
          boolean[] result = new boolean[1];
          Reorder reorder = reorder(rows, columns, change.from, layout);
          workers.run(
              1,
              (item, scratch) ->
                  result[0] =
                      PairPacking.isLayout(rows, columns, layout, reorder, scratch, memory));
          return result[0];
        });
  }

  /**
   * A weight ready to be multiplied with. If it was changed, all packed weights of its buffer are
   * packed anew, in parallel: they were changed together.
   *
   * @param w {@code [out, in]}
   * @param use what it is multiplied with
   * @param typicalRows rows of the other factor that the layout is chosen for
   */
  List<Panel> packed(CpuTensor w, Use use, long typicalRows) {
    if (!OneDnn.available()) {
      return plain(w, use);
    }
    PackedWeight.Key key = new PackedWeight.Key(w.address(), w.dim(0), w.dim(1), use);
    Memory.Block block = w.block();
    PackedWeight weight = block.packed.get(key);
    if (weight == null) {
      weight = new PackedWeight(memory, this, key, typicalRows);
      block.packed.put(key, weight);
    }
    if (!weight.isOf(block.version)) {
      refresh(block);
    }
    return weight.panels();
  }

  /** A weight as it lies in memory, float32, in panels of columns. */
  static List<Panel> plain(CpuTensor w, Use use) {
    long in = w.dim(1);
    long columns = use == Use.FORWARD ? w.dim(0) : in;
    Pieces pieces =
        Pieces.of(
            columns,
            Math.clamp(columns / PLAIN_PANELS, PANEL_MULTIPLE, PLAIN_PANEL),
            PANEL_MULTIPLE);
    List<Panel> panels = new ArrayList<>();
    for (int i = 0; i < pieces.count(); i++) {
      long from = pieces.start(i);
      panels.add(
          new Panel(
              from,
              pieces.size(pieces.isLast(i)),
              w.address(use == Use.FORWARD ? from * in : from),
              use == Use.FORWARD ? Layout.transposed(false, in) : Layout.rows(false, in)));
    }
    return panels;
  }

  private void refresh(Memory.Block block) {
    List<Consumer<Scratch>> packings = new ArrayList<>();
    for (PackedWeight weight : block.packed.values()) {
      if (!weight.isOf(block.version)) {
        for (int i = 0; i < weight.packings(); i++) {
          int packing = i;
          packings.add(scratch -> weight.pack(packing, scratch));
        }
        weight.packedFrom(block.version);
      }
    }
    workers.run(packings.size(), (item, scratch) -> packings.get(item).accept(scratch));
  }
}
