import com.google.googlejavaformat.java.Formatter;
import com.google.googlejavaformat.java.FormatterException;
import java.io.IOException;
import java.nio.file.FileVisitResult;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.SimpleFileVisitor;
import java.nio.file.attribute.BasicFileAttributes;
import java.util.ArrayList;
import java.util.List;
import java.util.Queue;
import java.util.Set;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.stream.Stream;

/**
 * Checks, or with {@code fix} rewrites, the layout of the project's Java files with
 * google-java-format. The build runs it on the JDK that it compiles with, since the formatter reads
 * the syntax of the JDK it runs on and Maven itself may run on an older one. Problems are printed
 * and written to a report, which does not exist when all is well; the build fails on it.
 *
 * <p>Arguments: {@code check} or {@code fix}, the root folder, the report.
 */
final class FormatSources {
  private static final Set<String> SKIPPED = Set.of("target", "runs", ".git", ".idea", ".meanflow");

  private FormatSources() {}

  public static void main(String[] args) throws IOException {
    boolean fix = args[0].equals("fix");
    Path root = Path.of(args[1]);
    Formatter formatter = new Formatter();
    Queue<String> unformatted = new ConcurrentLinkedQueue<>();
    Queue<String> unreadable = new ConcurrentLinkedQueue<>();
    sources(root).parallelStream()
        .forEach(
            file -> {
              String name = root.relativize(file).toString();
              try {
                String source = Files.readString(file);
                String formatted = formatter.formatSourceAndFixImports(source);
                if (!formatted.equals(source)) {
                  unformatted.add(name);
                  if (fix) {
                    Files.writeString(file, formatted);
                  }
                }
              } catch (FormatterException e) {
                e.diagnostics().forEach(d -> unreadable.add(name + ":" + d));
              } catch (IOException e) {
                unreadable.add(name + ": " + e);
              }
            });
    Path report = Path.of(args[2]);
    Files.deleteIfExists(report);
    if (fix) {
      unformatted.stream().sorted().forEach(name -> System.out.println("Formatted " + name));
      unformatted.clear();
    }
    List<String> problems =
        Stream.concat(
                unformatted.stream().map(name -> "Not formatted: " + name),
                unreadable.stream().map(line -> "Not understood: " + line))
            .sorted()
            .toList();
    if (!problems.isEmpty()) {
      problems.forEach(System.err::println);
      Files.write(report, problems);
    }
  }

  private static List<Path> sources(Path root) throws IOException {
    List<Path> files = new ArrayList<>();
    Files.walkFileTree(
        root,
        new SimpleFileVisitor<>() {
          @Override
          public FileVisitResult preVisitDirectory(Path dir, BasicFileAttributes attributes) {
            return SKIPPED.contains(dir.getFileName().toString())
                ? FileVisitResult.SKIP_SUBTREE
                : FileVisitResult.CONTINUE;
          }

          @Override
          public FileVisitResult visitFile(Path file, BasicFileAttributes attributes) {
            if (file.toString().endsWith(".java")) {
              files.add(file);
            }
            return FileVisitResult.CONTINUE;
          }
        });
    return files;
  }
}
