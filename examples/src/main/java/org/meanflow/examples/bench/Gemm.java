package org.meanflow.examples.bench;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Phaser;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.buffer.DataType;

/**
 * A plain product of matrices, y = x wᵀ, as an engine computes it: what its linear kernels can
 * reach at best.
 *
 * @param rows rows of x
 * @param in columns of x
 * @param out columns of y
 */
record Gemm(int rows, int in, int out) {

  private static final Gemm CUBE = new Gemm(2048, 2048, 2048);

  /** Where {@link #CUBE} takes a GPU less time than its launch does. */
  private static final Gemm LARGE_CUBE = new Gemm(8192, 8192, 8192);

  /** A cube that is worth the larger one: 10 TFLOP/s. */
  private static final double FAST = 1e4;

  /** Shapes of networks. */
  private static final List<Gemm> SHAPES =
      List.of(
          new Gemm(4096, 384, 1536),
          new Gemm(4096, 1536, 384),
          new Gemm(1024, 768, 3072),
          new Gemm(1024, 3072, 768));

  private static final double MIN_SECONDS = 0.5;
  private static final int MIN_REPETITIONS = 10;

  double flops() {
    return 2.0 * rows * in * out;
  }

  /**
   * The speed of the median repetition. Engines of a team each compute a product, at the same time.
   *
   * @return GFLOP/s
   */
  double gflops(Engine engine) {
    List<Engine> team = engine.team();
    List<Runnable> products = new ArrayList<>();
    List<Tensor> tensors = new ArrayList<>();
    for (Engine member : team) {
      Tensor x = random(member, Storage.COMPACT, rows, in);
      Tensor w = random(member, Storage.FULL, out, in);
      Tensor y = member.allocate(Storage.COMPACT, rows, out);
      tensors.addAll(List.of(x, w, y));
      products.add(
          () -> {
            member.kernels().linear().linear(x, w, null, 0, y);
            member.finish();
          });
    }
    Runnable all = () -> together(products);
    double first = Timings.time(all);
    int repetitions = (int) Math.max(MIN_REPETITIONS, MIN_SECONDS * 1e3 / first);
    Timings.warmUp(all, repetitions / 2 + 1);
    Timings timings = Timings.measure(all, repetitions);
    tensors.forEach(Tensor::close);
    return flops() * team.size() / timings.median() * 1e-6;
  }

  /** The speed of cubes and of shapes of networks, GFLOP/s. */
  static Map<String, Double> all(Engine engine) {
    Map<String, Double> speeds = new LinkedHashMap<>();
    if (CUBE.measure(engine, speeds) > FAST) {
      LARGE_CUBE.measure(engine, speeds);
    }
    SHAPES.forEach(shape -> shape.measure(engine, speeds));
    return speeds;
  }

  private double measure(Engine engine, Map<String, Double> speeds) {
    double speed = Math.rint(10 * gflops(engine)) / 10;
    speeds.put("%dx%dx%d".formatted(rows, in, out), speed);
    return speed;
  }

  private static Tensor random(Engine engine, Storage storage, int rows, int columns) {
    Tensor tensor = engine.allocate(storage, rows, columns);
    engine.write(
        new RandomStream(0, 0, Purpose.INITIALISATION).normalArray(DataType.FLOAT, rows, columns),
        tensor);
    return tensor;
  }

  private static void together(List<Runnable> products) {
    if (products.size() == 1) {
      products.getFirst().run();
      return;
    }
    Phaser done = new Phaser(products.size());
    for (Runnable product : products.subList(1, products.size())) {
      Thread.ofPlatform()
          .start(
              () -> {
                product.run();
                done.arrive();
              });
    }
    products.getFirst().run();
    done.arriveAndAwaitAdvance();
  }
}
