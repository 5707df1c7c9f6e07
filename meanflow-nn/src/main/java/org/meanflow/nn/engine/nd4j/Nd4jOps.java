package org.meanflow.nn.engine.nd4j;

import java.util.HashMap;
import java.util.Map;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.api.ops.impl.transforms.pairwise.arithmetic.AddOp;
import org.nd4j.linalg.api.ops.impl.transforms.pairwise.arithmetic.MulOp;
import org.nd4j.linalg.factory.Nd4j;

/** What the kernels are built from. */
final class Nd4jOps {
  private final Nd4jEngine engine;
  private final Map<Long, INDArray> ones = new HashMap<>();

  Nd4jOps(Nd4jEngine engine) {
    this.engine = engine;
  }

  /**
   * C = op(A) op(B), or C += …, all row-major. BLAS is asked for the transpose of everything, since
   * a row-major matrix is a column-major transpose; any other order makes ND4J copy.
   */
  static void gemm(
      Tensor a, boolean transposeA, Tensor b, boolean transposeB, Tensor c, boolean add) {
    Nd4j.gemm(
        columnMajor(b), columnMajor(a), columnMajor(c), transposeB, transposeA, 1, add ? 1 : 0);
  }

  private static INDArray columnMajor(Tensor matrix) {
    return ((Nd4jTensor) matrix).columnMajor(matrix.dim(1), matrix.dim(0));
  }

  /** Sums of the columns of {@code [rows, columns]}, as a product with ones. */
  void sumRows(Tensor x, Tensor y, boolean add) {
    Nd4j.gemm(
        columnMajor(x),
        ones(x.dim(0)),
        ((Nd4jTensor) y).columnMajor(y.size(), 1),
        false,
        false,
        1,
        add ? 1 : 0);
  }

  INDArray ones(long rows) {
    return ones.computeIfAbsent(
        rows, n -> Nd4j.ones(engine.precision().dataType(), n).reshape('f', n, 1));
  }

  static INDArray array(Tensor tensor) {
    return ((Nd4jTensor) tensor).array();
  }

  /** z = x + y with broadcasting. */
  static void add(INDArray x, INDArray y, INDArray z) {
    Nd4j.exec(new AddOp(x, y, z));
  }

  /** z = x ⊙ y with broadcasting. */
  static void multiply(INDArray x, INDArray y, INDArray z) {
    Nd4j.exec(new MulOp(x, y, z));
  }

  @FunctionalInterface
  interface Computation {
    void writeTo(INDArray result);
  }

  /** Computes into {@code target}, or into a work array that is then added to it. */
  void into(Tensor target, boolean add, Computation computation) {
    if (!add) {
      computation.writeTo(array(target));
      return;
    }
    try (Tensor term = engine.allocate(target.shape())) {
      computation.writeTo(array(term));
      array(target).addi(array(term));
    }
  }

  /** A result that is a sum of terms. */
  final class Sum {
    private final Tensor target;
    private boolean started;

    Sum(Tensor target) {
      this.target = target;
    }

    void add(Computation term) {
      into(target, started, term);
      started = true;
    }
  }
}
