package org.meanflow.nn.engine.cpu;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import org.meanflow.nn.engine.cpu.Panels.Chunk;
import org.meanflow.nn.engine.cpu.Product.Layout;

/**
 * A weight {@code [out, in]} as the right-hand matrix of products, in the blocked layout and the
 * type that they prefer. Packed anew when the weight has changed, for all its uses at once: one
 * part of the weight after the other, so that it is read from memory once.
 */
final class PackedWeight implements AutoCloseable {
  /** Longer sides of a chunk gain nothing, and panels are what few rows are shared out by. */
  private static final long SIDE = 384;

  private static final long MULTIPLE = 64;

  private final Memory memory;
  private final Products products;
  private final Place weight;
  private final Map<Use, Panels> panels = new EnumMap<>(Use.class);
  private final List<Packing> packings = new ArrayList<>();
  private long version = -1;

  /** What a weight is multiplied with. */
  enum Use {
    /** x Wᵀ: the matrix is {@code [in, out]}. */
    FORWARD,
    /** ȳ W: the matrix is {@code [out, in]}. */
    BACKWARD
  }

  /** Where a weight lies, and its shape. */
  record Place(long address, long out, long in) {

    long rows(Use use) {
      return use == Use.FORWARD ? in : out;
    }

    long columns(Use use) {
      return use == Use.FORWARD ? out : in;
    }

    /** The address of a number of the matrix. */
    long address(Use use, long row, long column) {
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

  PackedWeight(Memory memory, Products products, Place weight) {
    this.memory = memory;
    this.products = products;
    this.weight = weight;
  }

  /**
   * The matrix for a use; what it holds is up to date once it {@link #isOf} the weight.
   *
   * @param use what the weight is multiplied with
   * @param typicalRows rows of the other factor that the layout is chosen for
   */
  Panels panels(Use use, long typicalRows) {
    Panels known = panels.get(use);
    if (known != null) {
      return known;
    }
    Panels added = add(use, typicalRows);
    panels.put(use, added);
    packings.sort(Comparator.comparingLong(Packing::source));
    version = -1;
    return added;
  }

  private Panels add(Use use, long typicalRows) {
    Factor factor = products.factor(weight.rows(use), weight.columns(use));
    Pieces chunks = chunks(factor, weight.rows(use));
    Pieces columns = cut(weight.columns(use));
    Layout plain =
        use == Use.FORWARD
            ? Layout.transposed(false, weight.in())
            : Layout.rows(false, weight.in());
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
        long source = weight.address(use, chunks.start(chunk), columns.start(panel));
        packings.add(
            new Packing(products.packer(factor, k, n, plain, layout), source, block, part));
        all.add(new Chunk(block.address, layout, part));
      }
    }
    return new Panels(factor, chunks, columns, all);
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

  /**
   * Number of copies that packing takes; they can be made in any order and at the same time.
   * Neighbours read the same part of the weight.
   */
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
