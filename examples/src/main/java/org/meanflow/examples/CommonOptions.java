package org.meanflow.examples;

import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Option;

/** Options that every command has. */
public final class CommonOptions {

  @Option(
      names = "--engine",
      paramLabel = "E",
      description = "engine to compute on; default: the best that can run here (see 'info')")
  public @Nullable String engine;

  @Option(
      names = "--threads",
      paramLabel = "N",
      description = "CPU threads to compute on; default: as many as there are processors")
  public int threads;

  @Option(names = "--verbose", description = "print the stack trace of an error")
  boolean verbose;

  @Option(
      names = {"-h", "--help"},
      usageHelp = true,
      description = "print this help")
  boolean help;
}
