package org.meanflow.examples;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.awt.AWTError;
import java.io.IOException;
import java.io.InputStream;
import java.net.BindException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Objects;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.meanflow.train.report.Report;
import org.meanflow.train.run.MetricsReader;
import org.meanflow.train.run.RunDirectory;

/**
 * Serves the report of a run to browsers on this machine. The page asks for itself every few
 * seconds and takes over what has changed.
 */
final class ReportServer implements AutoCloseable {
  private static final Set<String> PATHS = Set.of("/", "/report.html");

  private final RunDirectory run;
  private final MetricsReader metrics;
  private final HttpServer server;
  private final String script;
  private String tag = "";
  private byte[] page = {};

  private ReportServer(RunDirectory run, HttpServer server, String script) {
    this.run = run;
    this.metrics = new MetricsReader(run.metrics());
    this.server = server;
    this.script = script;
  }

  /**
   * Begins to serve.
   *
   * @param run the run to show
   * @param port the port; 0 for any that is free
   * @return the server; close it to end it
   * @throws IOException if the port is taken
   */
  static ReportServer start(RunDirectory run, int port) throws IOException {
    HttpServer http;
    try {
      http = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 0);
    } catch (BindException e) {
      throw new IOException(
          "port %d cannot be had (%s); give --port another one, or 0 for any"
              .formatted(port, e.getMessage()),
          e);
    }
    ReportServer server = new ReportServer(run, http, resource("live.html"));
    http.createContext("/", server::answer);
    http.start();
    return server;
  }

  /** What to enter in a browser. */
  URI address() {
    return URI.create("http://localhost:%d/".formatted(server.getAddress().getPort()));
  }

  @Override
  public void close() {
    server.stop(0);
  }

  private void answer(HttpExchange exchange) throws IOException {
    try (exchange) {
      String host = Objects.requireNonNullElse(exchange.getRequestHeaders().getFirst("Host"), "");
      if (!host.matches("(localhost|127\\.0\\.0\\.1|\\[::1])(:[0-9]+)?")) {
        send(exchange, 403, "ask for localhost"); // a page elsewhere whose name leads here
      } else if (!PATHS.contains(exchange.getRequestURI().getPath())) {
        send(exchange, 404, "there is only /");
      } else if (!List.of("GET", "HEAD").contains(exchange.getRequestMethod())) {
        send(exchange, 405, "GET only");
      } else {
        page(exchange);
      }
    }
  }

  private void page(HttpExchange exchange) throws IOException {
    try {
      update();
    } catch (IOException | RuntimeException | LinkageError | AWTError e) {
      send(exchange, 500, "the report cannot be made: " + e.getMessage());
      return;
    }
    exchange.getResponseHeaders().set("ETag", tag);
    if (tag.equals(exchange.getRequestHeaders().getFirst("If-None-Match"))) {
      exchange.sendResponseHeaders(304, -1);
      return;
    }
    send(exchange, 200, "text/html; charset=utf-8", page);
  }

  /** Makes the page anew if a file that it shows has changed. */
  private void update() throws IOException {
    String now =
        "\"%s-%s-%s\"".formatted(state(run.metrics()), state(run.config()), state(run.samples()));
    if (!now.equals(tag)) {
      String html = Report.of(run, metrics).html();
      page =
          html.replace(
                  "</body>", script.replace("{{tag}}", now.replace("\"", "&quot;")) + "</body>")
              .getBytes(StandardCharsets.UTF_8);
      tag = now;
    }
  }

  private static String state(Path file) throws IOException {
    return Files.exists(file)
        ? Files.size(file) + "." + Files.getLastModifiedTime(file).toMillis()
        : "none";
  }

  private static void send(HttpExchange exchange, int status, String text) throws IOException {
    send(
        exchange,
        status,
        "text/plain; charset=utf-8",
        (text + "\n").getBytes(StandardCharsets.UTF_8));
  }

  private static void send(HttpExchange exchange, int status, String type, byte[] body)
      throws IOException {
    exchange.getResponseHeaders().set("Content-Type", type);
    exchange.getResponseHeaders().set("Cache-Control", "no-cache");
    boolean head = exchange.getRequestMethod().equals("HEAD");
    exchange.sendResponseHeaders(status, head ? -1 : body.length);
    if (!head) {
      exchange.getResponseBody().write(body);
    }
  }

  private static String resource(String name) throws IOException {
    try (@Nullable InputStream in = ReportServer.class.getResourceAsStream(name)) {
      return new String(Objects.requireNonNull(in, name).readAllBytes(), StandardCharsets.UTF_8);
    }
  }
}
