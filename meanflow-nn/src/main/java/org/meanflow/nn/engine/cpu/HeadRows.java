package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.all;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;

import jdk.incubator.vector.FloatVector;
import org.meanflow.nn.engine.Norm;

/**
 * Where the rows of some heads lie, one for each token and head, and the normalisation of q and k
 * on the way from one place to another. Rows are whole vectors long, zeros behind their end.
 *
 * @param address of the first token's row of the first head
 * @param rowBytes between tokens
 * @param headBytes between heads
 * @param half whether the elements are bfloat16
 */
record HeadRows(long address, long rowBytes, long headBytes, boolean half) {

  /**
   * How rows are normalised: y = (x − mean)·inverse ⊙ gain.
   *
   * @param d elements of a row
   * @param gain {@code d} floats, zeros behind them up to a whole vector
   */
  record Normal(Norm norm, int d, long gain) {}

  long at(int token, int head) {
    return address + token * rowBytes + head * headBytes;
  }

  /** Copies the rows of tokens [0, tokens). */
  void copyTo(HeadRows to, int tokens, int heads, int length) {
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        copy(half, at(token, head), to.half, to.at(token, head), length);
      }
    }
  }

  private static void copy(boolean half, long x, boolean toHalf, long to, int length) {
    for (int i = 0; i < length; i += LANES) {
      store(load(half, x, i), toHalf, to, i);
    }
  }

  /** Adds the rows of tokens [0, tokens). */
  void addTo(HeadRows to, int tokens, int heads, int length) {
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        add(half, at(token, head), to.half, to.at(token, head), length);
      }
    }
  }

  private static void add(boolean half, long x, boolean toHalf, long to, int length) {
    for (int i = 0; i < length; i += LANES) {
      store(load(half, x, i).add(load(toHalf, to, i)), toHalf, to, i);
    }
  }

  /** Clears the rows of tokens [from, until). */
  void clear(int from, int until, int heads, int length) {
    FloatVector zero = FloatVector.zero(Simd.FLOATS);
    for (int token = from; token < until; token++) {
      for (int head = 0; head < heads; head++) {
        for (int i = 0; i < length; i += LANES) {
          store(zero, half, at(token, head), i);
        }
      }
    }
  }

  /** Normalises the rows of tokens [0, tokens). */
  void normaliseTo(HeadRows to, int tokens, int heads, Normal n) {
    Norm.Kind kind = n.norm.kind();
    double epsilon = n.norm.epsilon();
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long x = at(token, head);
        normalise(kind, epsilon, half, x, n.d, n.gain, to.half, to.at(token, head));
      }
    }
  }

  private static void normalise(
      Norm.Kind kind,
      double epsilon,
      boolean half,
      long x,
      int d,
      long gain,
      boolean toHalf,
      long to) {
    float mean = mean(kind, half, x, d);
    FloatVector m = all(mean);
    FloatVector scale = all(inverse(kind, epsilon, half, x, mean, d));
    for (int i = 0; i < d; i += LANES) {
      store(load(half, x, i).sub(m).mul(scale).mul(load(gain, i)), toHalf, to, i);
    }
  }

  /** The derivative of {@link #normaliseTo} along the rows {@code d}. */
  void tangentsTo(HeadRows d, HeadRows to, int tokens, int heads, Normal n) {
    Norm.Kind kind = n.norm.kind();
    double epsilon = n.norm.epsilon();
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long x = at(token, head);
        long dx = d.at(token, head);
        tangent(kind, epsilon, half, x, d.half, dx, n.d, n.gain, to.half, to.at(token, head));
      }
    }
  }

  private static void tangent(
      Norm.Kind kind,
      double epsilon,
      boolean half,
      long x,
      boolean dHalf,
      long dx,
      int d,
      long gain,
      boolean toHalf,
      long to) {
    float mean = mean(kind, half, x, d);
    float inverse = inverse(kind, epsilon, half, x, mean, d);
    FloatVector m = all(mean);
    FloatVector sum = FloatVector.zero(Simd.FLOATS);
    for (int i = 0; i < d; i += LANES) {
      sum = load(half, x, i).sub(m).fma(load(dHalf, dx, i), sum);
    }
    FloatVector along = all(along(kind, sum, inverse, d));
    FloatVector dMean = all(mean(kind, dHalf, dx, d));
    FloatVector scale = all(inverse);
    for (int i = 0; i < d; i += LANES) {
      FloatVector slope = load(half, x, i).sub(m).fma(along, load(dHalf, dx, i).sub(dMean));
      store(slope.mul(scale).mul(load(gain, i)), toHalf, to, i);
    }
  }

  /**
   * From the cotangents of normalised rows to those of these rows.
   *
   * @param g float32, overwritten
   * @param gainSum what the gain's cotangent is added to, whole vectors
   * @param to the result; {@code null} if not wanted
   * @param add whether it is added
   */
  void cotangentsTo(
      HeadRows g, long gainSum, HeadRows to, boolean add, int tokens, int heads, Normal n) {
    Norm.Kind kind = n.norm.kind();
    double epsilon = n.norm.epsilon();
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long x = at(token, head);
        long gx = g.at(token, head);
        long target = to.at(token, head);
        cotangent(kind, epsilon, half, x, gx, gainSum, n.d, n.gain, to.half, target, add);
      }
    }
  }

  private static void cotangent(
      Norm.Kind kind,
      double epsilon,
      boolean half,
      long x,
      long g,
      long gainSum,
      int d,
      long gain,
      boolean toHalf,
      long to,
      boolean add) {
    float mean = mean(kind, half, x, d);
    float inverse = inverse(kind, epsilon, half, x, mean, d);
    FloatVector m = all(mean);
    FloatVector scale = all(inverse);
    FloatVector sum = FloatVector.zero(Simd.FLOATS);
    for (int i = 0; i < d; i += LANES) {
      FloatVector centred = load(half, x, i).sub(m);
      FloatVector own = load(g, i);
      store(centred.mul(scale).fma(own, load(gainSum, i)), gainSum, i);
      own = own.mul(load(gain, i));
      store(own, g, i);
      sum = centred.fma(own, sum);
    }
    FloatVector along = all(along(kind, sum, inverse, d));
    FloatVector gMean = all(mean(kind, false, g, d));
    for (int i = 0; i < d; i += LANES) {
      FloatVector slope = load(half, x, i).sub(m).fma(along, load(g, i).sub(gMean)).mul(scale);
      store(add ? slope.add(load(toHalf, to, i)) : slope, toHalf, to, i);
    }
  }

  /** −inverse·mean(x̂ ⊙ d), where {@code sum} adds up to Σ (x − mean) ⊙ d. */
  private static float along(Norm.Kind kind, FloatVector sum, float inverse, int d) {
    return kind == Norm.Kind.NONE ? 0 : -inverse * inverse * Simd.sum(sum) / d;
  }

  /** What is subtracted: the mean for layer norm. */
  private static float mean(Norm.Kind kind, boolean half, long x, int d) {
    if (kind != Norm.Kind.LAYER) {
      return 0;
    }
    FloatVector sum = FloatVector.zero(Simd.FLOATS);
    for (int i = 0; i < d; i += LANES) {
      sum = sum.add(load(half, x, i));
    }
    return Simd.sum(sum) / d;
  }

  /** 1/√(mean((x − mean)²) + ε); 1 for no normalisation. */
  private static float inverse(
      Norm.Kind kind, double epsilon, boolean half, long x, float mean, int d) {
    if (kind == Norm.Kind.NONE) {
      return 1;
    }
    FloatVector m = all(mean);
    FloatVector squares = FloatVector.zero(Simd.FLOATS);
    for (int i = 0; i < d; i += LANES) {
      FloatVector centred = load(half, x, i).sub(m);
      squares = centred.fma(centred, squares);
    }
    double beyond = (Simd.padded(d) - d) * (double) mean * mean; // from the zeros
    return (float) (1 / Math.sqrt((Simd.sum(squares) - beyond) / d + epsilon));
  }
}
