package org.meanflow.nn.engine.cpu;

/**
 * A matrix product C = A·B + bias, or C += A·B, of fixed shapes and layouts, compiled once. Each
 * call runs on the thread that makes it.
 */
interface Product extends AutoCloseable {

  /**
   * Computes.
   *
   * @param scratch of the calling thread
   * @param a address of A's first element
   * @param b address of B's first element
   * @param bias address of the bias; 0 without one
   * @param c address of C's first element
   */
  default void run(Scratch scratch, long a, long b, long bias, long c) {
    long begin = scratch.beginProduct();
    compute(scratch, a, b, bias, c);
    scratch.endProduct(begin);
  }

  /** What {@link #run} does. */
  void compute(Scratch scratch, long a, long b, long bias, long c);

  @Override
  default void close() {}

  /** The place of one of several products, told apart by bits. */
  static int index(boolean... bits) {
    int index = 0;
    for (boolean bit : bits) {
      index = 2 * index + (bit ? 1 : 0);
    }
    return index;
  }

  /**
   * How the elements of a matrix, or of a batch of matrices, lie in memory.
   *
   * @param half whether they are bfloat16
   * @param rowStride elements between rows
   * @param columnStride elements between columns
   * @param batchStride elements between matrices; of no meaning for a single one
   * @param packed oneDNN's descriptor of a matrix in blocks; 0 for a strided one
   */
  record Layout(boolean half, long rowStride, long columnStride, long batchStride, long packed) {

    static Layout rows(boolean half, long rowStride) {
      return new Layout(half, rowStride, 1, 0, 0);
    }

    static Layout transposed(boolean half, long columnStride) {
      return new Layout(half, 1, columnStride, 0, 0);
    }

    static Layout packed(boolean half, long descriptor) {
      return new Layout(half, 0, 0, 0, descriptor);
    }

    /** The same for a batch. */
    Layout every(long elements) {
      return new Layout(half, rowStride, columnStride, elements, packed);
    }

    /** Memory that a matrix in a packed layout takes. */
    long bytes() {
      return OneDnn.size(packed);
    }

    private int type() {
      return half ? OneDnn.BF16 : OneDnn.F32;
    }

    /** oneDNN's descriptor of {@code batch} such matrices. */
    long descriptor(long batch, long rows, long columns) {
      if (packed != 0) {
        return packed;
      }
      return batch == 1
          ? OneDnn.matrix(type(), rows, columns, rowStride, columnStride)
          : OneDnn.matrices(type(), batch, rows, columns, batchStride, rowStride, columnStride);
    }
  }

  /**
   * What a product is compiled for.
   *
   * @param batch number of products of one call
   * @param m rows of A and C
   * @param k columns of A, rows of B
   * @param n columns of B and C
   * @param a layout of A
   * @param b layout of B
   * @param c layout of C, rows contiguous
   * @param bias whether a row is added to every row of C; only without a batch
   * @param add whether the product is added to C
   */
  record Spec(
      long batch, long m, long k, long n, Layout a, Layout b, Layout c, boolean bias, boolean add) {

    /** A single product. */
    Spec(long m, long k, long n, Layout a, Layout b, Layout c, boolean bias, boolean add) {
      this(1, m, k, n, a, b, c, bias, add);
    }
  }
}
