package org.meanflow.nn.engine.cpu;

import java.util.Optional;
import org.meanflow.nn.engine.cpu.Product.Layout;
import org.meanflow.nn.engine.cpu.Product.Spec;

/**
 * W = yᵀ x, or W += yᵀ x, of bfloat16 factors, for y {@code [rows, out]} and x {@code [rows, in]}:
 * the gradient of a weight, compiled for one shape. Each is packed once, block by block of rows:
 * first the one of fewer columns, which all pieces of the other are multiplied with; these each by
 * the thread that multiplies.
 */
final class PackedOuterProduct {
  /** Sides of what is multiplied at once. */
  private static final long SIDE = 384;

  /** Rows of packed yᵀ are this much longer, so that they don't share sets of the cache. */
  private static final long GAP = 32;

  private static final int PIECE_SLOT = 2;

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
                        Layout.rows(false, shape.in),
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
    return Pieces.of(length, SIDE, FactorPacking.MULTIPLE);
  }

  /** An even number of pieces: three are shared out badly among two. */
  private static Pieces evenly(long length) {
    long pairs = Math.ceilDiv(length, 2 * SIDE);
    return Pieces.of(length, Math.ceilDiv(length, 2 * pairs), FactorPacking.MULTIPLE);
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

  /**
   * Computes.
   *
   * @param y {@code [rows, out]}
   * @param x {@code [rows, in]}
   * @param memory address of {@link #packedBytes}
   * @param w address of W, float32
   * @param add whether to add to W
   */
  void run(CpuTensor y, CpuTensor x, long memory, long w, boolean add) {
    if (shape.isTall()) {
      workers.run(
          blocks.count() * ins.count(),
          (item, scratch) ->
              packIn(x, item / ins.count(), item % ins.count(), memory + item * inBytes()));
      workers.run(
          outs.count(),
          (out, scratch) -> {
            long left = scratch.bytes(PIECE_SLOT, outBytes());
            for (int block = 0; block < blocks.count(); block++) {
              packOut(y, block, out, left, scratch);
              for (int in = 0; in < ins.count(); in++) {
                long right = memory + (block * ins.count() + in) * inBytes();
                multiply(scratch, block, out, in, left, right, w, add);
              }
            }
          });
    } else {
      workers.run(
          blocks.count() * outs.count(),
          (item, scratch) ->
              packOut(
                  y,
                  item / outs.count(),
                  item % outs.count(),
                  memory + item * outBytes(),
                  scratch));
      workers.run(
          ins.count(),
          (in, scratch) -> {
            long right = scratch.bytes(PIECE_SLOT, inBytes());
            for (int block = 0; block < blocks.count(); block++) {
              packIn(x, block, in, right);
              for (int out = 0; out < outs.count(); out++) {
                long left = memory + (block * outs.count() + out) * outBytes();
                multiply(scratch, block, out, in, left, right, w, add);
              }
            }
          });
    }
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
      Scratch scratch, int block, int out, int in, long left, long right, long w, boolean add) {
    boolean lastBlock = blocks.isLast(block);
    boolean lastOut = outs.isLast(out);
    boolean lastIn = ins.isLast(in);
    TileProduct.multiply(
        shape.factor,
        scratch,
        products[Product.index(lastBlock, lastOut, lastIn, add || block > 0)],
        products[Product.index(lastBlock, lastOut, lastIn, true)],
        left,
        outPart(),
        right,
        inPart(),
        0,
        w + (outs.start(out) * shape.in + ins.start(in)) * Float.BYTES);
  }
}
