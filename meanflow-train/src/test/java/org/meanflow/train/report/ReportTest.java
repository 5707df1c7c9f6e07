package org.meanflow.train.report;

import static org.assertj.core.api.Assertions.assertThat;

import java.awt.image.BufferedImage;
import java.io.IOException;
import java.io.StringReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.List;
import java.util.Random;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;
import javax.imageio.ImageIO;
import javax.xml.parsers.DocumentBuilderFactory;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.meanflow.train.recipe.Recipe;
import org.meanflow.train.run.Metrics;
import org.meanflow.train.run.MetricsLog;
import org.meanflow.train.run.RunDirectory;
import org.xml.sax.InputSource;

class ReportTest {
  private static final Pattern SVG = Pattern.compile("<svg .*?</svg>", Pattern.DOTALL);
  private static final Pattern ADDRESS =
      Pattern.compile("(?:src|href|action|data)=\"([^\"]*)\"|url\\(([^)]*)\\)|@import|//[a-z]");

  @TempDir Path folder;
  private RunDirectory run;

  @BeforeEach
  void makeARun() throws IOException {
    run = RunDirectory.create(folder.resolve("run"), Recipe.load("digits"));
  }

  @Test
  void itShowsStandCurvesGridsAndSettings() throws IOException {
    log(700, 1400);
    grids(200, 400, 600);
    String html = Report.of(run).html();
    assertThat(html)
        .contains("<title>run · MeanFlow</title>")
        .contains("<progress max=\"1400\" value=\"700\">")
        .contains("700<small> of 1,400</small>")
        .contains("to go")
        .contains("<figcaption>loss</figcaption>", "<figcaption>images per second</figcaption>")
        .contains("<figcaption>step 400</figcaption>")
        .contains("<dt>times.fractionEqual</dt><dd>0.5</dd>")
        .contains("<dt>seed</dt><dd>1</dd>")
        .doesNotContain("{{");
    assertThat(SVG.matcher(html).results()).hasSize(6);
  }

  @Test
  void aFinishedRunSaysSo() throws IOException {
    log(1400, 1400);
    assertThat(Report.of(run).html()).contains("finished").doesNotContain("to go");
  }

  /** Whatever could make a browser load something is data or a place in the page. */
  @Test
  void itNeedsNoOtherFile() throws IOException {
    log(50, 1400);
    grids(50);
    String html = Report.of(run).html();
    assertThat(html).contains("content=\"default-src 'none'; img-src data:;");
    List<String> addresses =
        ADDRESS
            .matcher(html)
            .results()
            .map(found -> found.group(1) != null ? found.group(1) : found.group(2))
            .toList();
    assertThat(addresses)
        .isNotEmpty()
        .allMatch(address -> address != null && address.matches("data:.*|#[a-zA-Z]+-clip[0-9]+"));
  }

  /** So that each fits both colour schemes and none cuts off another. */
  @Test
  void chartsTakeTheirColorsFromThePageAndHaveNamesOfTheirOwn() throws Exception {
    log(1000, 1400);
    String html = Report.of(run).html();
    List<String> charts = SVG.matcher(html).results().map(MatchResult::group).toList();
    assertThat(charts).hasSize(6);
    for (String chart : charts) {
      DocumentBuilderFactory.newInstance()
          .newDocumentBuilder()
          .parse(new InputSource(new StringReader(chart)));
      assertThat(chart).contains("var(--line)", "var(--band)", "var(--grid)", "var(--ticks)");
      assertThat(chart).doesNotContain("rgb(");
    }
    List<String> names =
        Pattern.compile(" id=\"([^\"]*)\"").matcher(html).results().map(id -> id.group(1)).toList();
    assertThat(names).doesNotHaveDuplicates();
  }

  @Test
  void namesAndTextsStayText() throws IOException {
    String hostile = "</script><script>alert(1)</script>&\"";
    run = RunDirectory.create(folder.resolve("<b>run & \"co"), Recipe.load("digits"));
    Files.writeString(
        run.config(),
        "\"<i>\":\n  \"<u>\": '"
            + hostile
            + "'\nrun:\n  steps: 3\n  note: \"{{metrics}}$1\\\\\"\n");
    log(3, 3);
    String html = Report.of(run).html();
    assertThat(html)
        .doesNotContain("<b>", "<i>", "<u>", "<script>alert")
        .contains("&lt;b&gt;run &amp; &quot;co")
        .contains("<dd>{{metrics}}$1\\</dd>")
        .contains("&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;");
  }

  /** A million steps: 240 bins; a hundred large grids: as many as fit, the newest always. */
  @Test
  void itsSizeIsBounded() throws IOException {
    log(20_000, 1_000_000);
    Random random = new Random(1);
    BufferedImage noise = new BufferedImage(700, 500, BufferedImage.TYPE_3BYTE_BGR);
    byte[] pixels = new byte[700 * 500 * 3];
    for (int i = 1; i <= 20; i++) {
      random.nextBytes(pixels);
      noise.getRaster().setDataElements(0, 0, 700, 500, pixels);
      ImageIO.write(noise, "png", run.sample(1000L * i).toFile());
    }
    String html = Report.of(run).html();
    assertThat(html.length()).isLessThan(5_000_000);
    assertThat(html)
        .contains("<figcaption>step 1,000</figcaption>", "<figcaption>step 20,000</figcaption>");
  }

  @Test
  void curvesThatStandStillOrSpanDecadesAreDrawn() throws IOException {
    try (MetricsLog log = MetricsLog.resume(run.metrics(), 0)) {
      for (long step = 1; step <= 100; step++) {
        double mse = Math.pow(10, -step / 20.0);
        log.append(new Metrics(step, 0, mse, 1e-4, mse, 1, 64, 0.01, 500, 0, "", Instant.EPOCH));
      }
    }
    assertThat(SVG.matcher(Report.of(run).html()).results()).hasSize(6);
  }

  @Test
  void whatTheGuardDidIsMarkedAndListed() throws IOException {
    log(20, 20);
    assertThat(Report.of(run).html())
        .contains("No step was refused")
        .doesNotContain("stroke:var(--mark)");
    try (MetricsLog log = MetricsLog.resume(run.metrics(), 20)) {
      for (long step = 21; step <= 60; step++) {
        log.append(
            new Metrics(
                step, 1, 1, 1, 1, 1, 64, 0, 500, 0, "skipped: <no> " + step, Instant.EPOCH));
      }
      log.append(Metrics.ended(61, "the run ended"));
    }
    String html = Report.of(run).html();
    assertThat(html)
        .contains("The last 30 of 41.", "<th>step 32</th><td>skipped: &lt;no&gt; 32</td>")
        .contains("<th>step 61</th><td>the run ended</td>", "ended by the guard")
        .doesNotContain("<th>step 31</th>", "finished");
    List<String> charts = SVG.matcher(html).results().map(MatchResult::group).toList();
    assertThat(charts).hasSize(6).allMatch(chart -> chart.contains("stroke:var(--mark)"));
  }

  /** What the page needs to tell the bin under the pointer. */
  @Test
  void chartsSayWhereTheirBinsAre() throws IOException {
    log(1000, 1400);
    List<MatchResult> places =
        Pattern.compile(
                "data-metric=\"([a-zA-Z]+)\" data-left=\"([0-9.]+)\" data-right=\"([0-9.]+)\"")
            .matcher(Report.of(run).html())
            .results()
            .toList();
    assertThat(places)
        .extracting(place -> place.group(1))
        .containsExactly("loss", "mse", "lr", "gradNorm", "imagesPerSecond", "memory");
    for (MatchResult place : places) {
      double left = Double.parseDouble(place.group(2));
      double right = Double.parseDouble(place.group(3));
      assertThat(left).isBetween(20.0, 120.0);
      assertThat(right).isBetween(380.0, 440.0);
    }
  }

  @Test
  void whatTheRunWasComputedWithIsShown() throws IOException {
    Files.writeString(run.root().resolve("environment.json"), "{\"engine\":\"abacus\"}");
    assertThat(Report.of(run).html()).contains("<dt>engine</dt><dd>abacus</dd>");
  }

  @Test
  void itIsWrittenAsAWhole() throws IOException {
    log(3, 3);
    Report report = Report.of(run);
    report.write();
    assertThat(run.report()).hasContent(report.html());
    report.write();
    try (var files = Files.list(run.root())) {
      assertThat(files.map(file -> file.getFileName().toString()))
          .containsExactlyInAnyOrder(
              "config.yaml", "metrics.jsonl", "report.html", "samples", "checkpoints");
    }
  }

  private void log(int steps, long of) throws IOException {
    Files.writeString(
        run.config(), Files.readString(run.config()).replaceFirst("  steps: .*", "  steps: " + of));
    Random random = new Random(1);
    try (MetricsLog log = MetricsLog.resume(run.metrics(), 0)) {
      for (long step = 1; step <= steps; step++) {
        double loss = 0.3 + 0.1 * random.nextDouble();
        double speed = 3 + random.nextDouble();
        log.append(
            new Metrics(
                step,
                loss,
                loss,
                1e-4 * step,
                1,
                speed,
                64 * speed,
                0.01,
                500,
                0,
                "",
                Instant.EPOCH));
      }
    }
  }

  private void grids(long... steps) throws IOException {
    for (long step : steps) {
      BufferedImage grid = new BufferedImage(9, 6, BufferedImage.TYPE_BYTE_GRAY);
      ImageIO.write(grid, "png", run.sample(step).toFile());
    }
  }
}
