package org.meanflow.nn;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.EngineProvider;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.cuda.EmulatedDevice;

/**
 * The engines that can run here, each with those of its precisions that the references bound. With
 * {@code -Dmeanflow.test.engine=NAME} only that engine; with {@code -Dmeanflow.test.emulated=true}
 * the GPU of the cuda engine is the emulated one.
 */
public final class TestEngines {
  private static final boolean EMULATED = Boolean.getBoolean("meanflow.test.emulated");
  private static final @Nullable String ONLY = System.getProperty("meanflow.test.engine");

  private TestEngines() {}

  /** An engine by its name, and an arithmetic of its. */
  public record TestEngine(String name, Precision precision) {

    /** A new engine, the caller's to close. */
    public Engine create() {
      return Engines.create(name, precision);
    }

    @Override
    public String toString() {
      return name + " " + precision;
    }
  }

  /** Every engine, in float64 and float32 where it has them. */
  public static List<TestEngine> all() {
    return with(Precision.FP64, Precision.FP32);
  }

  /** Every engine that has one of these, with each that it has. */
  public static List<TestEngine> with(Precision... precisions) {
    if (EMULATED) {
      EmulatedDevice.use();
    }
    List<TestEngine> engines = new ArrayList<>();
    for (EngineProvider provider : Engines.providers()) {
      for (Precision precision : precisions) {
        boolean wanted = ONLY == null || ONLY.equals(provider.name());
        if (wanted && provider.unavailableBecause() == null && provider.supports(precision)) {
          engines.add(new TestEngine(provider.name(), precision));
        }
      }
    }
    return engines;
  }
}
