package org.meanflow.examples;

import java.util.Arrays;
import java.util.Objects;
import java.util.function.LongConsumer;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.nn.autodiff.Dual;
import org.meanflow.nn.autodiff.Initializer;
import org.meanflow.nn.autodiff.ParameterLayout;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.autodiff.Tape;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.OptimizerKernels;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.layer.LinearLayer;
import org.meanflow.nn.primitive.Gelu;
import org.meanflow.train.data.DataException;
import org.meanflow.train.data.DataOrder;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.optim.AdamWConfig;
import org.meanflow.train.optim.LearningRate;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/**
 * A classifier of digits, 784-512-256-10 with GELU, on the library's own autodiff: what is needed
 * to train something other than a MeanFlow network.
 */
final class DigitNetwork implements AutoCloseable {
  static final int SIDE = 28;
  static final int CLASSES = 10;

  private static final int PIXELS = SIDE * SIDE;
  private static final int BATCH = 128;
  private static final int MAX_SHIFT = 2;
  private static final double RATE = 2e-3;
  private static final AdamWConfig ADAM_W = new AdamWConfig(0.9, 0.99, 1e-8, 0.01, 1);

  private final Engine engine;
  private final LinearLayer first;
  private final LinearLayer second;
  private final LinearLayer head;
  private final ParameterStore parameters;

  /** An untrained network. */
  DigitNetwork(Engine engine, long seed) {
    ParameterLayout layout = new ParameterLayout();
    Initializer xavier = Initializer.xavierUniform();
    this.engine = engine;
    this.first = new LinearLayer(layout, "fc1", xavier, 512, PIXELS);
    this.second = new LinearLayer(layout, "fc2", xavier, 256, 512);
    this.head = new LinearLayer(layout, "head", xavier, CLASSES, 256);
    this.parameters = ParameterStore.initialized(engine, layout, seed);
  }

  ParameterStore parameters() {
    return parameters;
  }

  /**
   * Trains by cross-entropy, each image shifted at random by up to two pixels.
   *
   * @param data images {@code [1, 28, 28]} with labels
   * @param samples which of them to train on
   * @param progress told the number of steps done
   */
  void train(ImageDataset data, int[] samples, int steps, long seed, LongConsumer progress)
      throws DataException {
    DataOrder order = new DataOrder(seed, samples.length, BATCH);
    LearningRate rate = new LearningRate(RATE, 50, LearningRate.Kind.COSINE, steps, 0);
    OptimizerKernels optimizer = engine.kernels().optimizer();
    try (Tensor firstMoments = parameters.zeroBuffer();
        Tensor secondMoments = parameters.zeroBuffer()) {
      for (int step = 0; step < steps; step++) {
        int[] chosen = Arrays.stream(order.indices(step)).map(i -> samples[i]).toArray();
        ImageDataset.Batch batch = data.batch(chosen, DataType.FLOAT);
        RandomStream random = new RandomStream(seed, step, Purpose.AUGMENTATION);
        computeGradients(shifted(batch.x(), random), Objects.requireNonNull(batch.labels()));
        double norm = Math.sqrt(parameters.squaredGradientNorm());
        optimizer.adamW(
            ADAM_W.update(step, rate.at(step), norm),
            parameters.values(),
            parameters.gradients(),
            firstMoments,
            secondMoments);
        progress.accept(step + 1);
      }
    }
  }

  /**
   * The most likely class of each image.
   *
   * @param images {@code [n, 1, 28, 28]}, values in [−1, 1]
   */
  int[] classify(INDArray images) {
    try (Tape tape = new Tape(parameters, Tape.Mode.EVALUATE)) {
      return engine.read(logits(tape, images).value()).argMax(1).toIntVector();
    }
  }

  @Override
  public void close() {
    parameters.close();
  }

  private void computeGradients(INDArray images, int[] labels) {
    parameters.clearGradients();
    try (Tape tape = new Tape(parameters, Tape.Mode.RECORD)) {
      Dual logits = logits(tape, images);
      try (Tensor cotangent = engine.copyOf(slope(engine.read(logits.value()), labels))) {
        tape.backward(logits, cotangent);
      }
    }
  }

  private Dual logits(Tape tape, INDArray images) {
    long batch = images.size(0);
    Tensor pixels = tape.allocate(batch, PIXELS);
    engine.write(images, pixels);
    Dual x = tape.input(pixels, batch, false);
    x = tape.apply(new Gelu(), first.forward(tape, x));
    x = tape.apply(new Gelu(), second.forward(tape, x));
    return head.forward(tape, x);
  }

  /** The derivative of the mean cross-entropy, (softmax(logits) − one-hot(labels)) / batch. */
  private static INDArray slope(INDArray logits, int[] labels) {
    double[][] p = logits.toDoubleMatrix();
    for (int i = 0; i < p.length; i++) {
      double greatest = Arrays.stream(p[i]).max().orElseThrow();
      double sum = 0;
      for (int k = 0; k < CLASSES; k++) {
        p[i][k] = Math.exp(p[i][k] - greatest);
        sum += p[i][k];
      }
      for (int k = 0; k < CLASSES; k++) {
        p[i][k] = (p[i][k] / sum - (k == labels[i] ? 1 : 0)) / p.length;
      }
    }
    return Nd4j.createFromArray(p);
  }

  /** The images, each moved by up to {@link #MAX_SHIFT} pixels each way; −1 comes in. */
  private static INDArray shifted(INDArray images, RandomStream random) {
    float[] from = images.dup('c').data().asFloat();
    float[] to = new float[from.length];
    Arrays.fill(to, -1);
    for (int start = 0; start < from.length; start += PIXELS) {
      int down = random.nextInt(2 * MAX_SHIFT + 1) - MAX_SHIFT;
      int right = random.nextInt(2 * MAX_SHIFT + 1) - MAX_SHIFT;
      int width = SIDE - Math.abs(right);
      for (int row = Math.max(0, down); row < SIDE + Math.min(0, down); row++) {
        int source = start + (row - down) * SIDE + Math.max(0, -right);
        System.arraycopy(from, source, to, start + row * SIDE + Math.max(0, right), width);
      }
    }
    return Nd4j.createFromArray(to).reshape(images.shape());
  }
}
