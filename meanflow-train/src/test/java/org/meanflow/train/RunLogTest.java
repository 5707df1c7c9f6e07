package org.meanflow.train;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.awt.image.BufferedImage;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.Base64;
import java.util.List;
import java.util.Random;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.LongStream;
import java.util.stream.StreamSupport;
import javax.imageio.ImageIO;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;
import org.meanflow.train.recipe.Recipe;
import org.meanflow.train.run.EventFiles;
import org.meanflow.train.run.Metric;
import org.meanflow.train.run.Metrics;
import org.meanflow.train.run.MetricsLog;
import org.meanflow.train.run.RunDirectory;

/** What a run keeps says the same in every form. */
class RunLogTest {
  private static final Pattern NUMBERS =
      Pattern.compile("<script type=\"application/json\" id=\"metrics\">(.*?)</script>");
  private static final Pattern IMAGE =
      Pattern.compile("<img src=\"data:image/png;base64,([^\"]*)\"");

  private static final Pattern GUARD_ROW =
      Pattern.compile("<tr><th>step [0-9,]+</th><td>(.*?)</td></tr>");

  @TempDir Path folder;
  private RunDirectory run;

  @BeforeEach
  void makeARun() throws IOException {
    run = RunDirectory.create(folder.resolve("run"), Recipe.load("digits"));
  }

  @Test
  void allFormsAgree() throws IOException {
    try (RunLog log = RunLog.resume(run, 0)) {
      steps(log, 1, 100, 1);
      log.report();
    }
    assertAgreement(100, 25, 50, 75, 100);
  }

  @Test
  void allFormsAgreeAfterALongRun() throws IOException {
    try (RunLog log = RunLog.resume(run, 0)) {
      steps(log, 1, 1_000, 1);
      log.report();
    }
    assertAgreement(1_000, LongStream.rangeClosed(1, 40).map(i -> 25 * i).toArray());
    assertThat(numbers().get("first")).hasSize(240);
  }

  @Test
  void allFormsAgreeAfterStepsWereLost() throws IOException {
    try (RunLog log = RunLog.resume(run, 0)) {
      steps(log, 1, 130, 1);
      log.report();
    }
    try (RunLog log = RunLog.resume(run, 60)) {
      steps(log, 61, 90, 2);
    }
    try (RunLog log = RunLog.resume(run, 80)) {
      steps(log, 81, 110, 3);
      log.report();
    }
    assertAgreement(110, 25, 50, 75, 100);
  }

  @Test
  void allFormsAgreeWhereNumbersAreMissing() throws IOException {
    double infinity = Double.POSITIVE_INFINITY;
    try (RunLog log = RunLog.resume(run, 0)) {
      for (long step = 1; step <= 5; step++) {
        double loss = step == 3 ? Double.NaN : 1;
        log.append(
            new Metrics(
                step,
                loss,
                infinity,
                1e-4,
                Double.NaN,
                1,
                64,
                0.01,
                Double.NaN,
                0,
                "",
                Instant.EPOCH));
      }
      log.report();
    }
    assertThat(numbers().at("/curves/loss/median").get(2).isNull()).isTrue();
    assertAgreement(5);
  }

  @Test
  void aRunOfOneStepAndAnEmptyOneHaveReports() throws IOException {
    try (RunLog log = RunLog.resume(run, 0)) {
      log.report();
      assertThat(run.report()).content().contains("No step has been taken yet");
      steps(log, 1, 1, 1);
      log.report();
    }
    assertAgreement(1);
  }

  /** The checkpoint of step 8 is gone, as if the process had died before it was written. */
  @Test
  void allFormsAgreeAfterATrainingThatDiedAndWentOn() throws IOException {
    Recipe recipe = TinyRun.recipe("run.steps=8");
    run = RunDirectory.create(folder.resolve("trained"), recipe);
    try (Engine engine = Engines.create("nd4j", Precision.FP32)) {
      new TrainingRun(recipe, run, new TinyRun.Greys(false), engine).run(null);
      assertAgreement(8, 0, 4, 8);
      RunDirectory.delete(run.checkpoint(8));
      Recipe longer = recipe.with(List.of("run.steps=14"));
      new TrainingRun(longer, run, new TinyRun.Greys(false), engine).run(run.checkpoint(4));
      assertAgreement(14, 0, 4, 8, 12, 14);
      assertThat(run.report()).content().contains("14<small> of 14</small>", "<dt>engine</dt>");
    }
  }

  /** A grid is drawn after each 25th step. */
  private void steps(RunLog log, long from, long to, long seed) throws IOException {
    Random random = new Random(seed);
    for (long step = from; step <= to; step++) {
      double loss = Math.exp(-0.01 * step) + 0.1 * random.nextDouble();
      double speed = 10 + random.nextGaussian();
      Instant time = Instant.parse("2025-05-19T12:00:00.25Z").plusSeconds(step);
      log.append(
          new Metrics(
              step,
              loss,
              loss * loss,
              1e-4,
              1 / loss,
              speed,
              64 * speed,
              0.01,
              500,
              step / 40,
              guard(step),
              time));
      if (step % 25 == 0) {
        BufferedImage grid = new BufferedImage(9, 6, BufferedImage.TYPE_BYTE_GRAY);
        grid.getRaster().setPixel(0, 0, new int[] {random.nextInt(256)});
        Files.createDirectories(run.samples());
        ImageIO.write(grid, "png", run.sample(step).toFile());
        log.sampled(step);
      }
    }
  }

  private static String guard(long step) {
    return step % 40 == 7 ? "skipped: step <" + step + "> is no number" : "";
  }

  private JsonNode numbers() throws IOException {
    Matcher numbers = NUMBERS.matcher(Files.readString(run.report()));
    assertThat(numbers.find()).isTrue();
    return new ObjectMapper().readTree(numbers.group(1));
  }

  private void assertAgreement(int steps, long... grids) throws IOException {
    List<Metrics> log = MetricsLog.read(run.metrics());
    EventFiles events = EventFiles.read(run.tensorboard());
    JsonNode report = numbers();
    assertThat(log)
        .extracting(Metrics::step)
        .containsExactlyElementsOf(LongStream.rangeClosed(1, steps).boxed().toList());
    assertThat(report.get("records").asInt()).isEqualTo(steps);
    for (Metric metric : Metric.all()) {
      if (!metric.name().equals("step")) {
        List<EventFiles.Scalar> scalars = events.scalars("train/" + metric.name());
        assertThat(scalars).hasSize(steps);
        for (int i = 0; i < steps; i++) {
          assertThat(scalars.get(i).step()).isEqualTo(log.get(i).step());
          assertThat(scalars.get(i).wallTime())
              .isEqualTo(log.get(i).time().toEpochMilli() / 1000.0);
          assertSame(scalars.get(i).value(), metric.of(log.get(i)));
        }
        assertBins(log, metric, report);
      }
    }
    List<EventFiles.Text> said =
        log.stream()
            .filter(each -> !each.guard().isEmpty())
            .map(each -> new EventFiles.Text("train/guard", each.step(), each.guard()))
            .toList();
    assertThat(events.texts()).isEqualTo(said);
    List<String> rows =
        GUARD_ROW.matcher(Files.readString(run.report())).results().map(r -> r.group(1)).toList();
    assertThat(rows)
        .containsExactlyElementsOf(
            said.stream()
                .map(each -> each.text().replace("<", "&lt;").replace(">", "&gt;"))
                .toList());
    assertThat(events.images()).extracting(EventFiles.Image::step).containsExactly(boxed(grids));
    for (EventFiles.Image image : events.images()) {
      assertThat(image.file()).isEqualTo(Files.readAllBytes(run.sample(image.step())));
    }
    assertThat(run.drawnSamples()).containsOnlyKeys(boxed(grids));
    List<Long> shown =
        StreamSupport.stream(report.get("grids").spliterator(), false)
            .map(JsonNode::asLong)
            .toList();
    assertThat(shown).hasSize(Math.min(grids.length, 12)).isSubsetOf(boxed(grids)).isSorted();
    if (grids.length > 0) {
      assertThat(shown).contains(grids[0], grids[grids.length - 1]);
    }
    List<byte[]> images =
        IMAGE
            .matcher(Files.readString(run.report()))
            .results()
            .map(image -> Base64.getDecoder().decode(image.group(1)))
            .toList();
    assertThat(images).hasSameSizeAs(shown);
    for (int i = 0; i < shown.size(); i++) {
      assertThat(images.get(i)).isEqualTo(Files.readAllBytes(run.sample(shown.get(i))));
    }
  }

  /** JSON has no infinity, so the log says "unknown" for both. */
  private static void assertSame(float event, double logged) {
    if (Double.isNaN(logged)) {
      assertThat(Float.isFinite(event)).isFalse();
    } else {
      assertThat(event).isEqualTo((float) logged);
    }
  }

  private static void assertBins(List<Metrics> log, Metric metric, JsonNode report) {
    JsonNode curve = report.get("curves").get(metric.name());
    long next = 1;
    for (int bin = 0; bin < report.get("first").size(); bin++) {
      long first = report.get("first").get(bin).asLong();
      long last = report.get("last").get(bin).asLong();
      assertThat(first).isEqualTo(next);
      assertThat(last).isGreaterThanOrEqualTo(first);
      next = last + 1;
      double[] values =
          log.stream()
              .filter(each -> each.step() >= first && each.step() <= last)
              .mapToDouble(metric::of)
              .filter(value -> !Double.isNaN(value))
              .sorted()
              .toArray();
      if (values.length == 0) {
        assertThat(curve.get("median").get(bin).isNull()).isTrue();
        continue;
      }
      assertThat(curve.get("low").get(bin).doubleValue()).isEqualTo(values[0]);
      assertThat(curve.get("high").get(bin).doubleValue()).isEqualTo(values[values.length - 1]);
      double median = curve.get("median").get(bin).doubleValue();
      long below = java.util.Arrays.stream(values).filter(value -> value < median).count();
      long above = java.util.Arrays.stream(values).filter(value -> value > median).count();
      assertThat(2 * Math.max(below, above)).isLessThanOrEqualTo(values.length);
    }
    assertThat(next).isEqualTo(log.size() + 1);
  }

  private static Long[] boxed(long... values) {
    return LongStream.of(values).boxed().toArray(Long[]::new);
  }
}
