package org.meanflow.train.report;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.dataformat.yaml.YAMLMapper;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.time.Duration;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.meanflow.nn.weights.AtomicFile;
import org.meanflow.train.run.Metric;
import org.meanflow.train.run.Metrics;
import org.meanflow.train.run.MetricsReader;
import org.meanflow.train.run.RunDirectory;

/**
 * How a run went, or goes: where it stands, its curves, grids of samples over time and settings, in
 * one HTML file that needs no other. It is made from the files of the run, so it can be made at any
 * time, by any process.
 *
 * <p>Its size is bounded: the curves of a long run are drawn from at most 240 bins, and of many or
 * large grids some are left out. The numbers behind the curves stand in the file as JSON, in the
 * element {@code metrics}.
 */
public final class Report {
  private static final int BINS = 240;
  private static final int GRIDS = 12;
  private static final long GRID_BYTES = 3_000_000;
  private static final int SPEED_WINDOW = 50;
  private static final int GUARD_ROWS = 30;
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final Pattern SLOT = Pattern.compile("\\{\\{([a-z]+)}}");
  private static final DateTimeFormatter MINUTE =
      DateTimeFormatter.ofPattern("yyyy-MM-dd HH:mm 'UTC'", Locale.ROOT).withZone(ZoneOffset.UTC);

  private final RunDirectory directory;
  private final List<Metrics> records;
  private final Bins bins;
  private final ObjectNode settings;
  private final SortedMap<Long, byte[]> grids;

  private Report(
      RunDirectory directory,
      List<Metrics> records,
      ObjectNode settings,
      SortedMap<Long, byte[]> grids) {
    this.directory = directory;
    this.records = records;
    this.bins = Bins.of(records, BINS);
    this.settings = settings;
    this.grids = grids;
  }

  /**
   * Reads what a report shows. The run may be going on.
   *
   * @param directory the run
   * @return its report, as of now
   * @throws IOException if a file of the run cannot be read
   */
  public static Report of(RunDirectory directory) throws IOException {
    return of(directory, new MetricsReader(directory.metrics()));
  }

  /**
   * The same, quicker where it is done again and again.
   *
   * @param directory the run
   * @param reader reads its metrics
   * @return its report, as of now
   * @throws IOException if a file of the run cannot be read
   */
  public static Report of(RunDirectory directory, MetricsReader reader) throws IOException {
    List<Metrics> records = reader.read();
    // As a tree, not as a recipe: the run may be older or newer than this code.
    JsonNode settings = new YAMLMapper().readTree(Files.readString(directory.config()));
    if (!(settings instanceof ObjectNode sections)) {
      throw new IOException(directory.config() + ": is no mapping");
    }
    Path environment = directory.root().resolve("environment.json");
    if (Files.exists(environment)) {
      sections.set("environment", JSON.readTree(Files.readString(environment)));
    }
    return new Report(directory, records, sections, grids(directory));
  }

  /** The first and the newest grid and some between them, no more than fit. */
  private static SortedMap<Long, byte[]> grids(RunDirectory directory) throws IOException {
    List<Map.Entry<Long, Path>> drawn = List.copyOf(directory.drawnSamples().entrySet());
    for (int count = Math.min(GRIDS, drawn.size()); count > 0; count--) {
      SortedMap<Long, byte[]> some = new TreeMap<>();
      long bytes = 0;
      for (int i = 0; i < count && bytes <= GRID_BYTES; i++) {
        int index = drawn.size() - 1 - (count == 1 ? 0 : i * (drawn.size() - 1) / (count - 1));
        try {
          byte[] png = Files.readAllBytes(drawn.get(index).getValue());
          bytes += png.length;
          some.put(drawn.get(index).getKey(), png);
        } catch (NoSuchFileException e) {
          // A run that begins anew discards grids.
        }
      }
      if (bytes <= GRID_BYTES) {
        return some;
      }
    }
    return new TreeMap<>();
  }

  /**
   * Writes it to the file {@link RunDirectory#report}, replacing what is there.
   *
   * @throws IOException if the file cannot be written; then what was there before is untouched
   */
  public void write() throws IOException {
    AtomicFile.write(directory.report(), html().getBytes(StandardCharsets.UTF_8));
  }

  /**
   * The page.
   *
   * @return HTML with all that it needs
   * @throws IOException if a chart cannot be drawn
   */
  public String html() throws IOException {
    Map<String, String> slots =
        Map.of(
            "title", escape(name()),
            "status", status(),
            "figures", figures(),
            "charts", charts(),
            "guard", guard(),
            "samples", samples(),
            "settings", settings(),
            // No element can end, and none begin, within the text of a script.
            "metrics", metrics().toString().replace("<", "\\u003c"));
    return SLOT.matcher(resource("report.html"))
        .replaceAll(
            slot -> Matcher.quoteReplacement(Objects.requireNonNull(slots.get(slot.group(1)))));
  }

  private String name() {
    Path root = directory.root().toAbsolutePath().normalize();
    return String.valueOf(root.getFileName() == null ? root : root.getFileName());
  }

  private long steps() {
    return settings.path("run").path("steps").asLong();
  }

  private String status() {
    if (records.isEmpty()) {
      return "<p class=\"status\">No step has been taken yet.</p>";
    }
    Metrics last = records.getLast();
    double seconds =
        records.stream()
            .mapToDouble(each -> 1 / each.stepsPerSecond())
            .filter(Double::isFinite)
            .sum();
    StringBuilder text = new StringBuilder();
    text.append("<progress max=\"%d\" value=\"%d\"></progress>".formatted(steps(), last.step()));
    text.append("<p class=\"status\">");
    long left = steps() - last.step();
    List<Metrics> recent =
        records.subList(Math.max(0, records.size() - SPEED_WINDOW), records.size());
    double[] speeds =
        recent.stream()
            .mapToDouble(Metrics::stepsPerSecond)
            .filter(speed -> speed > 0)
            .sorted()
            .toArray();
    List<String> parts = new ArrayList<>();
    parts.add("epoch " + Numbers.group(last.epoch()));
    parts.add(Numbers.time(Duration.ofMillis((long) (1e3 * seconds))) + " spent");
    if (Double.isNaN(last.stepsPerSecond()) && !last.guard().isEmpty()) {
      parts.add("ended by the guard");
    } else if (left <= 0) {
      parts.add("finished");
    } else if (speeds.length > 0) {
      long rest = (long) (1e3 * left / speeds[speeds.length / 2]);
      parts.add("about " + Numbers.time(Duration.ofMillis(rest)) + " to go");
    }
    parts.add(
        "last step <time datetime=\"%s\">%s</time>"
            .formatted(last.time(), MINUTE.format(last.time())));
    return text.append(String.join(" · ", parts)).append("</p>").toString();
  }

  private String figures() {
    if (records.isEmpty()) {
      return "";
    }
    Metrics last = records.getLast();
    StringBuilder list = new StringBuilder();
    figure(
        list,
        "step",
        Numbers.group(last.step()) + "<small> of " + Numbers.group(steps()) + "</small>");
    // The last bin, as a single step says little.
    Bins recent =
        Bins.of(records.subList(Math.max(0, records.size() - SPEED_WINDOW), records.size()), 1);
    for (Metric metric : Metric.all()) {
      double value = metric.name().equals("lr") ? metric.of(last) : recent.of(metric).median()[0];
      if (metric.title().isPresent() && Double.isFinite(value)) {
        figure(list, escape(metric.title().get()), Numbers.round(value));
      }
    }
    return list.toString();
  }

  private static void figure(StringBuilder list, String label, String value) {
    list.append("<div><dt>%s</dt><dd>%s</dd></div>".formatted(label, value));
  }

  private String charts() throws IOException {
    StringBuilder charts = new StringBuilder();
    int[] marks = bins.guarded();
    for (Metric metric : Metric.all()) {
      Bins.Band band = bins.of(metric);
      if (metric.title().isEmpty()
          || Arrays.stream(band.median()).filter(Double::isFinite).count() < 2) {
        continue;
      }
      String title = escape(metric.title().get());
      charts.append(
          "<figure class=\"chart\"><figcaption>%s</figcaption>%s</figure>"
              .formatted(title, Chart.svg(metric, bins.middle(), band, bins.gathered(), marks)));
    }
    return charts.isEmpty() ? "<p class=\"note\">Curves need two steps.</p>" : charts.toString();
  }

  /** The newest come last, as in the curves. */
  private String guard() {
    List<Metrics> events = records.stream().filter(each -> !each.guard().isEmpty()).toList();
    if (events.isEmpty()) {
      return "<p class=\"note\">No step was refused, and no error was a spike.</p>";
    }
    StringBuilder rows = new StringBuilder();
    List<Metrics> shown = events.subList(Math.max(0, events.size() - GUARD_ROWS), events.size());
    if (shown.size() < events.size()) {
      rows.append(
          "<p class=\"note\">The last %d of %s.</p>"
              .formatted(shown.size(), Numbers.group(events.size())));
    }
    rows.append("<table>");
    for (Metrics each : shown) {
      rows.append(
          "<tr><th>step %s</th><td>%s</td></tr>"
              .formatted(Numbers.group(each.step()), escape(each.guard())));
    }
    return rows.append("</table>").toString();
  }

  private String samples() {
    StringBuilder figures = new StringBuilder();
    grids.forEach(
        (step, png) -> {
          ByteBuffer header = ByteBuffer.wrap(png);
          figures.append(
              """
              <figure><img src="data:image/png;base64,%s" width="%d" height="%d" alt="samples after step %d">\
              <figcaption>step %s</figcaption></figure>\
              """
                  .formatted(
                      Base64.getEncoder().encodeToString(png),
                      header.getInt(16),
                      header.getInt(20),
                      step,
                      Numbers.group(step)));
        });
    return figures.isEmpty()
        ? "<p class=\"note\">No grid has been drawn yet.</p>"
        : figures.toString();
  }

  private String settings() {
    StringBuilder sections = new StringBuilder();
    settings
        .properties()
        .forEach(
            section -> {
              sections.append("<div><h3>%s</h3><dl>".formatted(escape(section.getKey())));
              rows(sections, "", section.getValue());
              sections.append("</dl></div>");
            });
    return sections.toString();
  }

  private static void rows(StringBuilder list, String prefix, JsonNode tree) {
    tree.properties()
        .forEach(
            entry -> {
              JsonNode value = entry.getValue();
              if (value.isObject()) {
                rows(list, prefix + entry.getKey() + ".", value);
              } else {
                list.append(
                    "<dt>%s</dt><dd>%s</dd>"
                        .formatted(
                            escape(prefix + entry.getKey()),
                            escape(value.isValueNode() ? value.asText() : value.toString())));
              }
            });
  }

  /** The numbers behind the curves. */
  private ObjectNode metrics() {
    ObjectNode tree = JSON.createObjectNode();
    tree.put("records", records.size());
    Arrays.stream(bins.first()).forEach(tree.putArray("first")::add);
    Arrays.stream(bins.last()).forEach(tree.putArray("last")::add);
    ObjectNode curves = tree.putObject("curves");
    for (Metric metric : Metric.all()) {
      if (!metric.name().equals("step")) {
        Bins.Band band = bins.of(metric);
        ObjectNode curve = curves.putObject(metric.name());
        put(curve.putArray("low"), band.low());
        put(curve.putArray("median"), band.median());
        put(curve.putArray("high"), band.high());
      }
    }
    ArrayNode steps = tree.putArray("grids");
    grids.keySet().forEach(steps::add);
    return tree;
  }

  private static void put(ArrayNode array, double[] values) {
    for (double value : values) {
      array.add(Double.isFinite(value) ? (Double) value : null);
    }
  }

  private static String escape(String text) {
    return text.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace("\"", "&quot;");
  }

  private static String resource(String name) throws IOException {
    try (InputStream in = Report.class.getResourceAsStream(name)) {
      return new String(Objects.requireNonNull(in, name).readAllBytes(), StandardCharsets.UTF_8);
    }
  }
}
