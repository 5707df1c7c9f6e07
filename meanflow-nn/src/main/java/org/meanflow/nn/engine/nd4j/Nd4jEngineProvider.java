package org.meanflow.nn.engine.nd4j;

import java.util.Properties;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.EngineProvider;
import org.meanflow.nn.engine.Precision;
import org.nd4j.linalg.factory.Nd4j;

/** Offers {@link Nd4jEngine} wherever an ND4J backend starts. */
public final class Nd4jEngineProvider implements EngineProvider {

  /** Made by {@link java.util.ServiceLoader}. */
  public Nd4jEngineProvider() {}

  @Override
  public String name() {
    return "nd4j";
  }

  @Override
  public int rank() {
    return 0;
  }

  @Override
  public @Nullable String unavailableBecause() {
    try {
      Nd4j.getBackend();
      return null;
    } catch (RuntimeException | LinkageError e) {
      return "no ND4J backend starts (is nd4j-native or nd4j-cuda-11.6 on the class path?): " + e;
    }
  }

  @Override
  public boolean supports(Precision precision) {
    return precision == Precision.FP64 || precision == Precision.FP32;
  }

  @Override
  public String description() {
    Properties environment = Nd4j.getExecutioner().getEnvironmentInformation();
    return "ND4J backend %s, BLAS %s with %s kernels, %s threads"
        .formatted(
            environment.get("backend"),
            environment.get("blas.vendor"),
            OpenBlas.kernelSet().orElse("unknown"),
            environment.get("omp.threads"));
  }

  @Override
  public Engine create(Precision precision, int threads) {
    if (!supports(precision)) {
      throw new IllegalArgumentException("the nd4j engine has fp64 and fp32, got " + precision);
    }
    boolean cpu = "CPU".equals(Nd4j.getExecutioner().getEnvironmentInformation().get("backend"));
    int all = cpu ? Runtime.getRuntime().availableProcessors() : 1;
    return new Nd4jEngine(precision, threads > 0 ? threads : all);
  }
}
