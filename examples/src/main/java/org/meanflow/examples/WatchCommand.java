package org.meanflow.examples;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import org.meanflow.train.run.RunDirectory;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** Shows the report of a run in a browser while the run goes on. */
@Command(
    name = "watch",
    description = "Shows the report of a run in a browser on this machine, always up to date.",
    footer = {"", "Ctrl-C ends it. The run does not notice."})
final class WatchCommand implements Callable<Integer> {
  private static final int HIGHEST_PORT = 65_535;

  @Parameters(paramLabel = "RUN", description = "the run directory")
  private Path run;

  @Option(
      names = "--port",
      paramLabel = "P",
      defaultValue = "8420",
      description = "port to listen on; 0: any that is free (default: ${DEFAULT-VALUE})")
  private int port;

  @SuppressWarnings("UnusedVariable") // for its --help and --verbose
  @Mixin
  private final CommonOptions common = new CommonOptions();

  @Spec private CommandSpec spec;

  @Override
  public Integer call() throws IOException, InterruptedException {
    if (port < 0 || port > HIGHEST_PORT) {
      throw new ParameterException(
          spec.commandLine(), "--port must be from 0 to %d, got %d".formatted(HIGHEST_PORT, port));
    }
    PrintWriter out = spec.commandLine().getOut();
    try (ReportServer server = ReportServer.start(RunDirectory.open(run), port)) {
      Runtime.getRuntime().addShutdownHook(new Thread(server::close, "stop-serving"));
      out.printf("%s is shown at %s (Ctrl-C ends it)%n", run, server.address());
      out.flush();
      new CountDownLatch(1).await(); // until the process is asked to end
    }
    return 0;
  }
}
