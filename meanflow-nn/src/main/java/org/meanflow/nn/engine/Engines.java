package org.meanflow.nn.engine;

import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.ServiceLoader;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** The engines on the class path, and the choice between them. */
public final class Engines {
  private static final Logger log = LoggerFactory.getLogger(Engines.class);

  private Engines() {}

  /** {@return all engines on the class path, the preferred first, whether they can run or not} */
  public static List<EngineProvider> providers() {
    return ServiceLoader.load(EngineProvider.class).stream()
        .map(ServiceLoader.Provider::get)
        .sorted(Comparator.comparingInt(EngineProvider::rank).reversed())
        .toList();
  }

  /**
   * Creates the engine called {@code name}, or, if that is {@code null}, the one that the system
   * property {@code meanflow.engine} names, or the best that can run here.
   *
   * @param name name of an engine, or {@code null} for no preference
   * @param precision its arithmetic
   * @return the engine, the caller's to close
   * @throws IllegalArgumentException if there is no engine of that name or it cannot run here
   */
  public static Engine create(@Nullable String name, Precision precision) {
    return create(name, precision, 0);
  }

  /**
   * Creates an engine as {@link #create(String, Precision)} does, with a number of threads.
   *
   * @param name name of an engine, or {@code null} for no preference
   * @param precision its arithmetic
   * @param threads CPU threads it may use; 0 for as many as there are processors
   * @return the engine, the caller's to close
   * @throws IllegalArgumentException if there is no engine of that name, it cannot run here, or it
   *     does not support {@code precision}
   */
  public static Engine create(@Nullable String name, Precision precision, int threads) {
    if (threads < 0) {
      throw new IllegalArgumentException("threads must be >= 0, got " + threads);
    }
    String wanted = name != null ? name : System.getProperty("meanflow.engine");
    List<EngineProvider> providers = providers();
    for (EngineProvider provider : providers) {
      if (wanted != null && !wanted.equals(provider.name())) {
        continue;
      }
      String reason = provider.unavailableBecause();
      if (reason == null && !provider.supports(precision)) {
        reason = "it has no precision " + precision.name().toLowerCase(Locale.ROOT);
      }
      if (reason == null) {
        log.debug("engine {}: {}", provider.name(), provider.description());
        return provider.create(precision, threads);
      }
      if (wanted != null) {
        throw new IllegalArgumentException(
            "engine '%s' cannot run here: %s".formatted(wanted, reason));
      }
      log.debug("engine {} cannot run here: {}", provider.name(), reason);
    }
    String known = providers.stream().map(EngineProvider::name).collect(Collectors.joining(", "));
    throw new IllegalArgumentException(
        wanted != null
            ? "engine must be one of [%s], got '%s'".formatted(known, wanted)
            : "no engine with precision %s can run here; add an ND4J backend such as nd4j-native to the class path"
                .formatted(precision.name().toLowerCase(Locale.ROOT)));
  }
}
