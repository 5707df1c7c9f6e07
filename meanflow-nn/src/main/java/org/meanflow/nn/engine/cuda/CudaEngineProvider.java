package org.meanflow.nn.engine.cuda;

import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.EngineProvider;
import org.meanflow.nn.engine.Precision;

/**
 * Offers {@link CudaEngine} wherever there is a GPU for it. Where to find the libraries may be said
 * by system properties, or environment variables of their names (MEANFLOW_CUDA_DRIVER):
 *
 * <ul>
 *   <li>{@code meanflow.cuda.driver}, {@code meanflow.cuda.nvrtc}, {@code meanflow.cuda.cublasLt}:
 *       files
 *   <li>{@code meanflow.cuda.python}: a site-packages folder whose {@code nvidia} packages hold
 *       them
 *   <li>{@code meanflow.cuda.device}: number of the GPU, 0 by default
 *   <li>{@code meanflow.cuda.cache}: folder of compiled kernels; empty for none
 *   <li>{@code meanflow.cuda.graphs}: {@code false} launches every kernel by itself
 *   <li>{@code meanflow.cuda.fusedGelu}: {@code true} or {@code false}, whether cuBLASLt takes the
 *       GELU of a feed-forward network along with the product; by default in TF32 and bfloat16 on
 *       compute capability 9.0 and newer
 * </ul>
 */
public final class CudaEngineProvider implements EngineProvider {
  private static final List<String> SETTINGS =
      List.of(
          "meanflow.cuda.driver",
          "meanflow.cuda.nvrtc",
          "meanflow.cuda.cublasLt",
          "meanflow.cuda.python",
          "meanflow.cuda.device",
          "meanflow.cuda.cache");

  /** What was found under these settings; found out once. */
  private record Search(
      List<String> settings, @Nullable Cuda cuda, @Nullable CudaException failure) {}

  private static @Nullable Search last;

  /** Made by {@link java.util.ServiceLoader}. */
  public CudaEngineProvider() {}

  private static synchronized Search search() {
    List<String> settings =
        SETTINGS.stream()
            .map(name -> Objects.requireNonNullElse(LibraryFinder.setting(name), ""))
            .toList();
    Search known = last;
    if (known != null && known.settings.equals(settings)) {
      return known;
    }
    Search found;
    try {
      found = new Search(settings, new Cuda(LibraryFinder::setting), null);
    } catch (CudaException e) {
      found = new Search(settings, null, e);
    }
    last = found;
    return found;
  }

  private static Cuda cuda() {
    Search search = search();
    if (search.cuda == null) {
      throw Objects.requireNonNull(search.failure);
    }
    return search.cuda;
  }

  @Override
  public String name() {
    return "cuda";
  }

  @Override
  public int rank() {
    return 20;
  }

  @Override
  public @Nullable String unavailableBecause() {
    CudaException failure = search().failure;
    return failure == null ? null : failure.getMessage();
  }

  @Override
  public boolean supports(Precision precision) {
    return precision != Precision.FP64;
  }

  @Override
  public String description() {
    return cuda().description();
  }

  @Override
  public Engine create(Precision precision, int threads) {
    if (!supports(precision)) {
      throw new IllegalArgumentException(
          "the cuda engine has fp32, tf32 and bf16, got " + precision);
    }
    return engine(cuda(), precision);
  }

  /**
   * An engine on one of several GPUs.
   *
   * @param precision its arithmetic, a {@linkplain #supports supported} one
   * @param device number of the GPU, as {@code meanflow.cuda.device} would be
   * @return the engine, the caller's to close
   * @throws CudaException if that GPU cannot be used, with the reason
   */
  public static CudaEngine create(Precision precision, String device) {
    return engine(
        new Cuda(
            name -> "meanflow.cuda.device".equals(name) ? device : LibraryFinder.setting(name)),
        precision);
  }

  private static CudaEngine engine(Cuda cuda, Precision precision) {
    String graphs = LibraryFinder.setting("meanflow.cuda.graphs");
    String gelu = LibraryFinder.setting("meanflow.cuda.fusedGelu");
    boolean replayed = graphs == null || Boolean.parseBoolean(graphs);
    return gelu == null
        ? new CudaEngine(cuda, precision, replayed)
        : new CudaEngine(cuda, precision, replayed, Boolean.parseBoolean(gelu));
  }
}
