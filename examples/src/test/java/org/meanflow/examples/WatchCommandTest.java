package org.meanflow.examples;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.net.InetAddress;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;
import org.meanflow.train.recipe.Recipe;
import org.meanflow.train.run.Metrics;
import org.meanflow.train.run.MetricsLog;
import org.meanflow.train.run.RunDirectory;
import picocli.CommandLine;

/** The report of a run, as a file and in a browser. */
class WatchCommandTest {
  @TempDir Path folder;
  private final HttpClient client = HttpClient.newHttpClient();
  private RunDirectory run;
  private MetricsLog log;
  private ReportServer server;

  @BeforeEach
  void serveARun() throws IOException {
    run =
        RunDirectory.create(
            folder.resolve("run"), Recipe.load("digits").with(List.of("run.steps=1400")));
    log = MetricsLog.create(run.metrics());
    step(1);
    step(2);
    server = ReportServer.start(run, 0);
  }

  @AfterEach
  void end() throws IOException {
    server.close();
    log.close();
    client.close();
  }

  @Test
  void thePageIsTheReportAndRefreshesItself() throws Exception {
    HttpResponse<String> page = get("");
    assertThat(page.statusCode()).isEqualTo(200);
    assertThat(page.headers().firstValue("Content-Type")).contains("text/html; charset=utf-8");
    assertThat(page.body())
        .contains("2<small> of 1,400</small>", "id=\"live\"", "fetch('/'")
        .doesNotContain("{{");
    assertThat(get("report.html").body()).isEqualTo(page.body());
  }

  @Test
  void whatIsUnchangedIsNotSentAgain() throws Exception {
    String tag = get("").headers().firstValue("ETag").orElseThrow();
    assertThat(get("").headers().firstValue("ETag")).contains(tag);
    HttpResponse<String> again = get("", "If-None-Match", tag);
    assertThat(again.statusCode()).isEqualTo(304);
    assertThat(again.body()).isEmpty();
    step(3);
    HttpResponse<String> grown = get("", "If-None-Match", tag);
    assertThat(grown.statusCode()).isEqualTo(200);
    assertThat(grown.headers().firstValue("ETag")).isPresent().get().isNotEqualTo(tag);
    assertThat(grown.body()).contains("3<small> of 1,400</small>");
  }

  @Test
  void thereIsNothingElse() throws Exception {
    assertThat(get("config.yaml").statusCode()).isEqualTo(404);
    assertThat(get("../run/config.yaml").statusCode()).isEqualTo(404);
    HttpRequest post =
        HttpRequest.newBuilder(server.address())
            .POST(HttpRequest.BodyPublishers.ofString("x"))
            .build();
    assertThat(client.send(post, BodyHandlers.ofString()).statusCode()).isEqualTo(405);
  }

  /** A name elsewhere that leads to this machine must not make the run readable there. */
  @Test
  void onlyThisMachineIsAnswered() throws Exception {
    assertThat(raw("evil.example")).startsWith("HTTP/1.1 403");
    assertThat(raw("localhost.evil.example:80")).startsWith("HTTP/1.1 403");
    assertThat(raw("127.0.0.1:1234")).startsWith("HTTP/1.1 200");
    assertThat(raw("localhost")).startsWith("HTTP/1.1 200");
  }

  @Test
  void aDamagedLogIsToldToTheBrowser() throws Exception {
    Files.writeString(run.metrics(), "nonsense\nnonsense\n");
    HttpResponse<String> page = get("");
    assertThat(page.statusCode()).isEqualTo(500);
    assertThat(page.body()).contains("metrics.jsonl: line 1");
  }

  @Test
  void aPortThatIsTaken() {
    int taken = server.address().getPort();
    assertThatThrownBy(() -> ReportServer.start(run, taken))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("port " + taken)
        .hasMessageContaining("--port");
  }

  @Test
  void badUsage() throws IOException {
    assertFails(1, "holds no run", "watch", folder.toString());
    assertFails(1, "holds no run", "report", folder.resolve("nowhere").toString());
    assertFails(2, "--port must be from 0 to 65535, got 70000", "watch", "x", "--port", "70000");
    assertFails(2, "RUN", "watch");
    assertFails(2, "RUN", "report");
    String port = String.valueOf(server.address().getPort());
    assertFails(1, "port " + port, "watch", run.root().toString(), "--port", port);
  }

  @Test
  void theReportIsWrittenOnDemand() throws IOException {
    StringWriter out = new StringWriter();
    CommandLine command = MeanFlow.commandLine().setOut(new PrintWriter(out));
    assertThat(command.execute("report", run.root().toString())).isZero();
    assertThat(out.toString().strip()).isEqualTo(run.report().toString());
    assertThat(run.report()).content().contains("2<small> of 1,400</small>");
  }

  /** What Ctrl-C does, with the signal that Java can send. */
  @Test
  @EnabledOnOs({OS.LINUX, OS.MAC})
  void itEndsWhenAskedTo() throws Exception {
    Process process =
        new ProcessBuilder(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-cp",
                System.getProperty("java.class.path"),
                MeanFlow.class.getName(),
                "watch",
                run.root().toString(),
                "--port",
                "0")
            .redirectErrorStream(true)
            .start();
    try (BufferedReader output = process.inputReader()) {
      String line = output.readLine();
      assertThat(line).contains(run.root() + " is shown at http://localhost:");
      URI address = URI.create(line.replaceFirst(".*(http://localhost:[0-9]+/).*", "$1"));
      HttpRequest request = HttpRequest.newBuilder(address).build();
      assertThat(client.send(request, BodyHandlers.ofString()).statusCode()).isEqualTo(200);
      process.toHandle().destroy();
      assertThat(process.waitFor(30, TimeUnit.SECONDS)).isTrue();
      assertThat(process.exitValue()).isEqualTo(128 + 15);
      assertThat(output.readLine()).isNull();
    } finally {
      process.destroyForcibly();
    }
  }

  private void step(long step) throws IOException {
    log.append(new Metrics(step, 0.5, 0.5, 1e-4, 1, 3, 192, 0, 500, 0, "", Instant.EPOCH));
  }

  private HttpResponse<String> get(String path, String... headers) throws Exception {
    HttpRequest.Builder request = HttpRequest.newBuilder(server.address().resolve(path));
    if (headers.length > 0) {
      request.headers(headers);
    }
    return client.send(request.build(), BodyHandlers.ofString());
  }

  /** The answer to a request that names a host. */
  private String raw(String host) throws IOException {
    try (Socket socket = new Socket(InetAddress.getLoopbackAddress(), server.address().getPort())) {
      socket
          .getOutputStream()
          .write(
              "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"
                  .formatted(host)
                  .getBytes(StandardCharsets.US_ASCII));
      InputStream in = socket.getInputStream();
      return new String(in.readAllBytes(), StandardCharsets.UTF_8);
    }
  }

  private static void assertFails(int status, String part, String... arguments) {
    StringWriter err = new StringWriter();
    CommandLine command = MeanFlow.commandLine().setErr(new PrintWriter(err));
    assertThat(command.execute(arguments)).as(err.toString()).isEqualTo(status);
    assertThat(err.toString()).startsWith("meanflow: ").contains(part).doesNotContain("\tat ");
  }
}
