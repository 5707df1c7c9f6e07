package org.meanflow.nn.engine.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.HashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Precision;

/**
 * Products of matrices by cuBLASLt, with what it does on the way to an element: a bias added or its
 * gradient summed up, GELU or its slope taken. What is planned for a shape (descriptions,
 * algorithm) is kept.
 *
 * <p>cuBLASLt thinks column-major, so it is asked for the transpose: row-major D = op(A) op(B) is
 * column-major Dᵀ = op(B)ᵀ op(A)ᵀ on the same memory.
 */
final class Products implements AutoCloseable {
  /** What NVIDIA advises for Hopper. */
  private static final long WORKSPACE_BYTES = 32L << 20;

  private static final int COMPUTE_32F = 68;
  private static final int COMPUTE_32F_FAST_TF32 = 77;
  private static final int REAL_32F = 0;
  private static final int REAL_16BF = 14;
  private static final int TRANSPOSED = 1;
  private static final int DESC_TRANSA = 3;
  private static final int DESC_TRANSB = 4;
  private static final int DESC_EPILOGUE = 7;
  private static final int DESC_BIAS_POINTER = 8;
  private static final int DESC_AUX_POINTER = 11;
  private static final int DESC_AUX_STRIDE = 12;
  private static final int DESC_BIAS_DATA_TYPE = 26;

  /** What the stride of an epilogue's matrix must be a multiple of. */
  private static final int AUX_STRIDE_MULTIPLE = 8;

  private static final int PREF_WORKSPACE_BYTES = 1;
  private static final int PREF_ALIGNMENT_A = 5;
  private static final int PREF_ALIGNMENT_B = 6;
  private static final int PREF_ALIGNMENT_C = 7;
  private static final int PREF_ALIGNMENT_D = 8;

  /** cublasLtMatmulHeuristicResult_t: algorithm 64 bytes, workspace 8, state 4, waves 4, 16. */
  private static final long HEURISTIC_BYTES = 96;

  private final Cuda cuda;
  private final CudaStream stream;
  private final int computeType;
  private final long handle;
  private final MemoryPool pool;
  private final Block workspace;
  private final Map<Shape, Plan> planned = new HashMap<>();
  private final Arena arena = Arena.ofShared();

  /** The factors 1 and 0. */
  private final MemorySegment numbers = arena.allocate(8, 8);

  /** What happens beside the product itself; vector and matrix have the type of D. */
  enum Epilogue {
    NONE(1),
    /** A vector of m elements is added to each column of D. */
    BIAS(4),
    /** As BIAS, then GELU (tanh form). */
    BIAS_GELU(4 | 32),
    /** As BIAS_GELU, and a matrix {@code [m, n]} becomes what the GELU is taken of. */
    BIAS_GELU_KEPT(4 | 32 | 128),
    /** D is multiplied by the GELU's slope at a matrix {@code [m, n]}. */
    GELU_SLOPE(64 | 128),
    /** A vector of n elements becomes the sums of op(B) over k. */
    SUMS_OF_B(512);

    private final int code;

    Epilogue(int code) {
      this.code = code;
    }

    private boolean hasVector() {
      return (code & (4 | 512)) != 0;
    }

    private boolean hasMatrix() {
      return (code & 128) != 0;
    }
  }

  /**
   * A product as cuBLASLt sees it, column-major: D {@code [m, n]}, of an inner extent k.
   *
   * @param aTransposed whether A is stored {@code [k, m]}
   * @param bTransposed whether B is stored {@code [n, k]}
   * @param compact whether A and B are bfloat16
   * @param compactResult whether D is bfloat16
   * @param epilogue what else is done
   * @param alignment of A, B, D and the epilogue's vector and matrix: the largest powers of two up
   *     to 256 (16 for these two) that divide the addresses
   */
  record Shape(
      long m,
      long n,
      long k,
      boolean aTransposed,
      boolean bTransposed,
      boolean compact,
      boolean compactResult,
      Epilogue epilogue,
      long alignment) {}

  Products(Cuda cuda, CudaStream stream, MemoryPool pool, Precision precision) {
    this.cuda = cuda;
    this.stream = stream;
    this.pool = pool;
    this.computeType = precision == Precision.TF32 ? COMPUTE_32F_FAST_TF32 : COMPUTE_32F;
    cuda.makeCurrent();
    check(cuda.cublasLt, cuda.cublasLt.cublasLtCreate(numbers.address()), "cublasLtCreate");
    handle = numbers.get(ValueLayout.JAVA_LONG, 0);
    numbers.set(ValueLayout.JAVA_FLOAT, 0, 1);
    numbers.set(ValueLayout.JAVA_FLOAT, 4, 0);
    workspace = pool.allocate(WORKSPACE_BYTES);
  }

  /**
   * Row-major y = x wᵀ (+ bias).
   *
   * @param x {@code [rows, in]}
   * @param w {@code [out, in]}, of the type of x
   * @param bias {@code [out]}, of the type of y, or {@code null} for none
   * @param y {@code [rows, out]}
   * @return false, with nothing done, if cuBLASLt cannot add the bias
   */
  boolean timesTransposed(CudaTensor x, CudaTensor w, @Nullable CudaTensor bias, CudaTensor y) {
    Epilogue epilogue = bias == null ? Epilogue.NONE : Epilogue.BIAS;
    return multiply(
        w.dim(0), y.dim(0), w.dim(1), w, true, x, false, y, epilogue, address(bias), 0, false);
  }

  /**
   * Row-major h = x wᵀ + bias and y = GELU(h).
   *
   * @param x {@code [rows, in]}
   * @param w {@code [out, in]}, of the type of x
   * @param bias {@code [out]}, of the type of y
   * @param h {@code [rows, out]}, of the type of y, or {@code null} if not wanted
   * @param y {@code [rows, out]}
   * @return false, with nothing done, if cuBLASLt cannot do all of it
   */
  boolean geluOfTimesTransposed(
      CudaTensor x, CudaTensor w, CudaTensor bias, @Nullable CudaTensor h, CudaTensor y) {
    Epilogue epilogue = h == null ? Epilogue.BIAS_GELU : Epilogue.BIAS_GELU_KEPT;
    if (h != null) {
      h.block.version++;
    }
    return multiply(
        w.dim(0),
        y.dim(0),
        w.dim(1),
        w,
        true,
        x,
        false,
        y,
        epilogue,
        address(bias),
        address(h),
        false);
  }

  /**
   * Row-major y = GELU′(h) ⊙ (g w).
   *
   * @param g {@code [rows, out]}
   * @param w {@code [out, in]}, of the type of g
   * @param h {@code [rows, in]}, of the type of y
   * @param y {@code [rows, in]}
   * @return false, with nothing done, if cuBLASLt cannot take the slope
   */
  boolean timesWithGeluSlope(CudaTensor g, CudaTensor w, CudaTensor h, CudaTensor y) {
    return multiply(
        w.dim(1),
        y.dim(0),
        w.dim(0),
        w,
        false,
        g,
        false,
        y,
        Epilogue.GELU_SLOPE,
        0,
        h.address(),
        false);
  }

  /** Row-major y = x w, or y += x w; x {@code [rows, out]}, w {@code [out, in]}. */
  void times(CudaTensor x, CudaTensor w, CudaTensor y, boolean add) {
    multiply(w.dim(1), y.dim(0), w.dim(0), w, false, x, false, y, Epilogue.NONE, 0, 0, add);
  }

  /**
   * Row-major y = gᵀ x, or y += gᵀ x, and the sums of the columns of g.
   *
   * @param g {@code [rows, out]}
   * @param x {@code [rows, in]}, of the type of g
   * @param sums {@code [out]}, of the type of y, overwritten; {@code null} if not wanted
   * @param y {@code [out, in]}
   * @return false, with nothing done, if cuBLASLt cannot sum on the way
   */
  boolean transposedTimes(
      CudaTensor g, CudaTensor x, @Nullable CudaTensor sums, CudaTensor y, boolean add) {
    Epilogue epilogue = sums == null ? Epilogue.NONE : Epilogue.SUMS_OF_B;
    if (sums != null) {
      sums.block.version++;
    }
    return multiply(
        x.dim(1), g.dim(1), g.dim(0), x, false, g, true, y, epilogue, address(sums), 0, add);
  }

  private static long address(@Nullable CudaTensor tensor) {
    return tensor == null ? 0 : tensor.address();
  }

  private boolean multiply(
      long m,
      long n,
      long k,
      CudaTensor a,
      boolean aTransposed,
      CudaTensor b,
      boolean bTransposed,
      CudaTensor d,
      Epilogue epilogue,
      long vector,
      long matrix,
      boolean add) {
    if (epilogue.hasMatrix() && m % AUX_STRIDE_MULTIPLE != 0) {
      return false;
    }
    long alignment =
        alignment(a.address())
            | alignment(b.address()) << 10
            | alignment(d.address()) << 20
            | Math.min(16, alignment(vector)) << 30
            | Math.min(16, alignment(matrix)) << 40;
    Shape shape =
        new Shape(m, n, k, aTransposed, bTransposed, a.bfloat16, d.bfloat16, epilogue, alignment);
    Plan plan = planned.get(shape);
    if (plan == null) {
      plan = new Plan(shape);
      planned.put(shape, plan);
    }
    if (!plan.possible) {
      return false;
    }
    d.block.version++;
    stream.product(plan.number, a.address(), b.address(), d.address(), vector, matrix, add);
    return true;
  }

  private static long alignment(long address) {
    return address == 0 ? 0 : Math.min(256, Long.lowestOneBit(address));
  }

  private static int type(boolean compact) {
    return compact ? REAL_16BF : REAL_32F;
  }

  private static void check(CublasLtApi lt, int result, String call) {
    if (result != 0) {
      throw new CudaException(
          "%s failed: %s (%d)"
              .formatted(call, Cuda.string(lt.cublasLtGetStatusString(result)), result));
    }
  }

  /** A shape as cuBLASLt wants it described. */
  static final class Description implements AutoCloseable {
    private final CublasLtApi lt;
    private final Arena arena = Arena.ofShared();
    private final MemorySegment value = arena.allocate(8, 8);
    final long product;
    final long preference;
    final long a;
    final long b;
    final long d;

    Description(CublasLtApi lt, int computeType, Shape shape) {
      this.lt = lt;
      product =
          made(
              lt.cublasLtMatmulDescCreate(value.address(), computeType, REAL_32F),
              "cublasLtMatmulDescCreate");
      set(DESC_TRANSA, shape.aTransposed ? TRANSPOSED : 0, 4);
      set(DESC_TRANSB, shape.bTransposed ? TRANSPOSED : 0, 4);
      Epilogue epilogue = shape.epilogue;
      if (epilogue != Epilogue.NONE) {
        set(DESC_EPILOGUE, epilogue.code, 4);
      }
      if (epilogue.hasVector()) {
        set(DESC_BIAS_DATA_TYPE, type(shape.compactResult), 4);
      }
      if (epilogue.hasMatrix()) {
        set(DESC_AUX_STRIDE, shape.m, 8);
      }
      // Addresses that are as aligned as all that will come.
      point(epilogue, shape.alignment >> 30 & 1023, shape.alignment >> 40 & 1023);
      a =
          shape.aTransposed
              ? layout(shape.compact, shape.k, shape.m)
              : layout(shape.compact, shape.m, shape.k);
      b =
          shape.bTransposed
              ? layout(shape.compact, shape.n, shape.k)
              : layout(shape.compact, shape.k, shape.n);
      d = layout(shape.compactResult, shape.m, shape.n);
      preference =
          made(
              lt.cublasLtMatmulPreferenceCreate(value.address()), "cublasLtMatmulPreferenceCreate");
      prefer(PREF_WORKSPACE_BYTES, WORKSPACE_BYTES, 8);
      prefer(PREF_ALIGNMENT_A, shape.alignment & 1023, 4);
      prefer(PREF_ALIGNMENT_B, shape.alignment >> 10 & 1023, 4);
      prefer(PREF_ALIGNMENT_C, shape.alignment >> 20 & 1023, 4);
      prefer(PREF_ALIGNMENT_D, shape.alignment >> 20 & 1023, 4);
    }

    private long made(int result, String call) {
      check(lt, result, call);
      return value.get(ValueLayout.JAVA_LONG, 0);
    }

    private long layout(boolean compact, long rows, long columns) {
      return made(
          lt.cublasLtMatrixLayoutCreate(value.address(), type(compact), rows, columns, rows),
          "cublasLtMatrixLayoutCreate");
    }

    private void set(int attribute, long setting, int bytes) {
      value.set(ValueLayout.JAVA_LONG, 0, setting); // little-endian: the low bytes come first
      check(
          lt,
          lt.cublasLtMatmulDescSetAttribute(product, attribute, value.address(), bytes),
          "cublasLtMatmulDescSetAttribute");
    }

    /** Says where vector and matrix of the epilogue lie, if it has them. */
    void point(Epilogue epilogue, long vector, long matrix) {
      if (epilogue.hasVector()) {
        set(DESC_BIAS_POINTER, vector, 8);
      }
      if (epilogue.hasMatrix()) {
        set(DESC_AUX_POINTER, matrix, 8);
      }
    }

    private void prefer(int attribute, long setting, int bytes) {
      value.set(ValueLayout.JAVA_LONG, 0, setting);
      check(
          lt,
          lt.cublasLtMatmulPreferenceSetAttribute(preference, attribute, value.address(), bytes),
          "cublasLtMatmulPreferenceSetAttribute");
    }

    @Override
    public void close() {
      for (long layout : new long[] {a, b, d}) {
        check(lt, lt.cublasLtMatrixLayoutDestroy(layout), "cublasLtMatrixLayoutDestroy");
      }
      check(lt, lt.cublasLtMatmulPreferenceDestroy(preference), "cublasLtMatmulPreferenceDestroy");
      check(lt, lt.cublasLtMatmulDescDestroy(product), "cublasLtMatmulDescDestroy");
      arena.close();
    }
  }

  /** A description and the algorithm that cuBLASLt advises for it. */
  private final class Plan implements CudaStream.Product {
    private final Shape shape;
    private final Description description;
    private final MemorySegment algorithm = arena.allocate(HEURISTIC_BYTES, 16);
    private final int number;

    /** False if there is no algorithm with this epilogue; without one there always is. */
    private final boolean possible;

    Plan(Shape shape) {
      this.shape = shape;
      CublasLtApi lt = cuda.cublasLt;
      cuda.makeCurrent();
      description = new Description(lt, computeType, shape);
      MemorySegment found = arena.allocate(ValueLayout.JAVA_INT);
      int result =
          lt.cublasLtMatmulAlgoGetHeuristic(
              handle,
              description.product,
              description.a,
              description.b,
              description.d,
              description.d,
              description.preference,
              1,
              algorithm.address(),
              found.address());
      possible = result == 0 && found.get(ValueLayout.JAVA_INT, 0) > 0;
      number = possible ? stream.register(this) : -1;
      if (!possible && shape.epilogue == Epilogue.NONE) {
        description.close();
        throw new CudaException(
            "cuBLASLt knows no way to compute %s: %s (%d)"
                .formatted(shape, Cuda.string(lt.cublasLtGetStatusString(result)), result));
      }
    }

    @Override
    public void execute(
        long aAddress, long bAddress, long dAddress, long vector, long matrix, boolean add) {
      description.point(shape.epilogue, vector, matrix);
      int result =
          cuda.cublasLt.cublasLtMatmul(
              handle,
              description.product,
              numbers.address(),
              aAddress,
              description.a,
              bAddress,
              description.b,
              add ? numbers.address() : numbers.address() + 4,
              dAddress,
              description.d,
              dAddress,
              description.d,
              algorithm.address(),
              workspace.address,
              WORKSPACE_BYTES,
              stream.handle());
      if (result != 0) {
        check(cuda.cublasLt, result, "cublasLtMatmul of " + shape);
      }
    }
  }

  @Override
  public void close() {
    cuda.makeCurrent();
    planned.values().forEach(plan -> plan.description.close());
    check(cuda.cublasLt, cuda.cublasLt.cublasLtDestroy(handle), "cublasLtDestroy");
    pool.recycle(workspace);
    arena.close();
  }
}
