package org.meanflow.examples;

import java.io.PrintWriter;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileSystemException;
import java.nio.file.NoSuchFileException;
import org.meanflow.examples.bench.BenchCommand;
import org.meanflow.train.recipe.RecipeException;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.ParseResult;

/**
 * The command line: {@code ./meanflow train|sample|watch|…}. Exit status 0 ok, 1 failed, 2 bad
 * usage.
 */
@Command(
    name = "meanflow",
    description =
        "Trains and samples MeanFlow models (arXiv 2505.13447): one network evaluation draws a"
            + " sample.",
    mixinStandardHelpOptions = true,
    version = "meanflow 0.1.0",
    synopsisSubcommandLabel = "COMMAND",
    subcommands = {
      TrainCommand.class,
      SampleCommand.class,
      ReportCommand.class,
      WatchCommand.class,
      BenchCommand.class,
      InfoCommand.class,
      DigitClassifier.class,
      Toy2d.class
    })
public final class MeanFlow implements Runnable {

  @CommandLine.Spec private CommandLine.Model.CommandSpec spec;

  private MeanFlow() {}

  /** Runs the command line and ends the JVM with its exit status. */
  public static void main(String[] arguments) {
    System.setProperty("java.awt.headless", "true");
    System.exit(commandLine().execute(arguments));
  }

  static CommandLine commandLine() {
    return new CommandLine(new MeanFlow())
        .setCaseInsensitiveEnumValuesAllowed(true)
        .setExecutionExceptionHandler(MeanFlow::report)
        .setParameterExceptionHandler(MeanFlow::reportUsage);
  }

  @Override
  public void run() {
    throw new ParameterException(spec.commandLine(), "name a command");
  }

  /** One line says what went wrong; the stack trace only on demand. */
  static int report(Exception e, CommandLine command, ParseResult parsed) {
    command.getErr().println("meanflow: " + message(e));
    if (command.getParseResult().hasMatchedOption("--verbose")) {
      e.printStackTrace(command.getErr());
    }
    command.getErr().flush();
    return e instanceof RecipeException
        ? CommandLine.ExitCode.USAGE
        : CommandLine.ExitCode.SOFTWARE;
  }

  private static String message(Exception e) {
    return switch (e) {
      case NoSuchFileException missing -> missing.getFile() + ": there is no such file";
      case AccessDeniedException denied ->
          denied.getFile() + ": no permission; choose another place or change its permissions";
      case FileSystemException failed when failed.getReason() == null ->
          failed.getFile() + ": cannot be read or written (" + e.getClass().getSimpleName() + ")";
      default -> {
        String message = e.getMessage();
        yield message == null || message.isBlank() ? e.toString() : message;
      }
    };
  }

  static int reportUsage(ParameterException e, String[] arguments) {
    CommandLine command = e.getCommandLine();
    PrintWriter err = command.getErr();
    err.println("meanflow: " + e.getMessage());
    err.println("Try '" + command.getCommandSpec().qualifiedName() + " --help'.");
    err.flush();
    return CommandLine.ExitCode.USAGE;
  }
}
