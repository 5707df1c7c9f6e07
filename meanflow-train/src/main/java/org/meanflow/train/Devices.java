package org.meanflow.train;

import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.cuda.CudaEngine;
import org.meanflow.nn.engine.cuda.CudaEngineProvider;
import org.meanflow.nn.engine.cuda.NcclGroup;

/** What a run computes on: one engine, or several that each take their part of every batch. */
public final class Devices implements AutoCloseable {
  private final List<Device> devices;
  private final List<AutoCloseable> owned;

  /**
   * One of the devices of a run.
   *
   * @param engine computes
   * @param reducer joins it with the others
   */
  public record Device(Engine engine, GradientReducer reducer) {}

  private Devices(List<Device> devices, List<AutoCloseable> owned) {
    this.devices = List.copyOf(devices);
    this.owned = owned;
  }

  /**
   * A single engine.
   *
   * @param engine computes; stays the caller's to close
   * @return it alone
   */
  public static Devices of(Engine engine) {
    return new Devices(List.of(new Device(engine, GradientReducer.NONE)), List.of());
  }

  /**
   * GPUs of this machine. One alone needs no NCCL.
   *
   * @param precision their arithmetic, one that the cuda engine has
   * @param numbers which GPUs, each once, as {@code meanflow.cuda.device} would say it; their order
   *     is that of the parts of a batch; at least one
   * @return an engine on each, the caller's to close
   * @throws org.meanflow.nn.engine.cuda.CudaException if one cannot be used or they cannot be
   *     joined, with the reason
   */
  public static Devices gpus(Precision precision, List<String> numbers) {
    if (numbers.isEmpty() || Set.copyOf(numbers).size() < numbers.size()) {
      throw new IllegalArgumentException("gpus must name each GPU once, got " + numbers);
    }
    List<AutoCloseable> owned = new ArrayList<>();
    try {
      List<CudaEngine> engines = new ArrayList<>();
      for (String number : numbers) {
        CudaEngine engine = CudaEngineProvider.create(precision, number);
        owned.add(engine);
        engines.add(engine);
      }
      if (engines.size() == 1) {
        Device alone = new Device(engines.getFirst(), GradientReducer.NONE);
        return new Devices(List.of(alone), owned);
      }
      NcclGroup group = new NcclGroup(engines);
      owned.add(group);
      List<Device> devices = new ArrayList<>();
      for (int rank = 0; rank < engines.size(); rank++) {
        devices.add(new Device(engines.get(rank), new NcclReducer(group, rank)));
      }
      return new Devices(devices, owned);
    } catch (RuntimeException e) {
      close(owned, e);
      throw e;
    }
  }

  /** {@return the devices, in the order of their ranks} */
  public List<Device> all() {
    return devices;
  }

  /** {@return the engine of the first device} */
  public Engine first() {
    return devices.getFirst().engine();
  }

  @Override
  public void close() {
    RuntimeException failure = new IllegalStateException("devices cannot be closed");
    close(owned, failure);
    if (failure.getSuppressed().length > 0) {
      throw failure;
    }
  }

  /** Closes in reverse order: what was made last uses what was made first. */
  private static void close(List<AutoCloseable> owned, Exception failure) {
    for (AutoCloseable resource : owned.reversed()) {
      try {
        resource.close();
      } catch (Exception e) {
        failure.addSuppressed(e);
      }
    }
  }
}
