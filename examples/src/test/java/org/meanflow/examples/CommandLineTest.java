package org.meanflow.examples;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;
import org.meanflow.nn.engine.cuda.EmulatedDevice;
import picocli.CommandLine;

/** The command line as a user meets it: what it makes, and one clear line for each mistake. */
class CommandLineTest {
  private static final List<String> TINY =
      List.of(
          "model.width=16",
          "model.depth=1",
          "model.heads=2",
          "model.patch=7",
          "model.timeFeatures=8",
          "run.steps=3",
          "run.batch=4",
          "schedule.warmupSteps=1");

  @TempDir static Path folder;
  private static Path run;

  private record Result(int status, String out, String err) {
    /** The message, without the hint at --help. */
    String message() {
      return err.lines().filter(line -> line.startsWith("meanflow: ")).findFirst().orElse("");
    }
  }

  private static Result meanflow(String... arguments) {
    StringWriter out = new StringWriter();
    StringWriter err = new StringWriter();
    CommandLine command = MeanFlow.commandLine();
    command.setOut(new PrintWriter(out)).setErr(new PrintWriter(err));
    int status = command.execute(arguments);
    return new Result(status, out.toString(), err.toString());
  }

  private static Result train(Path out, String... more) {
    List<String> arguments =
        new ArrayList<>(List.of("train", "--recipe", "digits", "--out", out.toString()));
    TINY.forEach(setting -> arguments.addAll(List.of("--set", setting)));
    arguments.addAll(Arrays.asList(more));
    return meanflow(arguments.toArray(String[]::new));
  }

  @BeforeAll
  static void trainOnce() {
    run = folder.resolve("a run");
    Result result = train(run);
    assertThat(result.err).isEmpty();
    assertThat(result.status).isZero();
  }

  private static void assertFails(Result result, int status, String... parts) {
    assertThat(result.status).as(result.err).isEqualTo(status);
    assertThat(result.message()).contains(parts);
    assertThat(result.err).doesNotContain("\tat ");
  }

  @Test
  void aRunLeavesItsFiles() throws IOException {
    assertThat(run.resolve("config.yaml")).isRegularFile();
    assertThat(run.resolve("samples/step_000003.png")).isRegularFile();
    assertThat(run.resolve("checkpoints/step_000003/ema.safetensors")).isRegularFile();
    assertThat(Files.readAllLines(run.resolve("metrics.jsonl"))).hasSize(3);
    assertThat(run.resolve("environment.json")).content().contains("0.1.0", "engine", "fp32");
  }

  @Test
  void weightsOfARunAreChosenAndStartedFrom() throws IOException {
    String png = folder.resolve("raw.png").toString();
    String[] sample = {"sample", "--checkpoint", run.toString(), "--n", "1", "--out", png};
    List<String> arguments = new ArrayList<>(List.of(sample));
    arguments.addAll(List.of("--weights", "model"));
    assertThat(meanflow(arguments.toArray(String[]::new)).status).isZero();
    arguments.set(arguments.size() - 1, "ema-0.5");
    assertFails(meanflow(arguments.toArray(String[]::new)), 1, "ema-0.5.safetensors", "ema, model");

    Path finer = folder.resolve("finer");
    String[] init = {"--init", run.toString(), "--set", "model.depth=2"};
    assertFails(
        train(finer, init), 1, "does not fit", "blocks.1.attn.qkv.weight", "--init-partial");
    assertThat(meanflow("train", "--resume", finer.toString(), "--init-partial").status).isZero();
    assertThat(finer.resolve("checkpoints/step_000003")).isDirectory();
    assertFails(
        meanflow("train", "--resume", finer.toString(), "--init", run.toString()), 2, "--init");
  }

  @Test
  void samplesGoToPngAndNpy() throws IOException {
    Path png = folder.resolve("new folder/grid.png");
    Result result =
        meanflow("sample", "--checkpoint", run.toString(), "--n", "12", "--out", png.toString());
    assertThat(result.err).isEmpty();
    assertThat(result.status).isZero();
    assertThat(png).isRegularFile();

    Path npy = folder.resolve("three.npy");
    Path weights = run.resolve("checkpoints/step_000003/model.safetensors");
    for (String method : List.of("meanflow", "euler", "heun")) {
      Result drawn =
          meanflow(
              "sample",
              "--checkpoint",
              weights.toString(),
              "--n",
              "3",
              "--nfe",
              "4",
              "--method",
              method,
              "--labels",
              "0,7",
              "--seed",
              "5",
              "--out",
              npy.toString());
      assertThat(drawn.status).as(drawn.err).isZero();
    }
    byte[] header = Arrays.copyOf(Files.readAllBytes(npy), 128);
    assertThat(new String(header, StandardCharsets.ISO_8859_1)).contains("'<f4'", "(3,1,28,28,)");
    byte[] labels = Files.readAllBytes(folder.resolve("three.labels.npy"));
    assertThat(Arrays.copyOfRange(labels, labels.length - 12, labels.length))
        .isEqualTo(new byte[] {0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0});
  }

  @Test
  void aRunGoesOn() throws IOException {
    Path longer = folder.resolve("longer");
    assertThat(train(longer).status).isZero();
    assertThat(meanflow("train", "--resume", longer.toString(), "--steps", "5").status).isZero();
    assertThat(Files.readAllLines(longer.resolve("metrics.jsonl"))).hasSize(5);
    assertThat(longer.resolve("config.yaml")).content().contains("steps: 5");
  }

  @Test
  void gpusAreForTheCudaEngineAndNamedOnce() {
    Path none = folder.resolve("gpus");
    assertFails(train(none, "--gpus", "0,1", "--engine", "nd4j"), 2, "--gpus", "--engine nd4j");
    assertFails(train(none, "--gpus", "0,0"), 1, "each GPU once, got [0, 0]");
    assertThat(none).doesNotExist();
  }

  /** Each GPU takes two of the four samples of a batch. */
  @Test
  @Tag("cuda-emulated")
  void severalGpusTrainTogether() throws IOException {
    Path together = folder.resolve("together");
    EmulatedDevice.use(2);
    try {
      Result result = train(together, "--gpus", "0,1");
      assertThat(result.status).as(result.err).isZero();
    } finally {
      EmulatedDevice.release();
    }
    assertThat(Files.readAllLines(together.resolve("metrics.jsonl"))).hasSize(3);
    assertThat(together.resolve("environment.json")).content().contains("cuda");
    assertThat(together.resolve("checkpoints/step_000003/ema.safetensors")).isRegularFile();
  }

  /** What Ctrl-C does, with the signal that Java can send. */
  @Test
  @EnabledOnOs({OS.LINUX, OS.MAC})
  void anInterruptedRunIsSavedAndGoesOn() throws IOException, InterruptedException {
    Path interrupted = folder.resolve("interrupted");
    List<String> command =
        new ArrayList<>(
            List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--enable-native-access=ALL-UNNAMED",
                "--sun-misc-unsafe-memory-access=allow",
                "-cp",
                System.getProperty("java.class.path"),
                MeanFlow.class.getName(),
                "train",
                "--recipe",
                "digits",
                "--out",
                interrupted.toString()));
    TINY.forEach(setting -> command.addAll(List.of("--set", setting)));
    command.addAll(List.of("--steps", "1000000"));
    Path log = folder.resolve("interrupted.log");
    Process process =
        new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(log.toFile()).start();
    try {
      Path metrics = interrupted.resolve("metrics.jsonl");
      long deadline = System.nanoTime() + 120_000_000_000L;
      while ((!Files.exists(metrics) || Files.size(metrics) < 1000)
          && process.isAlive()
          && System.nanoTime() < deadline) {
        Thread.sleep(50);
      }
      process.destroy();
      assertThat(process.waitFor(60, TimeUnit.SECONDS)).isTrue();
      assertThat(process.exitValue()).as(Files.readString(log)).isEqualTo(128 + 15);
      assertThat(log).content().contains("--resume " + interrupted);
      int done = Files.readAllLines(metrics).size();
      String steps = String.valueOf(done + 2);
      assertThat(meanflow("train", "--resume", interrupted.toString(), "--steps", steps).status)
          .isZero();
      assertThat(Files.readAllLines(metrics)).hasSize(done + 2);
    } finally {
      process.destroyForcibly();
    }
  }

  @Test
  void withoutTheVectorModuleAnotherEngineTakesOver() throws IOException, InterruptedException {
    Path out = folder.resolve("toy.png");
    List<String> command = new ArrayList<>();
    command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
    command.addAll(List.of("--enable-native-access=ALL-UNNAMED", "-cp"));
    command.add(System.getProperty("java.class.path"));
    command.addAll(List.of(MeanFlow.class.getName(), "toy2d", "--steps", "3"));
    command.addAll(List.of("--out", out.toString()));
    Path log = folder.resolve("plain.log");
    Process process =
        new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(log.toFile()).start();
    try {
      assertThat(process.waitFor(120, TimeUnit.SECONDS)).isTrue();
      assertThat(process.exitValue()).as(Files.readString(log)).isZero();
      assertThat(Files.readAllLines(log))
          .filteredOn(line -> line.contains("--add-modules jdk.incubator.vector"))
          .hasSize(1);
      assertThat(out).isNotEmptyFile();
    } finally {
      process.destroyForcibly();
    }
  }

  @Test
  void helpAndInfo() {
    for (String command : List.of("train", "sample", "info")) {
      Result help = meanflow(command, "--help");
      assertThat(help.status).isZero();
      assertThat(help.out).contains("Usage: meanflow " + command);
    }
    Result info = meanflow("info");
    assertThat(info.status).isZero();
    assertThat(info.out).contains("JDK", "engine   nd4j", "kernels");
  }

  @Test
  void badUsage() {
    assertFails(meanflow(), 2, "name a command");
    assertFails(meanflow("fly"), 2, "fly");
    assertFails(meanflow("train"), 2, "--recipe", "--resume");
    assertFails(train(folder.resolve("x1"), "--steps", "-3"), 2, "run.steps", "-3");
    assertFails(train(folder.resolve("x2"), "--set", "model.dept=3"), 2, "model.dept", "depth");
    assertFails(train(folder.resolve("x3"), "--set", "flow.loss.p=nan"), 2, "p must");
    assertFails(meanflow("train", "--recipe", "dogs"), 2, "dogs", "digits");
    assertFails(train(folder.resolve("x4"), "--engine", "abacus"), 1, "abacus", "nd4j");
    assertFails(
        meanflow("sample", "--checkpoint", run.toString(), "--n", "0", "--out", "a.png"),
        2,
        "--n",
        "0");
    assertFails(
        meanflow(
            "sample",
            "--checkpoint",
            run.toString(),
            "--n",
            "1",
            "--labels",
            "10",
            "--out",
            folder.resolve("a.png").toString()),
        2,
        "--labels",
        "10");
    assertFails(
        meanflow("sample", "--checkpoint", run.toString(), "--n", "1", "--out", "a.gif"),
        1,
        "a.gif",
        ".png",
        ".npy");
    for (int i = 1; i <= 4; i++) {
      assertThat(folder.resolve("x" + i)).doesNotExist();
    }
  }

  @Test
  void placesThatCannotBeWritten() throws IOException {
    Path file = Files.writeString(folder.resolve("file"), "precious");
    assertFails(train(file.resolve("below")), 1, "file");
    assertFails(train(file), 1, "is a file");
    assertFails(train(run), 1, "already holds a run", "--resume");
    assertThat(file).hasContent("precious");
    assertFails(
        meanflow(
            "sample",
            "--checkpoint",
            run.toString(),
            "--n",
            "1",
            "--out",
            file.resolve("a.png").toString()),
        1,
        "a.png");
  }

  @Test
  void damagedAndMissingFiles() throws IOException {
    Path copy = folder.resolve("damaged.safetensors");
    byte[] whole = Files.readAllBytes(run.resolve("checkpoints/step_000003/ema.safetensors"));
    Files.write(copy, Arrays.copyOf(whole, whole.length - 100));
    String out = folder.resolve("never.png").toString();
    assertFails(
        meanflow("sample", "--checkpoint", copy.toString(), "--n", "1", "--out", out),
        1,
        "damaged.safetensors",
        "byte");
    assertFails(
        meanflow(
            "sample", "--checkpoint", folder.resolve("no").toString(), "--n", "1", "--out", out),
        1,
        "there is no such file");
    assertFails(
        meanflow("sample", "--checkpoint", folder.toString(), "--n", "1", "--out", out),
        1,
        "holds no run");
    assertFails(meanflow("train", "--resume", folder.toString()), 1, "holds no run");
    assertThat(Path.of(out)).doesNotExist();
  }

  @Test
  void damagedData() throws IOException {
    Path data = Files.createDirectory(folder.resolve("data"));
    Path images = data.resolve("train-images-idx3-ubyte");
    Path labels = data.resolve("train-labels-idx1-ubyte");
    Files.write(images, idx(0x803, 2, 28, 28));
    Files.write(labels, idx(0x801, 3));
    assertFails(mnist(data, "d1"), 1, "train-labels-idx1-ubyte", "3", "2");
    byte[] whole = Files.readAllBytes(images);
    Files.write(images, Arrays.copyOf(whole, whole.length - 5));
    assertFails(mnist(data, "d2"), 1, "train-images-idx3-ubyte", "byte");
    assertFails(mnist(folder.resolve("nowhere"), "d3"), 1, "train-images-idx3-ubyte");
    try (Stream<Path> made = Files.list(folder)) {
      assertThat(made.map(path -> path.getFileName().toString())).doesNotContain("d1", "d2", "d3");
    }
  }

  @Test
  void benchPrintsOneLine() throws IOException {
    Path rows = folder.resolve("rows.jsonl");
    Result result =
        meanflow(
            "bench",
            "--engine=nd4j",
            "--what=sample",
            "--profile",
            "--warmup=1",
            "--iters=2",
            "--append=" + rows);

    assertThat(result.status).isZero();
    assertThat(result.out.lines()).hasSize(1);
    JsonNode line = new JsonMapper().readTree(result.out);
    assertThat(line.path("config").asText()).isEqualTo("digits");
    assertThat(line.path("engine").asText()).isEqualTo("nd4j");
    assertThat(line.path("precision").asText()).isEqualTo("fp32");
    assertThat(line.path("iters").asInt()).isEqualTo(2);
    assertThat(line.path("threads").asInt()).isPositive();
    double milliseconds = line.path("ms_median").asDouble();
    assertThat(line.path("ms_min").asDouble()).isPositive().isLessThanOrEqualTo(milliseconds);
    assertThat(line.path("images_per_s").asDouble() * milliseconds / 64e3).isBetween(0.99, 1.01);
    assertThat(line.path("gflops").asDouble() * milliseconds / 5.34e3).isBetween(0.95, 1.05);
    assertThat(result.err).contains("Attention").contains("GFLOP/s");
    assertThat(rows).hasContent(result.out);
  }

  @Test
  void benchRefusesWhatItCannotMeasure() {
    assertFails(meanflow("bench", "--config", "nothing"), 2, "nothing", "mnist-s2");
    assertFails(meanflow("bench", "--what", "trainer", "--profile"), 2, "--profile");
    assertFails(meanflow("bench", "--iters", "-1"), 2, "--iters");
    assertFails(meanflow("bench", "--engine", "nd4j", "--precision", "bf16"), 1, "bf16", "nd4j");
  }

  @Test
  void aStackTraceOnlyOnDemand() {
    Result result =
        meanflow(
            "sample",
            "--checkpoint",
            folder.resolve("no").toString(),
            "--n",
            "1",
            "--out",
            "a.png",
            "--verbose");
    assertThat(result.status).isEqualTo(1);
    assertThat(result.err).contains("\tat ");
  }

  private static Result mnist(Path data, String out) {
    return meanflow(
        "train",
        "--recipe",
        "mnist",
        "--data",
        data.toString(),
        "--out",
        folder.resolve(out).toString());
  }

  /** An IDX file of zeros. */
  private static byte[] idx(int magic, int... dimensions) {
    int values = Arrays.stream(dimensions).reduce(1, Math::multiplyExact);
    ByteBuffer file = ByteBuffer.allocate(4 + 4 * dimensions.length + values).putInt(magic);
    Arrays.stream(dimensions).forEach(file::putInt);
    return file.array();
  }
}
