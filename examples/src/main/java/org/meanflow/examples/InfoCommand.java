package org.meanflow.examples;

import java.io.PrintWriter;
import org.meanflow.nn.engine.EngineProvider;
import org.meanflow.nn.engine.Engines;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Spec;

/** Tells what this machine offers. */
@Command(name = "info", description = "Tells what this machine offers: JVM, CPU, engines.")
final class InfoCommand implements Runnable {
  @SuppressWarnings("UnusedVariable") // for its --help and --verbose
  @Mixin
  private final CommonOptions common = new CommonOptions();

  @Spec private CommandSpec spec;

  @Override
  public void run() {
    PrintWriter out = spec.commandLine().getOut();
    Runtime runtime = Runtime.getRuntime();
    out.printf(
        "JDK      %s, %s (%s)%n",
        System.getProperty("java.vm.version"),
        System.getProperty("java.vendor"),
        System.getProperty("java.home"));
    out.printf(
        "system   %s %s, %d processors, heap up to %d MB%n",
        System.getProperty("os.name"),
        System.getProperty("os.arch"),
        runtime.availableProcessors(),
        runtime.maxMemory() >> 20);
    out.printf("CPU      %s%n", Cpu.description());
    for (EngineProvider provider : Engines.providers()) {
      String reason = provider.unavailableBecause();
      out.printf(
          "engine   %s: %s%n",
          provider.name(), reason == null ? provider.description() : "cannot run here: " + reason);
    }
    out.flush();
  }
}
