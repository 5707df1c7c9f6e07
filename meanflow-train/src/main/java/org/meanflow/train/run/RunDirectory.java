package org.meanflow.train.run;

import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.Closeable;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.channels.OverlappingFileLockException;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.time.LocalDateTime;
import java.time.format.DateTimeFormatter;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.Optional;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.meanflow.nn.weights.AtomicFile;
import org.meanflow.train.recipe.Recipe;
import org.meanflow.train.recipe.RecipeException;

/**
 * The folder of a run:
 *
 * <pre>
 * config.yaml                the recipe with all its values: what is needed to run it again
 * environment.json           see {@link Environment}
 * metrics.jsonl              see {@link MetricsLog}
 * samples/step_000500.png    grids of samples
 * checkpoints/step_000500    folders of checkpoints
 * tensorboard/               see {@link TensorBoardLog}
 * report.html                see {@link org.meanflow.train.report.Report}
 * </pre>
 *
 * A step in a name is the number of steps done.
 */
public final class RunDirectory {
  private static final DateTimeFormatter STAMP =
      DateTimeFormatter.ofPattern("yyyyMMdd-HHmmss", Locale.ROOT);
  private static final String PREFIX = "step_";
  private static final Pattern CHECKPOINT = Pattern.compile(PREFIX + "[0-9]{1,18}");
  private static final Pattern SAMPLE = Pattern.compile(PREFIX + "([0-9]{1,18})\\.png");
  private static final Pattern LEFTOVER =
      Pattern.compile(
          "\\.(config\\.yaml|environment\\.json|metrics\\.jsonl|report\\.html|step_.*)\\..*");
  private static final String CONFIG = "config.yaml";
  private static final String ENVIRONMENT = "environment.json";
  private static final JsonMapper JSON = new JsonMapper();

  private final Path root;

  private RunDirectory(Path root) {
    this.root = root;
  }

  /**
   * Makes the folder of a new run, and folders above it.
   *
   * @param root the folder; must be missing or empty
   * @param recipe the recipe of the run
   * @return the run
   * @throws IOException if the folder holds a run or anything else, or cannot be written
   */
  public static RunDirectory create(Path root, Recipe recipe) throws IOException {
    RunDirectory run = new RunDirectory(root);
    if (Files.exists(run.config())) {
      throw new IOException(
          root + " already holds a run; go on with it by --resume, or give --out another folder");
    }
    if (Files.exists(root) && !Files.isDirectory(root)) {
      throw new IOException(root + " is a file; give --out a folder that is new or empty");
    }
    if (Files.exists(root) && !isEmpty(root)) {
      throw new IOException(
          root + " is not empty and holds no run; give --out a folder that is new or empty");
    }
    try {
      Files.createDirectories(root);
    } catch (FileSystemException e) {
      throw new IOException(
          "cannot make the run directory %s (%s); give --out a folder that can be written"
              .formatted(
                  root, e.getReason() != null ? e.getReason() : e.getClass().getSimpleName()),
          e);
    }
    run.writeConfig(recipe); // first, so that there is a run as soon as there is anything
    Files.createDirectories(run.samples());
    Files.createDirectories(run.checkpoints());
    return run;
  }

  /**
   * Keeps other processes from training in this folder.
   *
   * @return closes to let them; so does the end of this process
   * @throws IOException if another process trains in it
   */
  public Closeable lock() throws IOException {
    FileChannel file =
        FileChannel.open(
            root.resolve(".lock"), StandardOpenOption.CREATE, StandardOpenOption.WRITE);
    boolean locked = false;
    try {
      locked = file.tryLock() != null;
    } catch (OverlappingFileLockException e) {
      // This process has it.
    } finally {
      if (!locked) {
        file.close();
      }
    }
    if (!locked) {
      throw new IOException(
          root + " is being trained by another process; wait for it to end, or end it");
    }
    return file;
  }

  /**
   * Deletes what a process that died left behind half written.
   *
   * @throws IOException if a file cannot be deleted
   */
  public void removeLeftovers() throws IOException {
    for (Path folder : List.of(root, samples(), checkpoints())) {
      List<Path> leftovers;
      try (Stream<Path> files = Files.list(folder)) {
        leftovers =
            files
                .filter(file -> LEFTOVER.matcher(file.getFileName().toString()).matches())
                .toList();
      }
      for (Path each : leftovers) {
        delete(each);
      }
    }
  }

  /**
   * Keeps the recipe of the run, in place of the one before.
   *
   * @param recipe the recipe, with all its values
   * @throws IOException if it cannot be written; then the one before is still there
   */
  public void writeConfig(Recipe recipe) throws IOException {
    AtomicFile.write(config(), recipe.toYaml().getBytes(StandardCharsets.UTF_8));
  }

  /**
   * What the run was computed with, the last time it was started.
   *
   * @return as {@link #writeEnvironment} was given it; empty before
   * @throws IOException if it cannot be read
   */
  public Optional<Environment> environment() throws IOException {
    Path file = root.resolve(ENVIRONMENT);
    return Files.exists(file)
        ? Optional.of(JSON.readValue(Files.readAllBytes(file), Environment.class))
        : Optional.empty();
  }

  /**
   * Keeps what the run is computed with, in place of what was kept before.
   *
   * @param environment what to keep
   * @throws IOException if it cannot be written; then what was kept before is still there
   */
  public void writeEnvironment(Environment environment) throws IOException {
    AtomicFile.write(root.resolve(ENVIRONMENT), JSON.writeValueAsBytes(environment));
  }

  /**
   * Finds a run that was made before.
   *
   * @param root its folder
   * @return the run
   * @throws IOException if there is no run
   */
  public static RunDirectory open(Path root) throws IOException {
    RunDirectory run = new RunDirectory(root);
    if (!Files.isRegularFile(run.config())) {
      throw new IOException(
          "%s holds no run: there is no %s in it; name the folder that training wrote"
              .formatted(root, CONFIG));
    }
    Files.createDirectories(run.samples());
    Files.createDirectories(run.checkpoints());
    return run;
  }

  /**
   * The folder of a run that is given none: {@code runs/RECIPE-20250131-235959}.
   *
   * @param recipe name or path of the recipe
   * @param now when the run begins
   * @return the folder
   */
  public static Path defaultRoot(String recipe, LocalDateTime now) {
    String file = String.valueOf(Path.of(recipe).getFileName());
    String name = file.replaceFirst("\\.ya?ml$", "");
    return Path.of("runs", name + "-" + STAMP.format(now));
  }

  /** {@return the folder itself} */
  public Path root() {
    return root;
  }

  /** {@return the file of the recipe} */
  public Path config() {
    return root.resolve(CONFIG);
  }

  /**
   * The recipe of the run.
   *
   * @return what {@link #create} was given
   * @throws RecipeException if the file was changed to something that is no recipe
   */
  public Recipe recipe() throws RecipeException {
    return Recipe.load(config().toString());
  }

  /** {@return the file of the metrics} */
  public Path metrics() {
    return root.resolve("metrics.jsonl");
  }

  /** {@return the folder of the grids} */
  public Path samples() {
    return root.resolve("samples");
  }

  /**
   * The grid of a step.
   *
   * @param step number of steps done, ≥ 0
   * @return its file
   */
  public Path sample(long step) {
    return samples().resolve(name(step) + ".png");
  }

  /**
   * The grids that were drawn.
   *
   * @return their files by step
   * @throws IOException if the folder cannot be read
   */
  public SortedMap<Long, Path> drawnSamples() throws IOException {
    SortedMap<Long, Path> drawn = new TreeMap<>();
    try (Stream<Path> files = Files.list(samples())) {
      for (Path file : (Iterable<Path>) files::iterator) {
        Matcher name = SAMPLE.matcher(file.getFileName().toString());
        if (name.matches() && Files.isRegularFile(file)) {
          drawn.put(Long.parseLong(name.group(1)), file);
        }
      }
    }
    return drawn;
  }

  /**
   * Deletes the grids of steps that were lost.
   *
   * @param step the last step whose grid is kept
   * @throws IOException if one cannot be deleted
   */
  public void discardSamplesAfter(long step) throws IOException {
    for (Path file : drawnSamples().tailMap(step + 1).values()) {
      Files.delete(file);
    }
  }

  /** {@return the folder of the event files for TensorBoard} */
  public Path tensorboard() {
    return root.resolve("tensorboard");
  }

  /** {@return the file of the report} */
  public Path report() {
    return root.resolve("report.html");
  }

  /** {@return the folder of the checkpoints} */
  public Path checkpoints() {
    return root.resolve("checkpoints");
  }

  /**
   * The checkpoint of a step.
   *
   * @param step number of steps done, ≥ 0
   * @return its folder
   */
  public Path checkpoint(long step) {
    return checkpoints().resolve(name(step));
  }

  /**
   * The checkpoints. One that was being written when the process died does not count; whether the
   * others are still whole, {@link org.meanflow.train.Checkpoint#newestWhole} tells.
   *
   * @return their folders, newest first
   * @throws IOException if the folder cannot be read
   */
  public List<Path> newestCheckpoints() throws IOException {
    return checkpointsIn(checkpoints());
  }

  /**
   * Deletes all checkpoints but the newest, and some others.
   *
   * @param count how many of the newest to keep, ≥ 1
   * @param every those whose step is a multiple of it are kept, too; 0 for no others
   * @throws IOException if one cannot be deleted
   */
  public void keepCheckpoints(int count, long every) throws IOException {
    List<Path> newestFirst = newestCheckpoints();
    for (Path folder :
        newestFirst.subList(Math.min(count, newestFirst.size()), newestFirst.size())) {
      if (every == 0 || step(folder) % every != 0) {
        Path doomed = folder.resolveSibling("." + folder.getFileName() + ".deleted");
        delete(doomed);
        Files.move(folder, doomed, StandardCopyOption.ATOMIC_MOVE); // never seen half deleted
        delete(doomed);
      }
    }
  }

  /**
   * Finds checkpoints.
   *
   * @param folder the folder that they are in
   * @return their folders, newest first
   * @throws IOException if the folder cannot be read
   */
  public static List<Path> checkpointsIn(Path folder) throws IOException {
    try (Stream<Path> folders = Files.list(folder)) {
      return folders
          .filter(each -> CHECKPOINT.matcher(each.getFileName().toString()).matches())
          .sorted(Comparator.comparingLong(RunDirectory::step).reversed())
          .toList();
    }
  }

  /**
   * Deletes a folder with all that is in it.
   *
   * @param folder the folder; may be missing
   * @throws IOException if a file cannot be deleted
   */
  public static void delete(Path folder) throws IOException {
    if (!Files.exists(folder)) {
      return;
    }
    List<Path> deepestFirst;
    try (Stream<Path> files = Files.walk(folder)) {
      deepestFirst = files.sorted(Comparator.reverseOrder()).toList();
    }
    for (Path file : deepestFirst) {
      Files.delete(file);
    }
  }

  private static long step(Path checkpoint) {
    return Long.parseLong(checkpoint.getFileName().toString().substring(PREFIX.length()));
  }

  private static String name(long step) {
    if (step < 0) {
      throw new IllegalArgumentException("step must be >= 0, got " + step);
    }
    return String.format(Locale.ROOT, PREFIX + "%06d", step);
  }

  private static boolean isEmpty(Path folder) throws IOException {
    try (Stream<Path> files = Files.list(folder)) {
      return files.allMatch(file -> LEFTOVER.matcher(file.getFileName().toString()).matches());
    }
  }
}
