package org.meanflow.examples;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.function.IntPredicate;
import java.util.stream.IntStream;
import me.tongfei.progressbar.ProgressBar;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.weights.Weights;
import org.meanflow.sample.NpyFile;
import org.meanflow.train.Progress;
import org.meanflow.train.data.DataSource;
import org.meanflow.train.data.IdxDataset;
import org.meanflow.train.data.ImageDataset;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.indexing.INDArrayIndex;
import org.nd4j.linalg.indexing.NDArrayIndex;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/**
 * A judge of generated digits: trains a classifier on real ones, says how good it is, and counts
 * the samples that it takes for the digit that was asked for.
 */
@Command(
    name = "classify",
    mixinStandardHelpOptions = true,
    description =
        "Trains a classifier of digits and counts the samples that it takes for the digit asked"
            + " for.")
public final class DigitClassifier implements Callable<Integer> {
  private static final String BUNDLED = DataSource.RESOURCE + "digits/";
  private static final String IMAGES = "-images-idx3-ubyte";
  private static final String LABELS = "-labels-idx1-ubyte";
  private static final int HELD_OUT = 10;
  private static final int CHUNK = 1000;

  @Option(
      names = "--data",
      paramLabel = "DIR",
      description = "folder with MNIST's IDX files; default: the bundled digits")
  private @Nullable Path data;

  @Option(
      names = "--samples",
      paramLabel = "FILE.npy",
      description = "samples [n, 1, 28, 28] in [-1, 1], their labels in FILE.labels.npy")
  private @Nullable Path samples;

  @Option(
      names = "--weights",
      paramLabel = "FILE",
      description = "a .safetensors file: read if it is there, else written after training")
  private @Nullable Path weights;

  @Option(
      names = "--steps",
      paramLabel = "N",
      defaultValue = "2500",
      description = "training steps (default: ${DEFAULT-VALUE})")
  private int steps;

  @Option(
      names = "--seed",
      paramLabel = "S",
      defaultValue = "0",
      description = "seed of all randomness (default: ${DEFAULT-VALUE})")
  private long seed;

  @Spec private CommandSpec spec;

  private DigitClassifier() {}

  /** Runs the classifier and ends the JVM with its exit status. */
  public static void main(String[] arguments) {
    System.exit(commandLine().execute(arguments));
  }

  static CommandLine commandLine() {
    return new CommandLine(new DigitClassifier())
        .setExecutionExceptionHandler(MeanFlow::report)
        .setParameterExceptionHandler(MeanFlow::reportUsage);
  }

  @Override
  public Integer call() throws IOException {
    if (steps < 1) {
      throw new ParameterException(spec.commandLine(), "--steps must be >= 1, got " + steps);
    }
    PrintWriter out = spec.commandLine().getOut();
    ImageDataset digits = read("train");
    boolean separateTest = data != null && hasFile(data, "t10k" + IMAGES);
    ImageDataset tested = separateTest ? read("t10k") : digits;
    int[] training = indices(digits, i -> separateTest || i % HELD_OUT != 0);
    int[] test = indices(tested, i -> separateTest || i % HELD_OUT == 0);
    try (Engine engine = Engines.create(null, Precision.FP32);
        DigitNetwork network = new DigitNetwork(engine, seed)) {
      prepare(network, digits, training);
      ImageDataset.Batch truth = tested.batch(test, DataType.FLOAT);
      out.printf(
          "accuracy: %.2f %% of %d real digits%n",
          percentRecognised(network, truth.x(), Objects.requireNonNull(truth.labels())),
          test.length);
      out.flush();
      if (samples != null) {
        INDArray images = images(samples);
        int[] labels = labels(samples, images.size(0));
        out.printf(
            "samples: %.2f %% of %d taken for the digit asked for%n",
            percentRecognised(network, images, labels), labels.length);
        out.flush();
      }
    }
    return 0;
  }

  private ImageDataset read(String part) throws IOException {
    boolean bundled = data == null;
    String prefix = bundled ? BUNDLED + part : part;
    String suffix = bundled ? ".gz" : "";
    return IdxDataset.read(
        DataSource.locate(prefix + IMAGES + suffix, data),
        DataSource.locate(prefix + LABELS + suffix, data),
        DigitNetwork.CLASSES);
  }

  private static boolean hasFile(Path folder, String name) {
    return Files.exists(folder.resolve(name)) || Files.exists(folder.resolve(name + ".gz"));
  }

  private static int[] indices(ImageDataset images, IntPredicate chosen) {
    return IntStream.range(0, images.size()).filter(chosen).toArray();
  }

  private void prepare(DigitNetwork network, ImageDataset digits, int[] training)
      throws IOException {
    if (weights != null && Files.exists(weights)) {
      Weights.load(weights, network.parameters());
      return;
    }
    try (ProgressBar bar = Progress.bar("training", steps)) {
      network.train(digits, training, steps, seed, bar::stepTo);
    }
    if (weights != null) {
      Weights.save(weights, network.parameters(), Map.of());
    }
  }

  private static double percentRecognised(DigitNetwork network, INDArray images, int[] labels) {
    int hits = 0;
    for (int from = 0; from < labels.length; from += CHUNK) {
      int to = Math.min(from + CHUNK, labels.length);
      INDArrayIndex rows = NDArrayIndex.interval(from, to);
      int[] found = network.classify(images.get(rows).dup('c'));
      for (int i = from; i < to; i++) {
        hits += found[i - from] == labels[i] ? 1 : 0;
      }
    }
    return 100.0 * hits / labels.length;
  }

  private static INDArray images(Path file) throws IOException {
    INDArray images = NpyFile.read(file);
    long[] shape = images.shape();
    if (shape.length != 4
        || shape[1] != 1
        || shape[2] != DigitNetwork.SIDE
        || shape[3] != DigitNetwork.SIDE) {
      throw new IOException(
          file + ": samples must be [n, 1, 28, 28], got " + Arrays.toString(shape));
    }
    return images.castTo(DataType.FLOAT);
  }

  /** The labels beside samples, where {@code ./meanflow sample} puts them. */
  private static int[] labels(Path samples, long count) throws IOException {
    String name = String.valueOf(samples.getFileName()).replaceFirst("[.]npy$", "");
    Path file = samples.resolveSibling(name + ".labels.npy");
    INDArray labels = NpyFile.read(file);
    if (labels.rank() != 1 || labels.length() != count) {
      throw new IOException(
          "%s: there must be one label for each of %d samples, got %s"
              .formatted(file, count, Arrays.toString(labels.shape())));
    }
    return labels.toIntVector();
  }
}
