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
   * @param slopeMeans work memory for a number of each row
   */
  record Normal(
      Norm norm, int d, long gain, long means, long inverses, long alongs, long slopeMeans) {
    boolean layer() {
      return norm.kind() == Norm.Kind.LAYER;
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

  /** Finds the means and inverses of these rows. */
  void measure(Normal n) {
    if (n.layer()) {
      means(n.d, n.means);
    } else {
      Simd.clear(n.means, Simd.padded(tokens * heads));
    }
    if (n.norm.kind() == Norm.Kind.NONE) {
      for (int row = 0; row < tokens * heads; row++) {
        Simd.set(n.inverses + (long) row * Float.BYTES, 1);
      }
    } else {
      inverses(n.d, n.norm.epsilon(), n.means, n.inverses);
    }
  }

  private void means(int d, long result) {
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        Simd.set(result + index(token, head), Simd.sum(at(token, head), length) / d);
      }
    }
  }

  /** 1/√(mean((x − mean)²) + ε). */
  private void inverses(int d, double epsilon, long means, long result) {
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long x = at(token, head);
        float mean = Simd.get(means + index(token, head));
        FloatVector m = all(mean);
        FloatVector squares = FloatVector.zero(Simd.FLOATS);
        for (int i = 0; i < length; i += LANES) {
          FloatVector centred = load(x, i).sub(m);
          squares = centred.fma(centred, squares);
        }
        double beyond = (length - d) * (double) mean * mean; // from the zeros
        double square = (Simd.sum(squares) - beyond) / d;
        Simd.set(result + index(token, head), (float) (1 / Math.sqrt(square + epsilon)));
      }
    }
  }

  /** Normalises the rows, once measured. */
  void normaliseTo(HeadRows to, Normal n) {
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long x = at(token, head);
        long y = to.at(token, head);
        FloatVector m = all(Simd.get(n.means + index(token, head)));
        FloatVector inverse = all(Simd.get(n.inverses + index(token, head)));
        for (int i = 0; i < length; i += LANES) {
          store(load(x, i).sub(m).mul(inverse).mul(load(n.gain, i)), to.half, y, i);
        }
      }
    }
  }

  /** The tangents of the normalised rows from those of these rows, which are overwritten. */
  void tangentsTo(HeadRows dx, HeadRows to, Normal n) {
    slopes(dx, n);
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long d = dx.at(token, head);
        long y = to.at(token, head);
        for (int i = 0; i < length; i += LANES) {
          store(load(d, i).mul(load(n.gain, i)), to.half, y, i);
        }
      }
    }
  }

  /**
   * From the cotangents of the normalised rows to those of these rows, in place.
   *
   * @param gainSum what the gain's cotangent is added to, whole vectors
   */
  void cotangents(HeadRows g, long gainSum, Normal n) {
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long x = at(token, head);
        long own = g.at(token, head);
        FloatVector m = all(Simd.get(n.means + index(token, head)));
        FloatVector inverse = all(Simd.get(n.inverses + index(token, head)));
        for (int i = 0; i < length; i += LANES) {
          FloatVector cotangent = load(own, i);
          FloatVector hat = load(x, i).sub(m).mul(inverse);
          store(hat.fma(cotangent, load(gainSum, i)), gainSum, i);
          store(cotangent.mul(load(n.gain, i)), own, i);
        }
      }
    }
    slopes(g, n);
  }

  /**
   * The derivative of x̂ = (x − mean)·inverse applied to rows d, in place: inverse·(d − x̂·mean(x̂ ⊙
   * d)), for layer norm also minus mean(d).
   */
  private void slopes(HeadRows d, Normal n) {
    if (n.norm.kind() == Norm.Kind.NONE) {
      return;
    }
    along(d, n.d, n.means, n.inverses, n.alongs);
    if (n.layer()) {
      d.means(n.d, n.slopeMeans);
      d.subtract(n.slopeMeans);
    }
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long x = at(token, head);
        long own = d.at(token, head);
        FloatVector m = all(Simd.get(n.means + index(token, head)));
        FloatVector inverse = all(Simd.get(n.inverses + index(token, head)));
        FloatVector along = all(Simd.get(n.alongs + index(token, head)));
        for (int i = 0; i < length; i += LANES) {
          store(load(x, i).sub(m).fma(along, load(own, i)).mul(inverse), own, i);
        }
      }
    }
  }

  /** Takes a number from each row. */
  private void subtract(long numbers) {
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long x = at(token, head);
        FloatVector number = all(Simd.get(numbers + index(token, head)));
        for (int i = 0; i < length; i += LANES) {
          store(load(x, i).sub(number), x, i);
        }
      }
    }
  }

  /** −inverse²·mean((x − mean) ⊙ d) of each row; the mean of x̂ is zero where one is taken. */
  private void along(HeadRows d, int elements, long means, long inverses, long result) {
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < heads; head++) {
        long x = at(token, head);
        long own = d.at(token, head);
        FloatVector m = all(Simd.get(means + index(token, head)));
        FloatVector sum = FloatVector.zero(Simd.FLOATS);
        for (int i = 0; i < length; i += LANES) {
          sum = load(x, i).sub(m).fma(load(own, i), sum);
        }
        float inverse = Simd.get(inverses + index(token, head));
        Simd.set(result + index(token, head), -inverse * inverse * Simd.sum(sum) / elements);
      }
    }
  }
}
