package org.meanflow.nn;

import java.util.List;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.dit.DiT;
import org.meanflow.nn.dit.DiTConfig;
import org.meanflow.nn.dit.TimeConditioning;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.layer.PositionTable;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;

/** A transformer small enough to be evaluated in milliseconds, all parameters random. */
public final class TinyDiT implements AutoCloseable {
  /** One of each kind: two blocks, two heads, four tokens, three classes. */
  public static final DiTConfig CONFIG = config(TimeConditioning.T_R, Norm.rms());

  /** The engine, in float64. */
  public final Engine engine = Engines.create("nd4j", Precision.FP64);

  /** The parameters. */
  public final ParameterStore parameters;

  /** The network as a field. */
  public final NetworkField field;

  /** A network in which every parameter is normal with standard deviation 0.3. */
  public TinyDiT(DiTConfig config) {
    DiT network = new DiT(config);
    parameters = new ParameterStore(engine, network.parameters());
    List<Parameter> all = network.parameters().parameters();
    for (int i = 0; i < all.size(); i++) {
      long[] shape = all.get(i).shape();
      RandomStream random = new RandomStream(11, i, Purpose.INITIALISATION);
      parameters.write(all.get(i), random.normalArray(DataType.DOUBLE, shape).mul(0.3));
    }
    field = new NetworkField(network, parameters);
  }

  public static DiTConfig config(TimeConditioning conditioning, Norm norm) {
    return new DiTConfig(
        1, 4, 2, 8, 2, 2, 2, 3, norm, norm, 1, conditioning, PositionTable.LEARNED, 8);
  }

  /** Normal numbers {@code [batch, 1, 4, 4]}, a function of the seed. */
  public static INDArray images(int seed, int batch) {
    return new RandomStream(seed, 0, Purpose.NOISE).normalArray(DataType.DOUBLE, batch, 1, 4, 4);
  }

  /** The parameter of that name. */
  public Parameter parameter(String name) {
    return parameters.layout().parameters().stream()
        .filter(parameter -> parameter.name().equals(name))
        .findFirst()
        .orElseThrow();
  }

  @Override
  public void close() {
    parameters.close();
    engine.close();
  }
}
