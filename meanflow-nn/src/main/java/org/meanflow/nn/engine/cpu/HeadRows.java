package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.all;
import static org.meanflow.nn.engine.cpu.Simd.get;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.set;
import static org.meanflow.nn.engine.cpu.Simd.store;
import static org.meanflow.nn.engine.cpu.Simd.storeResult;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;
import org.meanflow.nn.engine.Norm;

/**
 * Where the rows of some heads lie, one for each token and head, and the normalisation of q and k
 * on the way from one place to another. Rows are whole vectors long.
 *
 * @param address of the first token's row of the first head
 * @param rowBytes between tokens
 * @param headBytes between heads
 * @param half whether the elements are bfloat16
 * @param tokens their number
 * @param heads their number
 * @param length elements of a row
 */
record HeadRows(
    long address, long rowBytes, long headBytes, boolean half, int tokens, int heads, int length) {

  /** Tokens that are worked on while they are in the first-level cache; whole vectors. */
  private static final int BLOCK = 32;

  /**
   * How rows are normalised: y = (x − mean)·inverse ⊙ after. Numbers of rows lie head by head.
   *
   * @param d elements of a row
   * @param before what a row y is multiplied with before the derivative of (x − mean)·inverse
   * @param after what it is multiplied with afterwards
   * @param means of the rows x
   * @param inverses of the rows x
   * @param yMeans work memory for a number of each row
   * @param alongs work memory for a number of each row
   * @param step numbers from head to head
   * @param gainSum what the gain's cotangent is added to
   */
  record Normal(
      Norm norm,
      int d,
      long before,
      long after,
      long means,
      long inverses,
      long yMeans,
      long alongs,
      int step,
      long gainSum) {

    /** For cotangents: first the gain, then the derivative of the rest. */
    Normal transposed() {
      return new Normal(norm, d, after, before, means, inverses, yMeans, alongs, step, gainSum);
    }

    private long at(long numbers, int head, int token) {
      return numbers + ((long) head * step + token) * Float.BYTES;
    }

    private boolean layer() {
      return norm.kind() == Norm.Kind.LAYER;
    }

    private boolean none() {
      return norm.kind() == Norm.Kind.NONE;
    }
  }

  /**
   * A loop over {@code count} tokens of a head, a few vector operations in a method of its own:
   * more the compiler does not take in before it puts vectors on the heap. For the same reason they
   * are called where it sees many of them, so that it does not inline them into one. Columns are
   * the outer loop where no sum is taken: an inner loop of two or four turns costs more than its
   * turns.
   */
  @FunctionalInterface
  private interface Pass {
    void over(HeadRows x, HeadRows y, HeadRows z, Normal n, int head, int first, int count);
  }

  private static final Normal NO_NORMAL = new Normal(Norm.none(), 0, 0, 0, 0, 0, 0, 0, 0, 0);

  private static final Pass[] CLEAR = {HeadRows::clear};
  private static final Pass[] COPY = {HeadRows::copy};
  private static final Pass[] ADD = {HeadRows::add};
  private static final Pass[] SCALE = {HeadRows::scale};
  private static final Pass[] NORMALISE = {
    HeadRows::findMeans, HeadRows::findSquares, HeadRows::findInverses, HeadRows::normalise
  };
  private static final Pass[] SLOPES = {
    HeadRows::findYMeans, HeadRows::findAlongs, HeadRows::slopes
  };
  private static final Pass[] GAIN = {HeadRows::gainCotangent};

  private void run(Pass[] passes, HeadRows y, HeadRows z, Normal n) {
    for (int first = 0; first < tokens; first += BLOCK) {
      for (int head = 0; head < heads; head++) {
        for (Pass pass : passes) {
          pass.over(this, y, z, n, head, first, Math.min(BLOCK, tokens - first));
        }
      }
    }
  }

  long at(int token, int head) {
    return address + token * rowBytes + head * headBytes;
  }

  /** Copies the rows. */
  void copyTo(HeadRows to) {
    run(COPY, this, to, NO_NORMAL);
  }

  /** Adds the rows, float32, to others. */
  void addTo(HeadRows to) {
    run(ADD, this, to, NO_NORMAL);
  }

  /**
   * Multiplies the rows, float32, with a number each.
   *
   * @param factors of the first head's rows
   * @param step numbers from head to head
   */
  void scaleTo(HeadRows to, long factors, int step) {
    run(SCALE, this, to, new Normal(Norm.none(), length, 0, 0, 0, factors, 0, 0, step, 0));
  }

  /** Finds the means and inverses of these rows and normalises them. */
  void normaliseTo(HeadRows to, Normal n) {
    run(NORMALISE, this, to, n);
  }

  /** The tangents of the normalised rows from those of these rows. */
  void tangentsTo(HeadRows dx, HeadRows to, Normal n) {
    run(SLOPES, dx, to, n);
  }

  /**
   * The cotangents of these rows from those of the normalised rows, which are float32; adds to the
   * gain's.
   */
  void cotangentsTo(HeadRows g, HeadRows to, Normal n) {
    run(GAIN, g, g, n);
    run(SLOPES, g, to, n.transposed());
  }

  /** Clears the rows of each head behind the last token, up to {@code count} rows. */
  void clearBehind(int count) {
    HeadRows behind =
        new HeadRows(at(tokens, 0), rowBytes, headBytes, half, count - tokens, heads, length);
    behind.run(CLEAR, behind, behind, NO_NORMAL);
  }

  private void clear(HeadRows y, HeadRows z, Normal n, int head, int first, int count) {
    FloatVector zero = FloatVector.zero(Simd.FLOATS);
    long row = at(first, head);
    for (int i = 0; i < length; i += LANES) {
      for (int token = 0; token < count; token++) {
        storeResult(zero, row + token * rowBytes, i, half);
      }
    }
  }

  private void copy(HeadRows y, HeadRows z, Normal n, int head, int first, int count) {
    long from = at(first, head);
    long to = z.at(first, head);
    for (int i = 0; i < length; i += LANES) {
      for (int token = 0; token < count; token++) {
        storeResult(load(from + token * rowBytes, i, half), to + token * z.rowBytes, i, z.half);
      }
    }
  }

  private void add(HeadRows y, HeadRows z, Normal n, int head, int first, int count) {
    long from = at(first, head);
    long to = z.at(first, head);
    for (int i = 0; i < length; i += LANES) {
      for (int token = 0; token < count; token++) {
        long sum = to + token * z.rowBytes;
        storeResult(load(sum, i, z.half).add(load(from + token * rowBytes, i)), sum, i, z.half);
      }
    }
  }

  private void scale(HeadRows y, HeadRows z, Normal n, int head, int first, int count) {
    long from = at(first, head);
    long to = z.at(first, head);
    long factors = n.at(n.inverses, head, first);
    for (int i = 0; i < length; i += LANES) {
      for (int token = 0; token < count; token++) {
        FloatVector scaled = load(from + token * rowBytes, i).mul(all(get(factors, token)));
        storeResult(scaled, to + token * z.rowBytes, i, z.half);
      }
    }
  }

  /** The means that layer norm takes; 0 for others. */
  private void findMeans(HeadRows y, HeadRows z, Normal n, int head, int first, int count) {
    findMeans(n, head, first, count, n.means);
  }

  /** The means of y ⊙ before, for layer norm; 0 for others. */
  private void findYMeans(HeadRows y, HeadRows z, Normal n, int head, int first, int count) {
    y.findMeans(n, head, first, count, n.yMeans);
  }

  private void findMeans(Normal n, int head, int first, int count, long numbers) {
    long means = n.at(numbers, head, first);
    if (!n.layer()) {
      Simd.clear(means, Simd.padded(count));
      return;
    }
    long row = at(first, head);
    for (int token = 0; token < count; token++) {
      FloatVector sum = FloatVector.zero(Simd.FLOATS);
      for (int i = 0; i < length; i += LANES) {
        sum = load(row + token * rowBytes, i, half).fma(load(n.before, i), sum);
      }
      set(means, token, Simd.sum(sum) / n.d);
    }
  }

  /** Σ (x − mean)² of each row, in the place of its inverse. */
  private void findSquares(HeadRows y, HeadRows z, Normal n, int head, int first, int count) {
    long row = at(first, head);
    long means = n.at(n.means, head, first);
    long squares = n.at(n.inverses, head, first);
    if (length == 2 * LANES) {
      // The inner loop's turns, written out: it took twice as long.
      for (int token = 0; token < count; token++) {
        FloatVector mean = all(get(means, token));
        FloatVector low = load(row + token * rowBytes, 0, half).sub(mean);
        FloatVector high = load(row + token * rowBytes, LANES, half).sub(mean);
        set(squares, token, Simd.sum(low.fma(low, high.mul(high))));
      }
      return;
    }
    for (int token = 0; token < count; token++) {
      FloatVector mean = all(get(means, token));
      FloatVector sum = FloatVector.zero(Simd.FLOATS);
      for (int i = 0; i < length; i += LANES) {
        FloatVector centred = load(row + token * rowBytes, i, half).sub(mean);
        sum = centred.fma(centred, sum);
      }
      set(squares, token, Simd.sum(sum));
    }
  }

  /** 1/√(mean((x − mean)²) + ε); 1 for no normalisation. */
  private void findInverses(HeadRows y, HeadRows z, Normal n, int head, int first, int count) {
    long means = n.at(n.means, head, first);
    long inverses = n.at(n.inverses, head, first);
    FloatVector beyond = all(n.d - length); // times mean², from the zeros behind a row's end
    FloatVector epsilon = all((float) n.norm.epsilon());
    for (int token = 0; token < count; token += LANES) {
      FloatVector mean = load(means, token);
      FloatVector square = mean.mul(mean).fma(beyond, load(inverses, token)).div(n.d);
      FloatVector root = square.add(epsilon).lanewise(VectorOperators.SQRT);
      store(n.none() ? Simd.ONE : Simd.ONE.div(root), inverses, token);
    }
  }

  private void normalise(HeadRows y, HeadRows z, Normal n, int head, int first, int count) {
    long from = at(first, head);
    long to = z.at(first, head);
    long means = n.at(n.means, head, first);
    long inverses = n.at(n.inverses, head, first);
    for (int i = 0; i < length; i += LANES) {
      FloatVector gain = load(n.after, i);
      for (int token = 0; token < count; token++) {
        FloatVector centred = load(from + token * rowBytes, i, half).sub(all(get(means, token)));
        FloatVector hat = centred.mul(all(get(inverses, token)));
        storeResult(hat.mul(gain), to + token * z.rowBytes, i, z.half);
      }
    }
  }

  /** −inverse²·mean((x − mean) ⊙ y ⊙ before) of each row; 0 for no normalisation. */
  private void findAlongs(HeadRows y, HeadRows z, Normal n, int head, int first, int count) {
    float factor = n.none() ? 0 : -1f / n.d;
    long row = at(first, head);
    long other = y.at(first, head);
    long means = n.at(n.means, head, first);
    long inverses = n.at(n.inverses, head, first);
    long alongs = n.at(n.alongs, head, first);
    for (int token = 0; token < count; token++) {
      FloatVector mean = all(get(means, token));
      FloatVector sum = FloatVector.zero(Simd.FLOATS);
      for (int i = 0; i < length; i += LANES) {
        FloatVector centred = load(row + token * rowBytes, i, half).sub(mean);
        FloatVector own = load(other + token * y.rowBytes, i, y.half).mul(load(n.before, i));
        sum = centred.fma(own, sum);
      }
      float inverse = get(inverses, token);
      set(alongs, token, factor * inverse * inverse * Simd.sum(sum));
    }
  }

  /**
   * The derivative of x̂ = (x − mean)·inverse applied to rows y ⊙ before, times after: inverse·(y −
   * x̂·mean(x̂ ⊙ y)), for layer norm also minus mean(y), along which x̂, whose mean is 0, has no
   * part.
   */
  private void slopes(HeadRows y, HeadRows z, Normal n, int head, int first, int count) {
    long row = at(first, head);
    long other = y.at(first, head);
    long to = z.at(first, head);
    long means = n.at(n.means, head, first);
    long inverses = n.at(n.inverses, head, first);
    long yMeans = n.at(n.yMeans, head, first);
    long alongs = n.at(n.alongs, head, first);
    for (int i = 0; i < length; i += LANES) {
      FloatVector before = load(n.before, i);
      FloatVector after = load(n.after, i);
      for (int token = 0; token < count; token++) {
        FloatVector centred = load(row + token * rowBytes, i, half).sub(all(get(means, token)));
        FloatVector own = load(other + token * y.rowBytes, i, y.half).mul(before);
        FloatVector across = centred.fma(all(get(alongs, token)), own.sub(all(get(yMeans, token))));
        FloatVector slope = across.mul(all(get(inverses, token))).mul(after);
        storeResult(slope, to + token * z.rowBytes, i, z.half);
      }
    }
  }

  /** gainSum += x̂ ⊙ ȳ. */
  private void gainCotangent(HeadRows y, HeadRows z, Normal n, int head, int first, int count) {
    long row = at(first, head);
    long other = y.at(first, head);
    long means = n.at(n.means, head, first);
    long inverses = n.at(n.inverses, head, first);
    for (int i = 0; i < length; i += LANES) {
      FloatVector sum = load(n.gainSum, i);
      for (int token = 0; token < count; token++) {
        FloatVector centred = load(row + token * rowBytes, i, half).sub(all(get(means, token)));
        FloatVector hat = centred.mul(all(get(inverses, token)));
        sum = hat.fma(load(other + token * y.rowBytes, i), sum);
      }
      store(sum, n.gainSum, i);
    }
  }
}
