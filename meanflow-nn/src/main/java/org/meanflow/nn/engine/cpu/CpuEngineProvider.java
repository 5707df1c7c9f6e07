package org.meanflow.nn.engine.cpu;

import java.util.concurrent.atomic.AtomicBoolean;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.EngineProvider;
import org.meanflow.nn.engine.Precision;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Offers {@link CpuEngine} where the Vector API is there. Touches no class that needs it before
 * that is known.
 */
public final class CpuEngineProvider implements EngineProvider {
  private static final Logger log = LoggerFactory.getLogger(CpuEngineProvider.class);
  private static final String VECTORS = "jdk.incubator.vector";
  private static final AtomicBoolean WARNED = new AtomicBoolean();

  /** Made by {@link java.util.ServiceLoader}. */
  public CpuEngineProvider() {}

  @Override
  public String name() {
    return "cpu";
  }

  @Override
  public int rank() {
    return 10;
  }

  @Override
  public @Nullable String unavailableBecause() {
    if (ModuleLayer.boot().findModule(VECTORS).isEmpty()) {
      if (!WARNED.getAndSet(true)) {
        log.warn(
            "the fast cpu engine needs the JVM flag --add-modules {}; a slower engine takes over",
            VECTORS);
      }
      return "the JVM was started without --add-modules " + VECTORS;
    }
    if (!OneDnn.available() && !BlasProduct.available()) {
      return "neither oneDNN (org.bytedeco:dnnl with its classifier for this platform) nor OpenBLAS"
          + " (from nd4j-native) is on the class path";
    }
    return null;
  }

  @Override
  public boolean supports(Precision precision) {
    return switch (precision) {
      case FP32 -> true;
      case BF16 -> OneDnn.hasBf16();
      case FP64, TF32 -> false;
    };
  }

  @Override
  public String description() {
    return "%s, vectors of %d floats, %d threads; precisions fp32%s"
        .formatted(
            OneDnn.available() ? OneDnn.description() : "OpenBLAS",
            Simd.LANES,
            Runtime.getRuntime().availableProcessors(),
            OneDnn.hasBf16() ? ", bf16" : "; no bf16: neither AVX-512-BF16 nor AMX here");
  }

  @Override
  public Engine create(Precision precision, int threads) {
    if (!supports(precision)) {
      throw new IllegalArgumentException("the cpu engine cannot compute in " + precision);
    }
    return new CpuEngine(
        precision, threads > 0 ? threads : Runtime.getRuntime().availableProcessors());
  }
}
