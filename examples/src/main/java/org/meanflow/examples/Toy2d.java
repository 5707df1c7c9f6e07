package org.meanflow.examples;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.Callable;
import me.tongfei.progressbar.ProgressBar;
import org.knowm.xchart.BitmapEncoder;
import org.knowm.xchart.BitmapEncoder.BitmapFormat;
import org.knowm.xchart.XYChart;
import org.knowm.xchart.XYChartBuilder;
import org.knowm.xchart.XYSeries;
import org.knowm.xchart.style.markers.SeriesMarkers;
import org.meanflow.core.objective.AdaptiveLoss;
import org.meanflow.core.objective.Guidance;
import org.meanflow.core.objective.MeanFlowObjective;
import org.meanflow.core.objective.Reduction;
import org.meanflow.core.path.LinearPath;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.core.time.EqualCount;
import org.meanflow.core.time.Pairing;
import org.meanflow.core.time.TimePairSampler;
import org.meanflow.core.time.Uniform;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.net.MlpConfig;
import org.meanflow.nn.net.MlpNetwork;
import org.meanflow.sample.MeanFlowSampler;
import org.meanflow.train.Progress;
import org.meanflow.train.Trainer;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.optim.AdamWConfig;
import org.meanflow.train.optim.Ema;
import org.meanflow.train.optim.LearningRate;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/**
 * MeanFlow in the plane: learns six Gaussians on a ring, draws points with one network evaluation
 * each, and plots them beside true ones.
 */
@Command(
    name = "toy2d",
    mixinStandardHelpOptions = true,
    description = "Learns six Gaussians on a ring and plots samples drawn in one step.")
public final class Toy2d implements Callable<Integer> {
  private static final int MODES = 6;
  private static final double RADIUS = 1.5;
  private static final double STD = 0.25;

  private static final int POINTS = 100_000;
  private static final int DRAWN = 20_000;
  private static final int PLOTTED = 2_000;
  private static final int DIRECTIONS = 64;

  @Option(
      names = "--steps",
      paramLabel = "N",
      defaultValue = "4000",
      description = "training steps (default: ${DEFAULT-VALUE})")
  private int steps;

  @Option(
      names = "--out",
      paramLabel = "FILE.png",
      defaultValue = "toy2d.png",
      description = "the plot (default: ${DEFAULT-VALUE})")
  private Path out;

  @Option(
      names = "--seed",
      paramLabel = "S",
      defaultValue = "0",
      description = "seed of all randomness (default: ${DEFAULT-VALUE})")
  private long seed;

  @Spec private CommandSpec spec;

  private Toy2d() {}

  /** Runs the example and ends the JVM with its exit status. */
  public static void main(String[] arguments) {
    System.setProperty("java.awt.headless", "true");
    System.exit(commandLine().execute(arguments));
  }

  static CommandLine commandLine() {
    return new CommandLine(new Toy2d())
        .setExecutionExceptionHandler(MeanFlow::report)
        .setParameterExceptionHandler(MeanFlow::reportUsage);
  }

  @Override
  public Integer call() throws IOException {
    if (steps < 1) {
      throw new ParameterException(spec.commandLine(), "--steps must be >= 1, got " + steps);
    }
    PrintWriter printer = spec.commandLine().getOut();
    INDArray truth = ring(seed, 1, DRAWN);
    INDArray learned = learn();
    printer.printf(
        "sliced Wasserstein distance to true points: %.4f drawn in one step, %.4f other true ones,"
            + " %.4f noise%n",
        slicedWasserstein(learned, truth),
        slicedWasserstein(ring(seed, 2, DRAWN), truth),
        slicedWasserstein(noise(), truth));
    plot(truth, learned);
    printer.println(out);
    printer.flush();
    return 0;
  }

  /** Trains a network and draws points with it. */
  private INDArray learn() throws IOException {
    Uniform law = new Uniform();
    MeanFlowObjective objective =
        new MeanFlowObjective(
            new LinearPath(),
            new TimePairSampler(law, law, Pairing.MAX_MIN, 0.1, EqualCount.EXACT),
            Guidance.none(),
            new AdaptiveLoss(0.25, 1e-2, Reduction.SUM));
    Trainer.Settings settings =
        new Trainer.Settings(
            step -> objective,
            new AdamWConfig(0.9, 0.99, 1e-8, 0, 10),
            new LearningRate(1e-2, 100, LearningRate.Kind.COSINE, steps, 0),
            new Ema(0.998, true),
            512,
            seed);
    MlpNetwork network = new MlpNetwork(new MlpConfig(2, 64, 3, 0, 3, 4));
    try (Engine engine = Engines.create(null, Precision.FP32);
        Trainer trainer = new Trainer(engine, network, Points.of(ring(seed, 0, POINTS)), settings);
        ProgressBar bar = Progress.bar("training", steps)) {
      while (trainer.stepsTaken() < steps) {
        trainer.step();
        bar.step();
      }
      return MeanFlowSampler.oneStep().sample(trainer.averagedField(), noise(), null);
    }
  }

  private INDArray noise() {
    return new RandomStream(seed, 0, Purpose.SAMPLING).normalArray(DataType.FLOAT, DRAWN, 2);
  }

  /** True points, {@code [count, 2]}. */
  private static INDArray ring(long seed, int stream, int count) {
    RandomStream random = new RandomStream(seed, stream, Purpose.DATA_ORDER);
    float[] points = new float[2 * count];
    for (int i = 0; i < count; i++) {
      double angle = 2 * Math.PI * random.nextInt(MODES) / MODES;
      points[2 * i] = (float) (RADIUS * Math.cos(angle) + STD * random.nextNormal());
      points[2 * i + 1] = (float) (RADIUS * Math.sin(angle) + STD * random.nextNormal());
    }
    return Nd4j.createFromArray(points).reshape(count, 2);
  }

  /**
   * The sliced Wasserstein distance of two sets of as many points: the root mean square, over
   * directions, of the distances of their projections, which matching in sorted order gives.
   */
  static double slicedWasserstein(INDArray a, INDArray b) {
    double sum = 0;
    for (int i = 0; i < DIRECTIONS; i++) {
      double angle = Math.PI * i / DIRECTIONS;
      double[] first = sortedProjection(a, angle);
      double[] second = sortedProjection(b, angle);
      for (int j = 0; j < first.length; j++) {
        double difference = first[j] - second[j];
        sum += difference * difference;
      }
    }
    return Math.sqrt(sum / (DIRECTIONS * a.size(0)));
  }

  private static double[] sortedProjection(INDArray points, double angle) {
    double[] values =
        points
            .getColumn(0)
            .mul(Math.cos(angle))
            .add(points.getColumn(1).mul(Math.sin(angle)))
            .toDoubleVector();
    Arrays.sort(values);
    return values;
  }

  private void plot(INDArray truth, INDArray learned) throws IOException {
    if (out.getParent() != null) {
      Files.createDirectories(out.getParent());
    }
    List<XYChart> charts = List.of(chart("data", truth), chart("drawn in one step", learned));
    BitmapEncoder.saveBitmap(charts, 1, 2, out.toString(), BitmapFormat.PNG);
  }

  private static XYChart chart(String title, INDArray points) {
    XYChart chart = new XYChartBuilder().title(title).width(420).height(440).build();
    chart
        .getStyler()
        .setDefaultSeriesRenderStyle(XYSeries.XYSeriesRenderStyle.Scatter)
        .setLegendVisible(false);
    chart.getStyler().setXAxisMin(-2.2).setXAxisMax(2.2).setYAxisMin(-2.2).setYAxisMax(2.2);
    chart.getStyler().setMarkerSize(3);
    double[] x = Arrays.copyOf(points.getColumn(0).toDoubleVector(), PLOTTED);
    double[] y = Arrays.copyOf(points.getColumn(1).toDoubleVector(), PLOTTED);
    chart.addSeries(title, x, y).setMarker(SeriesMarkers.CIRCLE);
    return chart;
  }

  /** Points as a data set, for a trainer asks no more of one. */
  private record Points(float[] x, float[] y) implements ImageDataset {
    static Points of(INDArray points) {
      return new Points(points.getColumn(0).toFloatVector(), points.getColumn(1).toFloatVector());
    }

    @Override
    public int size() {
      return x.length;
    }

    @Override
    public int classes() {
      return 0;
    }

    @Override
    public long[] imageShape() {
      return new long[] {2};
    }

    @Override
    public Batch batch(int[] indices, DataType type) {
      float[] values = new float[2 * indices.length];
      for (int i = 0; i < indices.length; i++) {
        values[2 * i] = x[indices[i]];
        values[2 * i + 1] = y[indices[i]];
      }
      return new Batch(Nd4j.createFromArray(values).reshape(indices.length, 2).castTo(type), null);
    }
  }
}
