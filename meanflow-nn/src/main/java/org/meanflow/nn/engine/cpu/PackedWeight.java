package org.meanflow.nn.engine.cpu;

import java.util.ArrayList;
import java.util.List;

/**
 * A weight {@code [out, in]} as the right-hand matrix of a product, in panels of columns, each in
 * the blocked layout and the type that oneDNN prefers. Packed anew when the weight has changed.
 */
final class PackedWeight implements AutoCloseable {
  /** Wider products gain nothing, and panels are what few rows are divided among threads by. */
  private static final long WIDEST_PANEL = 768;

  private static final long PANEL_MULTIPLE = 64;

  private final Memory memory;
  private final Use use;
  private final List<Panel> panels = new ArrayList<>();
  private final List<Reorder> reorders = new ArrayList<>();
  private long version = -1;

  /** What a weight is multiplied with. */
  enum Use {
    /** x Wᵀ: the matrix is {@code [in, out]}. */
    FORWARD,
    /** ȳ W: the matrix is {@code [out, in]}. */
    BACKWARD
  }

  /** A weight, found by the place of its numbers, and its use. */
  record Key(long address, long out, long in, Use use) {

    long rows() {
      return use == Use.FORWARD ? in : out;
    }

    long columns() {
      return use == Use.FORWARD ? out : in;
    }
  }

  /**
   * Columns [from, from + columns) of the matrix.
   *
   * @param from first column
   * @param columns how many
   * @param address where they are
   * @param layout how they lie there
   */
  record Panel(long from, long columns, long address, Product.Layout layout) {}

  PackedWeight(Memory memory, Key key, boolean half, long typicalRows, int threads) {
    this.memory = memory;
    this.use = key.use();
    long columns = key.columns();
    long count = Math.ceilDiv(columns, WIDEST_PANEL);
    long width = Math.ceilDiv(Math.ceilDiv(columns, count), PANEL_MULTIPLE) * PANEL_MULTIPLE;
    for (long from = 0; from < columns; from += width) {
      panels.add(panel(key, from, Math.min(width, columns - from), half, typicalRows, threads));
    }
  }

  private Panel panel(
      Key key, long from, long columns, boolean half, long typicalRows, int threads) {
    long rows = key.rows();
    boolean forward = use == Use.FORWARD;
    Product.Layout plain =
        forward ? Product.Layout.transposed(false, rows) : Product.Layout.rows(false, key.in());
    long source = key.address() + Float.BYTES * (forward ? from * rows : from);
    int type = half ? OneDnn.BF16 : OneDnn.F32;
    OneDnn.useOneThread();
    long description =
        OneDnn.matmul(
            OneDnn.matrix(type, typicalRows, rows, rows, 1),
            OneDnn.anyMatrix(type, rows, columns),
            0,
            OneDnn.matrix(OneDnn.F32, typicalRows, columns, columns, 1),
            OneDnn.attributes(false, type));
    long layout = OneDnn.query(description, OneDnn.QUERY_WEIGHTS);
    Memory.Block block = memory.take(OneDnn.size(layout));
    reorders.add(new Reorder(plain.descriptor(1, rows, columns), source, layout, block, threads));
    return new Panel(from, columns, block.address, Product.Layout.packed(half, layout));
  }

  List<Panel> panels() {
    return panels;
  }

  /** What packs the panels. */
  List<Reorder> reorders() {
    return reorders;
  }

  boolean isOf(long weightVersion) {
    return version == weightVersion;
  }

  /** To be called once all panels have been packed. */
  void packedFrom(long weightVersion) {
    version = weightVersion;
  }

  @Override
  public void close() {
    reorders.forEach(reorder -> memory.giveBack(reorder.target()));
  }
}
