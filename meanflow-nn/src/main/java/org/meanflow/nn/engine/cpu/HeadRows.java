package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.all;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;

import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;
import org.meanflow.nn.engine.Norm;

/**
 * Where the rows of some heads lie, one for each token and head, and the normalisation of q and k
 * on the way from one place to another. Rows are whole vectors long, zeros behind their end.
 *
 * <p>Each pass over the rows is a method of its own with at most one sum of lanes: so much the
 * compiler takes in before it gives up and puts vectors on the heap.
 *
 * @param address of the first token's row of the first head
 * @param rowBytes between tokens
 * @param headBytes between heads
 * @param half whether the elements are bfloat16; of rows that are computed with they are not
 * @param tokens their number
 * @param heads their number
 * @param length floats of a row
 */
record HeadRows(
    long address, long rowBytes, long headBytes, boolean half, int tokens, int heads, int length) {

  /**
   * How rows are normalised: y = (x − mean)·inverse ⊙ gain.
   *
   * @param d elements of a row
   * @param gain {@code d} floats, zeros behind them up to a whole vector
   * @param means of the rows, token by token
   * @param inverses of the rows, token by token
   * @param alongs work memory for a number of each row
   * @param gainSum what the gain's cotangent is added to, whole vectors; 0 if none is computed
   */
  record Normal(Norm norm, int d, long gain, long means, long inverses, long alongs, long gainSum) {
    boolean layer() {
      return norm.kind() == Norm.Kind.LAYER;
    }
  }

  /**
   * A loop over the rows x and, in their places, rows y. They are called where the compiler sees
   * many of them, as those of {@link SoftmaxRows}.
   */
  @FunctionalInterface
  private interface Pass {
    void over(HeadRows x, HeadRows y, Normal n);
  }

  private static final Pass[] MEASURE = {HeadRows::findMeans, HeadRows::findInverses};
  private static final Pass[] NORMALISE = {HeadRows::normalise};
  private static final Pass[] SLOPES = {
    HeadRows::findAlongs, HeadRows::subtractMeans, HeadRows::slopes
  };
  private static final Pass[] MULTIPLY = {HeadRows::multiply};
  private static final Pass[] COTANGENT = {HeadRows::gainCotangents};

  private void run(Pass[] passes, HeadRows y, Normal n) {
    for (Pass pass : passes) {
      pass.over(this, y, n);
    }
  }

  long at(int token, int head) {
    return address + token * rowBytes + head * headBytes;
  }

  private long index(int token, int head) {
    return ((long) token * heads + head) * Float.BYTES;
  }

  /** Copies the rows; {@code to} may be bfloat16 if these are float32. */
  void copyTo(HeadRows to) {
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long x = at(token, head);
        long y = to.at(token, head);
        if (half) {
          MemorySegment.copy(Simd.ALL, x, Simd.ALL, y, (long) length * Short.BYTES);
        } else {
          for (int i = 0; i < length; i += LANES) {
            store(load(x, i), to.half, y, i);
          }
        }
      }
    }
  }

  /** Adds the rows, float32, to others. */
  void addTo(HeadRows to) {
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        if (to.half) {
          Simd.addToHalf(at(token, head), to.at(token, head), length);
        } else {
          Simd.addTo(at(token, head), to.at(token, head), length);
        }
      }
    }
  }

  /** Clears {@code count} rows of each head behind the last token. */
  void clearBehind(int count) {
    FloatVector zero = FloatVector.zero(Simd.FLOATS);
    for (int token = tokens; token < tokens + count; token++) {
      for (int head = 0; head < heads; head++) {
        for (int i = 0; i < length; i += LANES) {
          store(zero, half, at(token, head), i);
        }
      }
    }
  }

  /** Finds the means and inverses of these rows and normalises them. */
  void normaliseTo(HeadRows y, Normal n) {
    run(MEASURE, y, n);
    run(NORMALISE, y, n);
  }

  /** The tangents of the normalised rows from those of these rows, which are overwritten. */
  void tangentsTo(HeadRows dx, HeadRows dy, Normal n) {
    run(SLOPES, dx, n);
    dx.run(MULTIPLY, dy, n);
  }

  /** From the cotangents of the normalised rows to those of these rows, in place. */
  void cotangents(HeadRows g, Normal n) {
    run(COTANGENT, g, n);
    run(SLOPES, g, n);
  }

  /** The means that layer norm takes; 0 for others. */
  private void findMeans(HeadRows y, Normal n) {
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        float mean = n.layer() ? Simd.sum(at(token, head), length) / n.d : 0;
        Simd.set(n.means + index(token, head), mean);
      }
    }
  }

  /** 1/√(mean((x − mean)²) + ε); 1 for no normalisation. */
  private void findInverses(HeadRows y, Normal n) {
    boolean none = n.norm.kind() == Norm.Kind.NONE;
    double epsilon = n.norm.epsilon();
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long x = at(token, head);
        float mean = Simd.get(n.means + index(token, head));
        FloatVector m = all(mean);
        FloatVector squares = FloatVector.zero(Simd.FLOATS);
        for (int i = 0; i < length; i += LANES) {
          FloatVector centred = load(x, i).sub(m);
          squares = centred.fma(centred, squares);
        }
        double beyond = (length - n.d) * (double) mean * mean; // from the zeros
        double square = (Simd.sum(squares) - beyond) / n.d;
        float inverse = none ? 1 : (float) (1 / Math.sqrt(square + epsilon));
        Simd.set(n.inverses + index(token, head), inverse);
      }
    }
  }

  private void normalise(HeadRows y, Normal n) {
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long x = at(token, head);
        long result = y.at(token, head);
        FloatVector m = all(Simd.get(n.means + index(token, head)));
        FloatVector inverse = all(Simd.get(n.inverses + index(token, head)));
        for (int i = 0; i < length; i += LANES) {
          FloatVector hat = load(x, i).sub(m).mul(inverse);
          store(hat.mul(load(n.gain, i)), y.half, result, i);
        }
      }
    }
  }

  private void multiply(HeadRows y, Normal n) {
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long x = at(token, head);
        long result = y.at(token, head);
        for (int i = 0; i < length; i += LANES) {
          store(load(x, i).mul(load(n.gain, i)), y.half, result, i);
        }
      }
    }
  }

  /** gainSum += x̂ ⊙ ȳ, and ȳ ⊙ gain in place of ȳ. */
  private void gainCotangents(HeadRows y, Normal n) {
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long x = at(token, head);
        long g = y.at(token, head);
        FloatVector m = all(Simd.get(n.means + index(token, head)));
        FloatVector inverse = all(Simd.get(n.inverses + index(token, head)));
        for (int i = 0; i < length; i += LANES) {
          FloatVector own = load(g, i);
          FloatVector hat = load(x, i).sub(m).mul(inverse);
          store(hat.fma(own, load(n.gainSum, i)), n.gainSum, i);
          store(own.mul(load(n.gain, i)), g, i);
        }
      }
    }
  }

  /** −inverse²·mean((x − mean) ⊙ y) of each row; 0 for no normalisation. */
  private void findAlongs(HeadRows y, Normal n) {
    float factor = n.norm.kind() == Norm.Kind.NONE ? 0 : -1f / n.d;
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long x = at(token, head);
        long d = y.at(token, head);
        FloatVector m = all(Simd.get(n.means + index(token, head)));
        FloatVector sum = FloatVector.zero(Simd.FLOATS);
        for (int i = 0; i < length; i += LANES) {
          sum = load(x, i).sub(m).fma(load(d, i), sum);
        }
        float inverse = Simd.get(n.inverses + index(token, head));
        float along = factor * inverse * inverse * Simd.sum(sum);
        Simd.set(n.alongs + index(token, head), along);
      }
    }
  }

  /** Takes its mean from each row y, for layer norm; along x̂, whose mean is 0, nothing changes. */
  private void subtractMeans(HeadRows y, Normal n) {
    if (!n.layer()) {
      return;
    }
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long d = y.at(token, head);
        FloatVector mean = all(Simd.sum(d, length) / n.d);
        for (int i = 0; i < length; i += LANES) {
          store(load(d, i).sub(mean), d, i);
        }
      }
    }
  }

  /**
   * The derivative of x̂ = (x − mean)·inverse applied to rows y, in place: inverse·(y − x̂·mean(x̂
   * ⊙ y)), for layer norm also minus mean(y).
   */
  private void slopes(HeadRows y, Normal n) {
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long x = at(token, head);
        long d = y.at(token, head);
        FloatVector m = all(Simd.get(n.means + index(token, head)));
        FloatVector inverse = all(Simd.get(n.inverses + index(token, head)));
        FloatVector along = all(Simd.get(n.alongs + index(token, head)));
        for (int i = 0; i < length; i += LANES) {
          store(load(x, i).sub(m).fma(along, load(d, i)).mul(inverse), d, i);
        }
      }
    }
  }
}
