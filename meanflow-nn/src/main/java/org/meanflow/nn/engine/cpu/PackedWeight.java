package org.meanflow.nn.engine.cpu;

import java.util.ArrayList;
import java.util.List;
import org.meanflow.nn.engine.cpu.Product.Layout;

/**
 * A weight {@code [out, in]} as the right-hand matrix of a product, in panels of columns, each in
 * the blocked layout and the type that oneDNN prefers. Packed anew when the weight has changed.
 */
final class PackedWeight implements AutoCloseable {
  /** Wider products gain nothing, and panels are what few rows are divided among threads by. */
  private static final long WIDEST_PANEL = 384;

  private static final long PANEL_MULTIPLE = 64;

  private final Memory memory;
  private final List<Panel> panels = new ArrayList<>();
  private final List<Packing> packings = new ArrayList<>();
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
  record Panel(long from, long columns, long address, Layout layout) {}

  /** The copy of a panel into its layout. */
  private record Packing(Packer packer, long source, Memory.Block target) {}

  /** Copies a matrix into a layout. */
  @FunctionalInterface
  interface Packer {
    void pack(Scratch scratch, long from, long to);
  }

  PackedWeight(Memory memory, Products products, Key key, long typicalRows) {
    this.memory = memory;
    long columns = key.columns();
    long count = Math.ceilDiv(columns, WIDEST_PANEL);
    long width = Math.ceilDiv(Math.ceilDiv(columns, count), PANEL_MULTIPLE) * PANEL_MULTIPLE;
    for (long from = 0; from < columns; from += width) {
      add(products, key, from, Math.min(width, columns - from), typicalRows);
    }
  }

  private void add(Products products, Key key, long from, long columns, long typicalRows) {
    long rows = key.rows();
    boolean forward = key.use() == Use.FORWARD;
    Layout plain = forward ? Layout.transposed(false, rows) : Layout.rows(false, key.in());
    long source = key.address() + Float.BYTES * (forward ? from * rows : from);
    Layout layout =
        products.packedLayout(typicalRows, rows, columns, Layout.rows(products.half(), rows));
    Memory.Block block = memory.take(layout.bytes());
    packings.add(new Packing(products.packer(rows, columns, plain, layout), source, block));
    panels.add(new Panel(from, columns, block.address, layout));
  }

  List<Panel> panels() {
    return panels;
  }

  /** Number of copies that packing takes; they can be made in any order and at the same time. */
  int packings() {
    return packings.size();
  }

  void pack(int i, Scratch scratch) {
    Packing packing = packings.get(i);
    packing.packer.pack(scratch, packing.source, packing.target.address);
  }

  boolean isOf(long weightVersion) {
    return version == weightVersion;
  }

  /** To be called when all panels have been packed. */
  void packedFrom(long weightVersion) {
    version = weightVersion;
  }

  @Override
  public void close() {
    packings.forEach(packing -> memory.giveBack(packing.target));
  }
}
