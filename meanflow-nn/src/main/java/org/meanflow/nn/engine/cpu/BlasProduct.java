package org.meanflow.nn.engine.cpu;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.util.Map;
import java.util.Objects;
import org.bytedeco.javacpp.Loader;
import org.jspecify.annotations.Nullable;
import org.nd4j.linalg.factory.Nd4j;

/** A float32 product by the OpenBLAS that ND4J brings, for platforms without oneDNN. */
final class BlasProduct implements Product {
  private static final int ROW_MAJOR = 101;
  private static final int AS_IS = 111;
  private static final int TRANSPOSED = 112;

  private static final @Nullable MethodHandle SGEMM = find();

  private final Spec spec;

  BlasProduct(Spec spec) {
    this.spec = spec;
  }

  /** {@return whether there is an OpenBLAS} */
  static boolean available() {
    return SGEMM != null;
  }

  @Override
  public void compute(Scratch scratch, long a, long b, long bias, long c) {
    for (long i = 0; i < spec.batch(); i++) {
      single(
          a + i * spec.a().batchStride() * Float.BYTES,
          b + i * spec.b().batchStride() * Float.BYTES,
          bias,
          c + i * spec.c().batchStride() * Float.BYTES);
    }
  }

  private void single(long a, long b, long bias, long c) {
    long stride = spec.c().rowStride();
    if (spec.bias()) {
      for (long row = 0; row < spec.m(); row++) {
        Simd.copyRow(bias, c + row * stride * Float.BYTES, spec.n());
      }
    }
    try {
      Objects.requireNonNull(SGEMM)
          .invokeExact(
              ROW_MAJOR,
              transposition(spec.a()),
              transposition(spec.b()),
              (int) spec.m(),
              (int) spec.n(),
              (int) spec.k(),
              1f,
              a,
              leading(spec.a()),
              b,
              leading(spec.b()),
              spec.add() || spec.bias() ? 1f : 0f,
              c,
              (int) stride);
    } catch (RuntimeException | Error e) {
      throw e;
    } catch (Throwable e) {
      throw new IllegalStateException("cblas_sgemm failed", e);
    }
  }

  private static int transposition(Layout layout) {
    return layout.columnStride() == 1 ? AS_IS : TRANSPOSED;
  }

  private static int leading(Layout layout) {
    return (int) (layout.columnStride() == 1 ? layout.rowStride() : layout.columnStride());
  }

  private static @Nullable MethodHandle find() {
    try {
      Nd4j.getBackend(); // loads it
    } catch (RuntimeException | LinkageError e) {
      return null;
    }
    ValueLayout.OfInt n = ValueLayout.JAVA_INT;
    ValueLayout.OfLong p = ValueLayout.JAVA_LONG;
    ValueLayout.OfFloat f = ValueLayout.JAVA_FLOAT;
    for (Map.Entry<String, String> library : Loader.getLoadedLibraries().entrySet()) {
      if (library.getKey().startsWith("openblas@")) {
        return SymbolLookup.libraryLookup(library.getValue(), Arena.global())
            .find("cblas_sgemm")
            .map(
                symbol ->
                    Linker.nativeLinker()
                        .downcallHandle(
                            symbol,
                            FunctionDescriptor.ofVoid(n, n, n, n, n, n, f, p, n, p, n, f, p, n)))
            .orElse(null);
      }
    }
    return null;
  }
}
