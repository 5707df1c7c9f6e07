package org.meanflow.examples;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;
import org.meanflow.train.Checkpoint;
import org.meanflow.train.run.Metrics;
import org.meanflow.train.run.MetricsLog;
import org.meanflow.train.run.RunDirectory;

/**
 * A run that is killed at random moments, again and again, ends with the same bits as one that is
 * left alone. {@code -Dmeanflow.kills=100} kills it more often, {@code -Dmeanflow.kills.seed=5} at
 * other moments.
 */
@EnabledOnOs({OS.LINUX, OS.MAC}) // where destroyForcibly sends SIGKILL
class KilledRunTest {
  private static final int KILLS = Integer.getInteger("meanflow.kills", 15);
  private static final long SEED = Long.getLong("meanflow.kills.seed", 1);
  private static final int INTERVAL = 5;
  private static final long PATIENCE_NANOS = 120_000_000_000L;

  /** About as long as a process takes to its first step, so that some kills come before it. */
  private static final int STARTUP_MS = 2500;

  /** About as long as a checkpoint and the steps up to the next take. */
  private static final int CYCLE_MS = 200;

  /** About as long as a checkpoint takes to be written. */
  private static final int SAVING_MS = 20;

  private static final List<String> SETTINGS =
      List.of(
          "model.width=16",
          "model.depth=1",
          "model.heads=2",
          "model.timeFeatures=8",
          "schedule.kind=constant", // does not depend on run.steps
          "schedule.warmupSteps=20",
          "ema.decay=[0.9, 0.9999]",
          "guard.onNonFinite=skip",
          "guard.spikeThreshold=4", // so that some steps are skipped, which the state must tell
          "guard.limit=1000000",
          "guard.window=8",
          "run.batch=4",
          "run.accumulate=2",
          "run.previewEvery=50",
          "run.checkpointEvery=" + INTERVAL);

  @TempDir Path folder;

  private Process start(Path run, long steps) throws IOException {
    List<String> command =
        new ArrayList<>(
            List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--enable-native-access=ALL-UNNAMED",
                "--sun-misc-unsafe-memory-access=allow",
                "--add-modules",
                "jdk.incubator.vector",
                "-cp",
                System.getProperty("java.class.path"),
                MeanFlow.class.getName(),
                "train",
                "--steps",
                String.valueOf(steps)));
    if (Files.exists(run.resolve("config.yaml"))) {
      command.addAll(List.of("--resume", run.toString()));
    } else {
      command.addAll(List.of("--recipe", "digits", "--out", run.toString()));
      SETTINGS.forEach(setting -> command.addAll(List.of("--set", setting)));
    }
    return new ProcessBuilder(command)
        .redirectErrorStream(true)
        .redirectOutput(ProcessBuilder.Redirect.appendTo(log(run).toFile()))
        .start();
  }

  private static Path log(Path run) {
    return run.resolveSibling(run.getFileName() + ".log");
  }

  private void finish(Path run, long steps) throws IOException, InterruptedException {
    Process process = start(run, steps);
    try {
      assertThat(process.waitFor(PATIENCE_NANOS, TimeUnit.NANOSECONDS)).isTrue();
      assertThat(process.exitValue()).as(Files.readString(log(run))).isZero();
    } finally {
      process.destroyForcibly();
    }
  }

  @Test
  void killedAtRandomMomentsItEndsWithTheSameBits() throws IOException, InterruptedException {
    Random random = new Random(SEED);
    Path run = folder.resolve("killed");
    long saved = 0;
    int kills = 0;
    int lost = 0;
    int whileSaving = 0;
    for (; kills < KILLS; kills++) {
      Process process = start(run, 1_000_000);
      try {
        if (kills % 4 == 3) {
          Thread.sleep(random.nextInt(STARTUP_MS));
        } else {
          awaitCheckpointAfter(saved, run, process);
          if (kills % 4 == 1) {
            awaitSaving(run, process);
            Thread.sleep(random.nextInt(SAVING_MS));
          } else {
            Thread.sleep(random.nextInt(CYCLE_MS));
          }
        }
        assertThat(process.isAlive()).as(Files.readString(log(run))).isTrue();
      } finally {
        process.destroyForcibly();
        process.waitFor();
      }
      if (Files.exists(run.resolve("config.yaml"))) {
        RunDirectory directory = RunDirectory.open(run);
        assertThat(Checkpoint.newestWhole(directory))
            .as("the newest is whole")
            .isEqualTo(directory.newestCheckpoints().stream().findFirst());
        long now = newest(run);
        assertThat(now).isGreaterThanOrEqualTo(saved);
        saved = now;
        long done = lastRecord(run);
        assertThat(done - saved).as("steps lost").isBetween(0L, (long) INTERVAL);
        lost += (int) (done - saved);
        whileSaving += halfSaved(run) ? 1 : 0;
      }
    }
    long steps = saved + INTERVAL + 2;
    finish(run, steps);
    Path whole = folder.resolve("whole");
    finish(whole, steps);
    assertSame(run, whole, steps);
    System.out.printf(
        "%d kills in %d steps, %d while saving; %d steps done twice; the same bit for bit%n",
        kills, steps, whileSaving, lost);
  }

  private static boolean halfSaved(Path run) throws IOException {
    try (Stream<Path> files = Files.list(run.resolve("checkpoints"))) {
      return files.anyMatch(file -> file.getFileName().toString().endsWith(".incomplete"));
    }
  }

  private static void assertSame(Path run, Path whole, long steps) throws IOException {
    Path expected = RunDirectory.open(whole).checkpoint(steps);
    Path actual = RunDirectory.open(run).checkpoint(steps);
    List<String> names;
    try (Stream<Path> files = Files.list(expected)) {
      names = files.map(file -> file.getFileName().toString()).sorted().toList();
    }
    assertThat(names)
        .contains(
            "model.safetensors",
            "ema.safetensors",
            "ema-0.9999.safetensors",
            "optimizer.safetensors",
            "state.json");
    for (String name : names) {
      assertThat(Files.mismatch(actual.resolve(name), expected.resolve(name)))
          .as(name)
          .isEqualTo(-1);
    }
    List<Object> records = comparable(run);
    assertThat(records).hasSize((int) steps).isEqualTo(comparable(whole));
    assertThat(expected.resolve("state.json"))
        .as("steps were skipped, too")
        .content()
        .doesNotContain("\"skipped\" : 0");
  }

  /** The metrics without times and what is computed from times. */
  private static List<Object> comparable(Path run) throws IOException {
    List<Object> records = new ArrayList<>();
    for (Metrics each : MetricsLog.read(run.resolve("metrics.jsonl"))) {
      records.add(
          Arrays.asList(
              each.step(),
              each.loss(),
              each.mse(),
              each.lr(),
              each.gradNorm(),
              each.epoch(),
              each.guard()));
    }
    return records;
  }

  private static void awaitCheckpointAfter(long saved, Path run, Process process)
      throws IOException, InterruptedException {
    long deadline = System.nanoTime() + PATIENCE_NANOS;
    while (newest(run) <= saved && process.isAlive() && System.nanoTime() < deadline) {
      Thread.sleep(2);
    }
    assertThat(newest(run)).as(Files.readString(log(run))).isGreaterThan(saved);
  }

  private static void awaitSaving(Path run, Process process) throws IOException {
    long deadline = System.nanoTime() + PATIENCE_NANOS;
    while (!halfSaved(run) && process.isAlive() && System.nanoTime() < deadline) {
      Thread.onSpinWait();
    }
  }

  private static long newest(Path run) throws IOException {
    Path checkpoints = run.resolve("checkpoints");
    return Files.exists(checkpoints)
        ? RunDirectory.checkpointsIn(checkpoints).stream()
            .mapToLong(folder -> Long.parseLong(folder.getFileName().toString().substring(5)))
            .findFirst()
            .orElse(0)
        : 0;
  }

  private static long lastRecord(Path run) throws IOException {
    Path file = run.resolve("metrics.jsonl");
    List<Metrics> records = Files.exists(file) ? MetricsLog.read(file) : List.of();
    return records.isEmpty() ? 0 : records.getLast().step();
  }
}
