package org.meanflow.examples.bench;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.AttentionKernels;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.FeedForwardKernels;
import org.meanflow.nn.engine.LinearKernels;
import org.meanflow.nn.engine.OptimizerKernels;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;

/**
 * What a call of a kernel amounts to, from its arguments.
 *
 * @param flops operations in products of matrices, two for each multiplication with its addition
 * @param bytes size of all tensors among the arguments, each counted once
 * @param tangentShare share of the rows that are tangents, in a product of values and tangents
 */
record KernelWork(double flops, double bytes, double tangentShare) {

  static KernelWork of(
      Class<?> family, String kernel, Object @Nullable [] arguments, Engine engine) {
    List<Tensor> tensors = new ArrayList<>();
    double bytes = 0;
    for (Object argument : arguments == null ? new Object[0] : arguments) {
      collect(argument, tensors);
    }
    for (Tensor tensor : tensors) {
      bytes += (double) tensor.size() * width(tensor, engine.precision());
    }
    if (family == LinearKernels.class) {
      return linear(kernel, arguments, tensors, bytes);
    }
    if (family == FeedForwardKernels.class) {
      return feedForward(kernel, tensors, bytes);
    }
    double flops = family == AttentionKernels.class ? attention(kernel, tensors.getFirst()) : 0;
    return new KernelWork(flops, bytes, 0);
  }

  private static KernelWork linear(
      String kernel, Object @Nullable [] arguments, List<Tensor> tensors, double bytes) {
    Tensor x = tensors.get(0);
    Tensor w = tensors.get(1);
    double rows = (double) x.size() / w.dim(1);
    double product = 2 * rows * w.size();
    int products = 0;
    double tangentShare = 0;
    for (Object argument : arguments == null ? new Object[0] : arguments) {
      // The cotangents of x and w are products, that of the bias is a sum.
      if (argument instanceof Cotangent g && g.target().size() >= Math.min(x.size(), w.size())) {
        products++;
      } else if (argument instanceof Long biasRows && biasRows > 0) {
        tangentShare = 1 - biasRows / rows;
      }
    }
    return kernel.endsWith("Backward")
        ? new KernelWork(products * product, bytes, 0)
        : new KernelWork(product, bytes, tangentShare);
  }

  /** Two products; four, with the cotangents of the weights, for the backward rule. */
  private static KernelWork feedForward(String kernel, List<Tensor> tensors, double bytes) {
    boolean tangent = kernel.endsWith("Tangent");
    Tensor x = tensors.get(tangent ? 4 : 0);
    int weights = tangent ? 0 : 1;
    Tensor w1 = tensors.get(weights);
    Tensor w2 = tensors.get(weights + 2);
    double once = 2.0 * x.size() / w1.dim(1) * (w1.size() + w2.size());
    return new KernelWork(kernel.endsWith("Backward") ? 2 * once : once, bytes, 0);
  }

  /** Two products of [tokens, tokens] with [tokens, width]; four for the other two rules. */
  private static double attention(String kernel, Tensor qkv) {
    double once = 4.0 * qkv.size() / 3 * qkv.dim(1);
    return kernel.equals("attention") ? once : 2 * once;
  }

  private static void collect(@Nullable Object argument, List<Tensor> tensors) {
    switch (argument) {
      case Tensor tensor -> tensors.add(tensor);
      case Cotangent cotangent -> tensors.add(cotangent.target());
      case FeedForwardKernels.Weights w -> {
        tensors.addAll(List.of(w.w1(), w.b1(), w.w2(), w.b2()));
      }
      case OptimizerKernels.Average average -> {
        tensors.add(average.average());
        collect(average.remainder(), tensors);
      }
      case Object[] several -> {
        for (Object one : several) {
          collect(one, tensors);
        }
      }
      case null, default -> {}
    }
  }

  private static int width(Tensor tensor, Precision precision) {
    return tensor.storage() == Storage.COMPACT && precision == Precision.BF16
        ? 2
        : precision.dataType().width();
  }
}
