package org.meanflow.examples.bench;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.awt.Color;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.knowm.xchart.BitmapEncoder;
import org.knowm.xchart.CategoryChart;
import org.knowm.xchart.CategoryChartBuilder;
import org.knowm.xchart.style.Styler;

/**
 * Draws rows of measurements: for each {@code NAME.jsonl} in a folder a table in its {@code
 * README.md}, between the lines {@code <!-- NAME.jsonl -->} and {@code <!-- /NAME.jsonl -->}, and a
 * chart for each thing measured, {@code NAME-WHAT.png}. Of rows about the same the last counts.
 * Rows of one file come from machines of one kind.
 */
final class BenchPage {
  private static final JsonMapper JSON = new JsonMapper();

  /** Whom the others are compared with: PyTorch, called from C++ or from Python. */
  private static final List<String> PEERS = List.of("libtorch", "pytorch");

  private static final int WIDTH = 860;
  private static final int HEIGHT = 340;

  private BenchPage() {}

  /** What a row is about, but for who was measured. */
  private record Task(String what, String config, String precision, boolean guided, int threads) {

    String label() {
      return config + " " + precision + (guided ? " guided" : "");
    }
  }

  private record Subject(Task task, String engine) {}

  /** Rewrites the tables and draws the charts. */
  static void draw(Path folder) throws IOException {
    List<Path> files;
    try (Stream<Path> all = Files.list(folder)) {
      files = all.filter(file -> file.toString().endsWith(".jsonl")).sorted().toList();
    }
    Path page = folder.resolve("README.md");
    String text = Files.readString(page);
    for (Path file : files) {
      Map<Subject, JsonNode> rows = newest(Files.readAllLines(file));
      String name = String.valueOf(file.getFileName());
      text = replaced(text, name, table(rows));
      for (String what : rows.keySet().stream().map(row -> row.task.what).distinct().toList()) {
        chart(what, rows, folder.resolve(name.replace(".jsonl", "-" + what + ".png")));
      }
    }
    Files.writeString(page, text);
  }

  private static Map<Subject, JsonNode> newest(List<String> lines) throws IOException {
    Map<Subject, JsonNode> rows = new LinkedHashMap<>();
    for (String line : lines) {
      JsonNode row = JSON.readTree(line);
      if (row.has("config")) {
        Task task =
            new Task(
                row.path("what").asText(),
                row.path("config").asText(),
                row.path("precision").asText(),
                row.path("guidance").asText().equals("on"),
                row.path("threads").asInt());
        rows.put(new Subject(task, row.path("engine").asText()), row);
      }
    }
    return rows;
  }

  private static boolean isPeer(Subject subject) {
    return PEERS.stream().anyMatch(subject.engine::startsWith);
  }

  /** How many times as fast as the fastest peer that was measured, too. */
  private static @Nullable Double ratio(Subject subject, Map<Subject, JsonNode> rows) {
    double fastest =
        rows.entrySet().stream()
            .filter(other -> isPeer(other.getKey()) && other.getKey().task.equals(subject.task))
            .mapToDouble(other -> milliseconds(other.getValue()))
            .min()
            .orElse(Double.NaN);
    return Double.isNaN(fastest) ? null : fastest / milliseconds(rows.get(subject));
  }

  private static double milliseconds(@Nullable JsonNode row) {
    return row == null ? Double.NaN : row.path("ms_median").asDouble();
  }

  private static String table(Map<Subject, JsonNode> rows) {
    StringBuilder table = new StringBuilder();
    table.append(
        "| what | config | engine | threads | ms | images/s | GFLOP/s | peak MiB | PyTorch ms / ms"
            + " | commit | date |\n");
    table.append("| --- | --- | --- | --: | --: | --: | --: | --: | --: | --- | --- |\n");
    for (Task task : tasks(rows.keySet())) {
      rows.forEach(
          (subject, row) -> {
            if (subject.task.equals(task)) {
              Double ratio = isPeer(subject) ? null : ratio(subject, rows);
              table.append(
                  String.format(
                      Locale.ROOT,
                      "| %s | %s | %s | %d | %.1f | %.1f | %s | %s | %s | %s | %s |%n",
                      task.what,
                      task.label(),
                      subject.engine,
                      task.threads,
                      milliseconds(row),
                      row.path("images_per_s").asDouble(),
                      row.has("gflops") ? Math.round(row.path("gflops").asDouble()) : "",
                      row.path("peak_rss_mb").asText(),
                      ratio == null ? "" : String.format(Locale.ROOT, "**%.2f**", ratio),
                      row.path("commit").asText(),
                      row.path("date").asText()));
            }
          });
    }
    return table.toString();
  }

  private static void chart(String what, Map<Subject, JsonNode> rows, Path file)
      throws IOException {
    List<Task> tasks =
        tasks(rows.keySet()).stream()
            .filter(task -> task.what.equals(what))
            .filter(task -> rows.keySet().stream().anyMatch(row -> compared(row, task, rows)))
            .toList();
    if (tasks.isEmpty()) {
      return;
    }
    CategoryChart chart =
        new CategoryChartBuilder()
            .width(WIDTH)
            .height(HEIGHT)
            .title(what + ": times as fast as PyTorch")
            .build();
    chart.getStyler().setLegendPosition(Styler.LegendPosition.OutsideE);
    chart.getStyler().setChartBackgroundColor(Color.WHITE);
    chart.getStyler().setYAxisMin(0.0);
    chart.getStyler().setLabelsVisible(true);
    chart.getStyler().setDecimalPattern("0.0");
    for (String engine : rows.keySet().stream().map(Subject::engine).distinct().toList()) {
      List<@Nullable Double> ratios = new ArrayList<>();
      for (Task task : tasks) {
        Subject subject = new Subject(task, engine);
        ratios.add(rows.containsKey(subject) ? ratio(subject, rows) : null);
      }
      if (ratios.stream().anyMatch(ratio -> ratio != null)) {
        chart.addSeries(engine, tasks.stream().map(Task::label).toList(), ratios);
      }
    }
    BitmapEncoder.saveBitmap(chart, file.toString(), BitmapEncoder.BitmapFormat.PNG);
  }

  private static boolean compared(Subject subject, Task task, Map<Subject, JsonNode> rows) {
    return subject.task.equals(task) && !isPeer(subject) && ratio(subject, rows) != null;
  }

  private static List<Task> tasks(Collection<Subject> subjects) {
    return subjects.stream().map(Subject::task).distinct().toList();
  }

  private static String replaced(String text, String name, String table) throws IOException {
    String begin = "<!-- " + name + " -->\n";
    String end = "<!-- /" + name + " -->";
    int from = text.indexOf(begin);
    int to = text.indexOf(end);
    if (from < 0 || to < from) {
      throw new IOException(
          "README.md must have the lines '%s' and '%s' for the table"
              .formatted(begin.strip(), end));
    }
    return text.substring(0, from + begin.length()) + table + text.substring(to);
  }
}
