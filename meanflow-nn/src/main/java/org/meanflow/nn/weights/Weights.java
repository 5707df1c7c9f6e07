package org.meanflow.nn.weights;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterLayout;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/**
 * The parameters of a network as a safetensors file, under the names and shapes of the public
 * PyTorch code, so that a state dict saved there loads as it is.
 */
public final class Weights {
  private static final int NAMES_IN_A_MESSAGE = 5;

  private Weights() {}

  /**
   * Writes all parameters, in the engine's precision.
   *
   * @param file the file to write; replaced as a whole or not at all
   * @param parameters what to write
   * @param metadata strings to keep with them
   * @throws IOException if the file cannot be written; then nothing has changed
   */
  public static void save(Path file, ParameterStore parameters, Map<String, String> metadata)
      throws IOException {
    SafetensorsWriter writer = new SafetensorsWriter();
    metadata.forEach(writer::metadata);
    add(writer, "", parameters.engine(), parameters.layout(), parameters.values());
    writer.write(file);
  }

  /**
   * Reads all parameters.
   *
   * @param file a safetensors file with exactly the parameters of the network
   * @param parameters where to put them; unchanged if anything does not fit
   * @throws WeightsException if parameters are missing, unexpected or of another shape
   * @throws IOException if the file cannot be read or is damaged
   */
  public static void load(Path file, ParameterStore parameters) throws IOException {
    try (Safetensors tensors = Safetensors.open(file)) {
      Set<String> names = tensors.tensors().keySet();
      read(tensors, file, names, "", parameters.engine(), parameters.layout(), parameters.values());
    }
  }

  /**
   * Reads the parameters that are in a file, under the same name and with the same shape.
   *
   * @param file a safetensors file
   * @param parameters where to put them; those that the file lacks stay as they are
   * @return what does not fit, a line each for the names that are missing in the file, unexpected,
   *     and of another shape; empty if all fit
   * @throws IOException if the file cannot be read or is damaged
   */
  public static List<String> loadMatching(Path file, ParameterStore parameters) throws IOException {
    try (Safetensors tensors = Safetensors.open(file)) {
      for (Parameter parameter : parameters.layout().parameters()) {
        TensorInfo info = tensors.tensors().get(parameter.name());
        if (info != null && Arrays.equals(info.shape(), parameter.shape())) {
          parameters.write(parameter, Nd4j.createFromArray(tensors.doubles(parameter.name())));
        }
      }
      Set<String> names = tensors.tensors().keySet();
      return problems(tensors, names, "", parameters.layout(), Integer.MAX_VALUE);
    }
  }

  /**
   * Adds a buffer of a network's layout to a file, one tensor for each parameter. The numbers are
   * read piece by piece when the file is written: until then the buffer must stay open.
   *
   * @param writer the file
   * @param prefix put before each parameter's name
   * @param engine the engine that holds the buffer
   * @param layout names, shapes and places
   * @param buffer the numbers, flat
   */
  public static void add(
      SafetensorsWriter writer,
      String prefix,
      Engine engine,
      ParameterLayout layout,
      Tensor buffer) {
    Dtype dtype = engine.precision() == Precision.FP64 ? Dtype.F64 : Dtype.F32;
    for (Parameter parameter : layout.parameters()) {
      writer.add(
          prefix + parameter.name(),
          dtype,
          parameter.shape(),
          Tensor.size(parameter.shape()),
          (chunk, first, count) -> {
            try (INDArray piece = engine.read(buffer.view(parameter.offset() + first, count))) {
              chunk.copyFrom(contents(piece, (long) count * dtype.bytes()));
            }
          });
    }
  }

  /** The elements of a dense array, where they are. */
  private static MemorySegment contents(INDArray array, long bytes) {
    return MemorySegment.ofAddress(array.data().address()).reinterpret(bytes);
  }

  /**
   * Reads a buffer that {@link #add} wrote.
   *
   * @param file an open file
   * @param path its name, for messages
   * @param prefix put before each parameter's name; tensors with other prefixes are passed over
   * @param engine the engine that holds the buffer
   * @param layout names, shapes and places
   * @param buffer where to put the numbers; unchanged if anything does not fit
   * @throws WeightsException if parameters are missing, unexpected or of another shape
   * @throws IOException if the file cannot be read
   */
  public static void read(
      Safetensors file,
      Path path,
      String prefix,
      Engine engine,
      ParameterLayout layout,
      Tensor buffer)
      throws IOException {
    Set<String> names = new LinkedHashSet<>(file.tensors().keySet());
    names.removeIf(name -> !name.startsWith(prefix));
    read(file, path, names, prefix, engine, layout, buffer);
  }

  private static void read(
      Safetensors file,
      Path path,
      Set<String> names,
      String prefix,
      Engine engine,
      ParameterLayout layout,
      Tensor buffer)
      throws IOException {
    List<String> problems = problems(file, names, prefix, layout, NAMES_IN_A_MESSAGE);
    if (!problems.isEmpty()) {
      throw new WeightsException(
          "%s does not fit the model: %s; use the configuration that it was trained with"
              .formatted(path, String.join("; ", problems)));
    }
    for (Parameter parameter : layout.parameters()) {
      double[] values = file.doubles(prefix + parameter.name());
      Tensor view = buffer.view(parameter.offset(), parameter.shape());
      engine.write(Nd4j.createFromArray(values), view);
    }
  }

  private static List<String> problems(
      Safetensors file, Set<String> names, String prefix, ParameterLayout layout, int shown) {
    Set<String> unexpected = new LinkedHashSet<>(names);
    List<String> missing = new ArrayList<>();
    List<String> misshaped = new ArrayList<>();
    for (Parameter parameter : layout.parameters()) {
      String name = prefix + parameter.name();
      unexpected.remove(name);
      TensorInfo info = file.tensors().get(name);
      if (info == null) {
        missing.add(name);
      } else if (!Arrays.equals(info.shape(), parameter.shape())) {
        misshaped.add(
            "%s is %s in the file, %s in the model"
                .formatted(
                    name, Arrays.toString(info.shape()), Arrays.toString(parameter.shape())));
      }
    }
    List<String> problems = new ArrayList<>();
    addProblem(problems, "missing", missing, shown);
    addProblem(problems, "unexpected", List.copyOf(unexpected), shown);
    addProblem(problems, "of another shape", misshaped, shown);
    return problems;
  }

  private static void addProblem(
      List<String> problems, String what, List<String> names, int shown) {
    if (!names.isEmpty()) {
      String listed = String.join(", ", names.subList(0, Math.min(shown, names.size())));
      String more = names.size() > shown ? ", …" : "";
      problems.add("%d %s (%s%s)".formatted(names.size(), what, listed, more));
    }
  }
}
