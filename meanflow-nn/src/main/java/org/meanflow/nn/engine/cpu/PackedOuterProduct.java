package org.meanflow.nn.engine.cpu;

import java.util.Optional;
import org.meanflow.nn.engine.cpu.Product.Layout;
import org.meanflow.nn.engine.cpu.Product.Spec;

/**
 * W = yᵀ x, or W += yᵀ x, of bfloat16 factors, for y {@code [rows, out]} and x {@code [rows, in]}:
 * the gradient of a weight, compiled for one shape. Each is packed once, block by block of rows:
 * first the one of fewer columns, which all pieces of the other are multiplied with; these each by
 * the thread that multiplies, some blocks at a time. Products are added up in memory of their own,
 * as in {@link TileProduct}.
 */
final class PackedOuterProduct {
  /** Sides of what is multiplied at once. */
  private static final long SIDE = 384;

  /** Rows of packed yᵀ are this much longer, so that they don't share sets of the cache. */
  private static final long GAP = 32;

  /** Blocks whose products are added up before they are added to W, where sums don't stay. */
  private static final int BLOCKS = 4;

  private static final int PIECE_SLOT = 2;
  private static final int SUMS_SLOT = 3;

  private final Workers workers;
  private final Shape shape;
  private final Pieces outs;
  private final Pieces ins;
  private final Pieces blocks;
  private final Product[] products = new Product[16];

  /**
   * What is multiplied.
   *
   * @param rows of both factors
   * @param out columns of y
   * @param in columns of x
   * @param factor of products
   */
  record Shape(long rows, long out, long in, Factor factor) {

    private boolean isTall() {
      return out >= in;
    }
  }

  private PackedOuterProduct(Workers workers, Products all, Shape shape) {
    this.workers = workers;
    this.shape = shape;
    outs = shape.isTall() ? evenly(shape.out) : cut(shape.out);
    ins = shape.isTall() ? cut(shape.in) : evenly(shape.in);
    blocks = cut(shape.rows);
    boolean[] both = {false, true};
    for (boolean lastBlock : both) {
      for (boolean lastOut : both) {
        for (boolean lastIn : both) {
          for (boolean add : both) {
            products[Product.index(lastBlock, lastOut, lastIn, add)] =
                all.product(
                    new Spec(
                        outs.size(lastOut),
                        blocks.size(lastBlock),
                        ins.size(lastIn),
                        left(),
                        right(all, lastBlock, lastIn),
                        Layout.rows(false, sumsStride()),
                        false,
                        add));
          }
        }
      }
    }
  }

  /** What computes a shape, if the layouts that oneDNN prefers are those that are written here. */
  static Optional<PackedOuterProduct> of(Workers workers, Products all, Shape shape) {
    if (!FactorPacking.fits(shape.rows, shape.out) || !FactorPacking.fits(shape.rows, shape.in)) {
      return Optional.empty();
    }
    return Optional.of(new PackedOuterProduct(workers, all, shape))
        .filter(product -> product.isPairs(all));
  }

  private boolean isPairs(Products all) {
    boolean[] both = {false, true};
    for (boolean lastBlock : both) {
      for (boolean lastIn : both) {
        Layout layout = right(all, lastBlock, lastIn);
        if (!all.isPairs(blocks.size(lastBlock), ins.size(lastIn), layout)) {
          return false;
        }
      }
    }
    return true;
  }

  private Layout left() {
    return Layout.rows(true, blocks.size() + GAP);
  }

  /** The same for all pieces of yᵀ, for they are all multiplied with it. */
  private Layout right(Products all, boolean lastBlock, boolean lastIn) {
    return all.packedLayout(outs.size(), blocks.size(lastBlock), ins.size(lastIn), left());
  }

  private static Pieces cut(long length) {
    return Pieces.of(length, SIDE, FactorPacking.BLOCK);
  }

  /** An even number of pieces: three are shared out badly among two. */
  private static Pieces evenly(long length) {
    long pairs = Math.ceilDiv(length, 2 * SIDE);
    return Pieces.of(length, Math.ceilDiv(length, 2 * pairs), FactorPacking.BLOCK);
  }

  /** Memory for the factor that is packed first. */
  long packedBytes() {
    return shape.isTall()
        ? inBytes() * blocks.count() * ins.count()
        : outBytes() * blocks.count() * outs.count();
  }

  private long outPart() {
    return outs.size() * rowBytes();
  }

  private long outBytes() {
    return shape.factor.parts * outPart();
  }

  private long inPart() {
    return blocks.size() * ins.size() * Short.BYTES;
  }

  private long inBytes() {
    return shape.factor.parts * inPart();
  }

  private long rowBytes() {
    return (blocks.size() + GAP) * Short.BYTES;
  }

  private long sumsStride() {
    return ins.size() + GAP;
  }

  /**
   * Computes.
   *
   * @param y {@code [rows, out]}
   * @param x {@code [rows, in]}
   * @param memory address of {@link #packedBytes}
   * @param w W
   * @param add whether to add to W
   * @return Σ W²
   */
  double run(CpuTensor y, CpuTensor x, long memory, CpuTensor w, boolean add) {
    boolean tall = shape.isTall();
    Pieces first = tall ? ins : outs;
    Pieces second = tall ? outs : ins;
    boolean stay = first.count() == 1;
    int group = stay ? 1 : BLOCKS;
    long firstBytes = tall ? inBytes() : outBytes();
    long secondBytes = tall ? outBytes() : inBytes();
    workers.run(
        blocks.count() * first.count(),
        (item, scratch) -> {
          int block = item / first.count();
          int piece = item % first.count();
          long to = memory + item * firstBytes;
          pack(tall, y, x, block, piece, to, scratch);
        });
    double[] squares = new double[second.count()];
    workers.run(
        squares.length,
        (piece, scratch) -> {
          long packed = scratch.bytes(PIECE_SLOT, group * secondBytes);
          long sums = scratch.bytes(SUMS_SLOT, outs.size() * sumsStride() * Float.BYTES);
          for (int start = 0; start < blocks.count(); start += group) {
            int end = Math.min(start + group, blocks.count());
            for (int block = start; block < end; block++) {
              long to = packed + (block - start) * secondBytes;
              pack(!tall, y, x, block, piece, to, scratch);
            }
            for (int other = 0; other < first.count(); other++) {
              int out = tall ? piece : other;
              int in = tall ? other : piece;
              for (int block = start; block < end; block++) {
                long one = memory + (block * first.count() + other) * firstBytes;
                long two = packed + (block - start) * secondBytes;
                multiply(
                    scratch,
                    block,
                    out,
                    in,
                    tall ? two : one,
                    tall ? one : two,
                    block > (stay ? 0 : start),
                    sums);
              }
              boolean last = end == blocks.count();
              if (last || !stay) {
                double sum = write(scratch, sums, out, in, w, add || (!stay && start > 0), last);
                squares[piece] += sum;
              }
            }
          }
        });
    return Reductions.sum(squares);
  }

  /** A piece of one of the factors. */
  private void pack(
      boolean right, CpuTensor y, CpuTensor x, int block, int piece, long to, Scratch scratch) {
    long begin = scratch.beginProduct();
    if (right) {
      packIn(x, block, piece, to);
    } else {
      packOut(y, block, piece, to, scratch);
    }
    scratch.endProduct(begin);
  }

  private void packOut(CpuTensor y, int block, int out, long to, Scratch scratch) {
    FactorPacking.of(shape.factor, y.half())
        .transposedRows(
            y.address(blocks.start(block) * shape.out + outs.start(out)),
            shape.out,
            outs.size(outs.isLast(out)),
            blocks.size(blocks.isLast(block)),
            to,
            rowBytes(),
            outPart(),
            scratch);
  }

  private void packIn(CpuTensor x, int block, int in, long to) {
    FactorPacking.of(shape.factor, x.half())
        .pairs(
            x.address(blocks.start(block) * shape.in + ins.start(in)),
            shape.in,
            blocks.size(blocks.isLast(block)),
            ins.size(ins.isLast(in)),
            to,
            inPart());
  }

  private void multiply(
      Scratch scratch, int block, int out, int in, long left, long right, boolean add, long sums) {
    boolean lastBlock = blocks.isLast(block);
    boolean lastOut = outs.isLast(out);
    boolean lastIn = ins.isLast(in);
    TileProduct.multiply(
        shape.factor,
        scratch,
        products[Product.index(lastBlock, lastOut, lastIn, add)],
        products[Product.index(lastBlock, lastOut, lastIn, true)],
        left,
        outPart(),
        right,
        inPart(),
        sums);
  }

  /** Writes sums, and returns Σ W² over what was written if that is final. */
  private double write(
      Scratch scratch, long sums, int out, int in, CpuTensor w, boolean add, boolean last) {
    long rowBytes = sumsStride() * Float.BYTES;
    long to = w.address(outs.start(out) * shape.in + ins.start(in));
    long rows = outs.size(outs.isLast(out));
    long columns = ins.size(ins.isLast(in));
    double squares = 0;
    for (long row = 0; row < rows; row += SumRows.STRIP) {
      long strip = Math.min(SumRows.STRIP, rows - row);
      long from = sums + row * rowBytes;
      long target = to + row * shape.in * Float.BYTES;
      long begin = scratch.beginProduct();
      SumRows.write(from, rowBytes, 0, target, shape.in * Float.BYTES, false, add, strip, columns);
      scratch.endProduct(begin);
      if (last) { // the sums, which are W now: W itself may still be on its way to the cache
        squares += Reductions.squares(from, rowBytes, strip, columns, scratch);
      }
    }
    return squares;
  }
}
