package org.meanflow.nn.engine.cpu;

import org.meanflow.nn.engine.cpu.Product.Layout;
import org.meanflow.nn.engine.cpu.Product.Spec;

/**
 * W = yᵀ x, or W += yᵀ x, for y {@code [rows, out]} and x {@code [rows, in]}: the gradient of a
 * weight, compiled for one shape. In pieces of W, each a sum over blocks of rows. Several pieces
 * read the same part of x, so x is first packed, once.
 */
final class OuterProduct {
  /** Longest side of a piece that is cut. */
  private static final long PIECE = 384;

  /** Up to so many columns are not cut, if they are the shorter side. */
  private static final long WHOLE = 768;

  private static final long BLOCK = 512;
  private static final long MULTIPLE = 16;

  private final Workers workers;
  private final Shape shape;
  private final Pieces outs;
  private final Pieces ins;
  private final Pieces blocks;
  private final boolean[] lasts = {false, true};
  private final Layout[] layouts = new Layout[4];
  private final Reorder[] reorders = new Reorder[4];
  private final Product[] products = new Product[16];

  /**
   * What is multiplied.
   *
   * @param rows of both factors
   * @param out columns of y
   * @param in columns of x
   * @param half whether factors are bfloat16
   * @param halfSource whether x is bfloat16 before it is packed
   * @param packed whether x is packed; otherwise it is taken as it is
   */
  record Shape(long rows, long out, long in, boolean half, boolean halfSource, boolean packed) {}

  OuterProduct(Workers workers, Products all, Shape shape) {
    this.workers = workers;
    this.shape = shape;
    boolean wide = shape.packed && shape.in > shape.out;
    // Unpacked, x is best read in whole rows.
    outs = wide ? whole(shape.out) : cut(shape.out);
    ins = wide ? cut(shape.in) : whole(shape.in);
    blocks = Pieces.of(shape.rows, BLOCK, MULTIPLE);
    Layout y = Layout.transposed(shape.half, shape.out);
    Layout plain = Layout.rows(shape.halfSource, shape.in);
    for (boolean lastBlock : lasts) {
      for (boolean lastIn : lasts) {
        long k = blocks.size(lastBlock);
        long n = ins.size(lastIn);
        int i = Product.index(lastBlock, lastIn);
        layouts[i] = shape.packed ? all.packedLayout(outs.size(), k, n, y) : plain;
        if (shape.packed) {
          reorders[i] = all.reorder(k, n, plain, layouts[i]);
        }
        for (boolean lastOut : lasts) {
          for (boolean add : lasts) {
            products[Product.index(lastBlock, lastIn, lastOut, add)] =
                all.product(
                    new Spec(
                        outs.size(lastOut),
                        k,
                        n,
                        y,
                        layouts[i],
                        Layout.rows(false, shape.in),
                        false,
                        add));
          }
        }
      }
    }
  }

  /** An even number of pieces: three are shared out badly among two. */
  private static Pieces cut(long columns) {
    long pairs = Math.ceilDiv(columns, 2 * PIECE);
    return Pieces.of(columns, Math.max(MULTIPLE, Math.ceilDiv(columns, 2 * pairs)), MULTIPLE);
  }

  private static Pieces whole(long columns) {
    return columns <= WHOLE ? new Pieces(columns, columns) : cut(columns);
  }

  /** Memory for packed x. */
  long packedBytes() {
    long bytes = 0;
    for (int block = 0; block < blocks.count(); block++) {
      bytes += blockBytes(blocks.isLast(block));
    }
    return bytes;
  }

  private long blockBytes(boolean last) {
    return (ins.count() - 1) * layouts[Product.index(last, false)].bytes()
        + layouts[Product.index(last, true)].bytes();
  }

  /**
   * Computes.
   *
   * @param y address of y, of the type of factors
   * @param x address of x
   * @param memory of {@link #packedBytes}; of no meaning if x is not packed
   * @param w address of W, float32
   * @param add whether to add to W
   * @return Σ W²
   */
  double run(long y, long x, long memory, long w, boolean add) {
    if (shape.packed) {
      workers.run(
          blocks.count() * ins.count(),
          (item, scratch) -> {
            int block = item / ins.count();
            int piece = item % ins.count();
            long begin = scratch.beginProduct();
            reorders[Product.index(blocks.isLast(block), ins.isLast(piece))].run(
                scratch, x + source(block, piece), memory + packed(block, piece));
            scratch.endProduct(begin);
          });
    }
    double[] squares = new double[outs.count() * ins.count()];
    workers.run(
        squares.length,
        (item, scratch) -> {
          int out = item / ins.count();
          int in = item % ins.count();
          long to = w + (outs.start(out) * shape.in + ins.start(in)) * Float.BYTES;
          for (int block = 0; block < blocks.count(); block++) {
            long left = blocks.start(block) * shape.out + outs.start(out);
            long right = shape.packed ? memory + packed(block, in) : x + source(block, in);
            products[
                Product.index(
                    blocks.isLast(block), ins.isLast(in), outs.isLast(out), add || block > 0)]
                .run(scratch, y + left * bytes(shape.half), right, 0, to);
          }
          squares[item] =
              Reductions.squares(
                  to,
                  shape.in * Float.BYTES,
                  outs.size(outs.isLast(out)),
                  ins.size(ins.isLast(in)),
                  scratch);
        });
    return Reductions.sum(squares);
  }

  private long source(int block, int piece) {
    return (blocks.start(block) * shape.in + ins.start(piece)) * bytes(shape.halfSource);
  }

  private long packed(int block, int piece) {
    return block * blockBytes(false)
        + piece * layouts[Product.index(blocks.isLast(block), false)].bytes();
  }

  private static int bytes(boolean half) {
    return half ? Short.BYTES : Float.BYTES;
  }
}
