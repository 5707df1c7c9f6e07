package org.meanflow.nn.engine.cpu;

import java.util.ArrayList;
import java.util.List;
import org.meanflow.nn.engine.cpu.Panels.Chunk;
import org.meanflow.nn.engine.cpu.Product.Layout;

/**
 * A weight {@code [out, in]} as the right-hand matrix of a product, in the blocked layout and the
 * type that products prefer. Packed anew when the weight has changed.
 */
final class PackedWeight implements AutoCloseable {
  /** Longer sides of a chunk gain nothing, and panels are what few rows are shared out by. */
  private static final long SIDE = 384;

  private static final long MULTIPLE = 64;

  private final Memory memory;
  private final Panels panels;
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

    /** The address of a number of the matrix. */
    long address(long row, long column) {
      return address + Float.BYTES * (use == Use.FORWARD ? column * in + row : row * in + column);
    }
  }

  /** The copy of a chunk into its layout. */
  private record Packing(Packer packer, long source, Memory.Block target, long part) {}

  /** Copies a matrix into a layout. */
  @FunctionalInterface
  interface Packer {

    /**
     * Copies.
     *
     * @param scratch of the calling thread
     * @param from address of the matrix
     * @param to address of the copy
     * @param part bytes between two parts of a split number
     */
    void pack(Scratch scratch, long from, long to, long part);
  }

  PackedWeight(Memory memory, Products products, Key key, long typicalRows) {
    this.memory = memory;
    Factor factor = products.factor(key.rows(), key.columns());
    Pieces chunks = chunks(factor, key.rows());
    Pieces columns = cut(key.columns());
    Layout plain =
        key.use() == Use.FORWARD
            ? Layout.transposed(false, key.in())
            : Layout.rows(false, key.in());
    List<Chunk> all = new ArrayList<>();
    for (int panel = 0; panel < columns.count(); panel++) {
      for (int chunk = 0; chunk < chunks.count(); chunk++) {
        long k = chunks.size(chunks.isLast(chunk));
        long n = columns.size(columns.isLast(panel));
        Layout layout =
            factor.isSplit()
                ? products.splitLayout(factor.side * k, n)
                : products.packedLayout(typicalRows, k, n, Layout.rows(factor.half, k));
        Memory.Block block = memory.take(factor.parts * layout.bytes());
        long part = factor == Factor.JOINED ? FactorPacking.joinedPart(k) : layout.bytes();
        long source = key.address(chunks.start(chunk), columns.start(panel));
        packings.add(
            new Packing(products.packer(factor, k, n, plain, layout), source, block, part));
        all.add(new Chunk(block.address, layout, part));
      }
    }
    panels = new Panels(factor, chunks, columns, all);
  }

  static Pieces cut(long length) {
    return Pieces.of(length, SIDE, MULTIPLE);
  }

  /**
   * The rows of a matrix, in pieces like those of columns, which become rows of the next product;
   * of {@link Factor#HALF} two are one chunk.
   */
  static Pieces chunks(Factor factor, long rows) {
    Pieces pieces = cut(rows);
    return factor == Factor.HALF ? new Pieces(rows, Math.min(rows, 2 * pieces.size())) : pieces;
  }

  Panels panels() {
    return panels;
  }

  /** Number of copies that packing takes; they can be made in any order and at the same time. */
  int packings() {
    return packings.size();
  }

  void pack(int i, Scratch scratch) {
    Packing packing = packings.get(i);
    packing.packer.pack(scratch, packing.source, packing.target.address, packing.part);
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
