package org.meanflow.examples;

import java.io.IOException;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import org.meanflow.train.report.Report;
import org.meanflow.train.run.RunDirectory;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** Writes the report of a run. */
@Command(
    name = "report",
    description =
        "Writes report.html in a run directory anew: curves, samples and settings in one file.")
final class ReportCommand implements Callable<Integer> {

  @Parameters(paramLabel = "RUN", description = "the run directory")
  private Path run;

  @SuppressWarnings("UnusedVariable") // for its --help and --verbose
  @Mixin
  private final CommonOptions common = new CommonOptions();

  @Spec private CommandSpec spec;

  @Override
  public Integer call() throws IOException {
    RunDirectory directory = RunDirectory.open(run);
    Report.of(directory).write();
    spec.commandLine().getOut().println(directory.report());
    spec.commandLine().getOut().flush();
    return 0;
  }
}
