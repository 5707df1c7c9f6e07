package org.meanflow.examples.bench;

import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.LocalDate;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import org.meanflow.examples.CommonOptions;
import org.meanflow.examples.Cpu;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.EngineProvider;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** Measures. */
@Command(
    name = "bench",
    description = "Measures a training step or a sample on random weights; prints one JSON line.")
public final class BenchCommand implements Callable<Integer> {
  private static final JsonMapper JSON = new JsonMapper();

  /** What is timed. */
  enum What {
    /** A training step by itself. */
    STEP,
    /** A batch of samples, one network evaluation each. */
    SAMPLE,
    /** A step of the trainer, and in turn with it the step by itself. */
    TRAINER
  }

  /** A switch. */
  enum Switch {
    /** Yes. */
    ON,
    /** No. */
    OFF
  }

  @Option(
      names = "--config",
      paramLabel = "C",
      defaultValue = "digits",
      description =
          "network and batch: digits, mnist-s2, latent-b4, dit-b4-256, dit-b2-64, dit-xl2-32"
              + " (default: ${DEFAULT-VALUE})")
  private String configName;

  @Option(
      names = "--what",
      paramLabel = "W",
      defaultValue = "step",
      description = "step, sample, or trainer: its step against the bare one (default: step)")
  private What what;

  @Option(
      names = "--precision",
      paramLabel = "P",
      defaultValue = "fp32",
      description = "${COMPLETION-CANDIDATES} (default: ${DEFAULT-VALUE})")
  private Precision precision;

  @Option(
      names = "--guidance",
      paramLabel = "on|off",
      defaultValue = "off",
      description = "whether the target asks for the unconditional velocity (default: off)")
  private Switch guidance;

  @Option(
      names = "--iters",
      paramLabel = "N",
      defaultValue = "0",
      description = "repetitions timed (default: about ten seconds)")
  private int iterations;

  @Option(
      names = "--warmup",
      paramLabel = "N",
      defaultValue = "0",
      description =
          "repetitions beforehand (default: 20 to 60 seconds, until little is left to be compiled)")
  private int warmup;

  @Option(
      names = "--gemm",
      description = "measure plain matrix products instead; gflops is the best of them")
  private boolean gemm;

  @Option(names = "--profile", description = "print where the time goes, and compare with --gemm")
  private boolean profile;

  @Option(
      names = "--append",
      paramLabel = "FILE",
      description = "also append the line to this .jsonl file")
  private @Nullable Path append;

  @Option(
      names = "--draw",
      paramLabel = "DIR",
      description = "measure nothing; draw the .jsonl files of a folder into its README.md")
  private @Nullable Path draw;

  @Mixin private final CommonOptions common = new CommonOptions();
  @Spec private CommandSpec spec;

  @Override
  public Integer call() throws IOException {
    if (draw != null) {
      BenchPage.draw(draw);
      return 0;
    }
    BenchConfig config = config();
    require(common.threads >= 0, "--threads must be >= 0, got " + common.threads);
    require(iterations >= 0, "--iters must be >= 0, got " + iterations);
    require(warmup >= 0, "--warmup must be >= 0, got " + warmup);
    require(!profile || what != What.TRAINER, "--profile goes with --what step or sample");
    try (Engine engine = Engines.create(common.engine, precision, common.threads)) {
      Map<String, Object> line = new LinkedHashMap<>();
      if (gemm) {
        line.put("what", "gemm");
        describe(engine, line);
        Map<String, Double> shapes = Gemm.all(engine);
        line.put("shapes", shapes);
        line.put("gflops", Collections.max(shapes.values()));
      } else {
        line.put("config", config.name());
        line.put("what", lower(what));
        describe(engine, line);
        line.put("guidance", lower(guidance));
        line.put("batch", config.batch());
        measure(config, engine, line);
      }
      surroundings(line);
      report(line);
    }
    return 0;
  }

  private void measure(BenchConfig config, Engine engine, Map<String, Object> line) {
    boolean guided = guidance == Switch.ON;
    Profile watcher = profile ? new Profile() : null;
    Engine computing = watcher == null ? engine : watcher.watch(engine);
    OtherProcesses others = new OtherProcesses();
    Timings timings =
        switch (what) {
          case STEP -> timed(new Workload.Step(config, computing, guided, watcher), watcher);
          case SAMPLE -> timed(new Workload.Sample(config, computing, watcher), watcher);
          case TRAINER -> timeTrainer(config, engine, guided, line);
        };
    Flops flops = Flops.of(config.model(), config.batch());
    double gflop =
        1e-9 * (what == What.SAMPLE ? flops.forward() : flops.step(Workload.DISTINCT, guided));
    line.put("iters", timings.count());
    line.put("ms_median", rounded(timings.median(), 3));
    line.put("ms_min", rounded(timings.min(), 3));
    line.put("ms_p90", rounded(timings.p90(), 3));
    line.put("images_per_s", rounded(config.batch() / timings.median() * 1e3, 2));
    line.put("gflop_per_step", rounded(gflop, 4));
    line.put("gflops", rounded(gflop / timings.median() * 1e3, 1));
    if (!Double.isNaN(timings.heap())) {
      line.put("heap_mb", rounded(timings.heap(), 2));
    }
    Double otherCores = others.cores();
    if (otherCores != null) {
      line.put("others_cores", rounded(otherCores, 2));
    }
    if (watcher != null) {
      reportProfile(watcher, engine, timings.count(), line);
    }
  }

  private Timings timed(Workload workload, @Nullable Profile watcher) {
    try (workload) {
      Runnable work =
          watcher == null
              ? workload::run
              : () -> watcher.time("noise, target, loss", workload::run);
      Timings.warmUp(work, warmup);
      if (watcher != null) {
        watcher.clear();
      }
      return Timings.measure(work, iterations > 0 ? iterations : profile ? 10 : 0);
    }
  }

  /** In turn with the bare step, so that whatever else slows the machine down slows both. */
  private Timings timeTrainer(
      BenchConfig config, Engine engine, boolean guided, Map<String, Object> line) {
    try (Workload step = new Workload.Step(config, engine, guided, null);
        Workload trainer = new Workload.TrainerStep(config, engine, guided)) {
      List<Double> bareTimes = new ArrayList<>();
      List<Double> trainerTimes = new ArrayList<>();
      Runnable both =
          () -> {
            bareTimes.add(Timings.time(step::run));
            trainerTimes.add(Timings.time(trainer::run));
          };
      Timings.warmUp(both, warmup);
      int count = Timings.measure(both, iterations).count();
      Timings bare = last(bareTimes, count);
      Timings whole = last(trainerTimes, count);
      line.put("bare_ms_median", rounded(bare.median(), 3));
      line.put("overhead_percent", rounded(100 * (whole.median() / bare.median() - 1), 2));
      return whole;
    }
  }

  private void reportProfile(
      Profile watched, Engine engine, int repetitions, Map<String, Object> line) {
    Profile.Cost gemmCost = watched.gemm();
    double share = 100 * gemmCost.milliseconds() / watched.sum(key -> true).milliseconds();
    double speed = gemmCost.flops() / gemmCost.milliseconds() * 1e-6;
    double peak = Collections.max(Gemm.all(engine).values());
    PrintWriter err = spec.commandLine().getErr();
    err.print(watched.table(repetitions));
    err.printf(
        Locale.ROOT,
        "%.1f %% in products of matrices, at %.1f GFLOP/s: %.1f %% of the %.1f GFLOP/s that plain"
            + " products reach here%n",
        share,
        speed,
        100 * speed / peak,
        peak);
    err.flush();
    line.put("gemm_percent", rounded(share, 1));
    line.put("gemm_gflops", rounded(speed, 1));
    line.put("gemm_peak_gflops", peak);
  }

  private void describe(Engine engine, Map<String, Object> line) {
    line.put("precision", lower(precision));
    line.put("engine", engine.name());
    for (EngineProvider provider : Engines.providers()) {
      if (provider.name().equals(engine.name())) {
        line.put("device", provider.description());
      }
    }
    line.put(
        "threads",
        common.threads > 0 ? common.threads : Runtime.getRuntime().availableProcessors());
  }

  private static void surroundings(Map<String, Object> line) {
    put(line, "peak_rss_mb", Surroundings.peakMemory());
    put(line, "commit", Surroundings.commit());
    line.put("cpu", Cpu.description());
    line.put("jdk", Runtime.version().toString());
    line.put("date", LocalDate.now(ZoneOffset.UTC).toString());
  }

  private void report(Map<String, Object> line) throws IOException {
    String json = JSON.writeValueAsString(line);
    spec.commandLine().getOut().println(json);
    spec.commandLine().getOut().flush();
    if (append != null) {
      Files.writeString(append, json + "\n", StandardOpenOption.CREATE, StandardOpenOption.APPEND);
    }
  }

  private BenchConfig config() {
    try {
      return BenchConfig.named(configName);
    } catch (IllegalArgumentException e) {
      throw new ParameterException(spec.commandLine(), String.valueOf(e.getMessage()), e);
    }
  }

  private static Timings last(List<Double> times, int count) {
    return Timings.of(
        times.subList(times.size() - count, times.size()).stream()
            .mapToDouble(Double::doubleValue)
            .toArray());
  }

  private static void put(Map<String, Object> line, String key, @Nullable Object value) {
    if (value != null) {
      line.put(key, value);
    }
  }

  private static String lower(Enum<?> value) {
    return value.name().toLowerCase(Locale.ROOT);
  }

  private static double rounded(double value, int digits) {
    double unit = Math.pow(10, digits);
    return Math.rint(value * unit) / unit;
  }

  private void require(boolean valid, String message) {
    if (!valid) {
      throw new ParameterException(spec.commandLine(), message);
    }
  }
}
