package org.meanflow.nn.engine.cuda;

import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.NormKernels;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;

/**
 * RMS norm and layer norm, plain, modulated, and of the heads of q and k: one set of kernels for y
 * = x̂ ⊙ (unit + scale) + shift.
 */
final class CudaNorm implements NormKernels {
  private final CudaEngine engine;

  CudaNorm(CudaEngine engine) {
    this.engine = engine;
  }

  /**
   * Which elements of a tensor are rows, and what multiplies them.
   *
   * @param norm the normalisation
   * @param width length of a row
   * @param inner rows that lie side by side
   * @param rows number of rows
   * @param rowsPerSample rows that share a scale and a shift
   * @param modStride elements between the scales of two samples
   * @param unit 1 where the scale counts from 1, 0 for a gain
   */
  record Rows(
      Norm norm, long width, long inner, long rows, long rowsPerSample, long modStride, int unit) {

    /** All rows of {@code x}, with a gain or without. */
    static Rows plain(Norm norm, Tensor x, @Nullable Tensor gain) {
      long width = x.dim(-1);
      long rows = x.size() / width;
      return new Rows(norm, width, 1, rows, rows, 0, gain == null ? 1 : 0);
    }

    /** The heads of q or k within wider rows, with a gain or without. */
    static Rows heads(Norm norm, Tensor x, int heads, long d, @Nullable Tensor gain) {
      long rows = x.dim(0) * x.dim(1) * heads;
      return new Rows(norm, d, heads, rows, rows, 0, gain == null ? 1 : 0);
    }

    /** The tokens of {@code x}, modulated by sample. */
    static Rows modulated(Norm norm, Tensor x, long modStride) {
      return new Rows(norm, x.dim(2), 1, x.dim(0) * x.dim(1), x.dim(1), modStride, 1);
    }

    int kind() {
      return switch (norm.kind()) {
        case NONE -> 0;
        case RMS -> 1;
        case LAYER -> 2;
      };
    }
  }

  /** Mean and 1/σ of each row. */
  record Statistics(CudaTensor values) implements Saved {
    @Override
    public void close() {
      values.close();
    }
  }

  /** Values; remembers the statistics if asked to. */
  Saved forward(
      Rows rows,
      CudaTensor x,
      long xStride,
      @Nullable CudaTensor scale,
      @Nullable CudaTensor shift,
      CudaTensor y,
      long yStride,
      boolean keep) {
    CudaTensor statistics = keep ? engine.floats(rows.rows, 2) : null;
    start("norm_forward", rows)
        .i64(xStride)
        .i64(yStride)
        .i64(rows.rowsPerSample)
        .i64(rows.modStride)
        .in(x)
        .in(scale)
        .in(shift)
        .out(y)
        .pointer(statistics)
        .in(null)
        .in(null)
        .in(null)
        .in(null)
        .i64(rows.rows)
        .i64(0)
        .launchRows(rows.rows);
    return statistics == null ? Saved.NOTHING : new Statistics(statistics);
  }

  /** The tangent of all these rows. */
  void tangent(
      Rows rows,
      CudaTensor x,
      long xStride,
      @Nullable CudaTensor scale,
      @Nullable CudaTensor dx,
      @Nullable CudaTensor dScale,
      @Nullable CudaTensor dShift,
      CudaTensor dy,
      long yStride) {
    start("norm_forward", rows)
        .i64(xStride)
        .i64(yStride)
        .i64(rows.rowsPerSample)
        .i64(rows.modStride)
        .in(x)
        .in(scale)
        .in(null)
        .in(null)
        .pointer(null)
        .in(dx)
        .in(dScale)
        .in(dShift)
        .out(dy)
        .i64(rows.rows)
        .i64(rows.rows)
        .launchRows(rows.rows);
  }

  private CudaStream start(String kernel, Rows rows) {
    return engine
        .launch("norm", kernel)
        .i32(rows.kind())
        .f32(rows.norm.epsilon())
        .f32(rows.unit)
        .i32((int) rows.width)
        .i32((int) rows.inner);
  }

  /**
   * Cotangents.
   *
   * @param gScale {@code [samples, ...]} from the scale's first element on, or null
   * @param gShift as {@code gScale}
   * @param scaleStride elements between the samples of these
   */
  void backward(
      Rows rows,
      CudaTensor x,
      long xStride,
      @Nullable CudaTensor scale,
      Saved saved,
      CudaTensor gy,
      long gyStride,
      @Nullable Cotangent gx,
      long gxStride,
      @Nullable Cotangent gScale,
      @Nullable Cotangent gShift,
      long scaleStride) {
    long samples = rows.rows / rows.rowsPerSample;
    long rowsPerBlock = Math.max(16, CudaStream.ceilDiv(rows.rowsPerSample, 1024));
    long chunks = CudaStream.ceilDiv(rows.rowsPerSample, rowsPerBlock);
    try (CudaTensor partialScale =
            gScale == null ? null : engine.floats(samples, chunks, rows.width);
        CudaTensor partialShift =
            gShift == null ? null : engine.floats(samples, chunks, rows.width)) {
      engine
          .launch("norm", "norm_backward")
          .i32(rows.kind())
          .f32(rows.unit)
          .i32((int) rows.width)
          .i32((int) rows.inner)
          .i64(xStride)
          .i64(gyStride)
          .i64(gxStride)
          .i64(rows.rowsPerSample)
          .i64(rows.modStride)
          .in(x)
          .in(scale)
          .pointer(((Statistics) saved).values)
          .in(gy)
          .out(gx == null ? null : (CudaTensor) gx.target())
          .i32(gx != null && gx.add())
          .pointer(partialScale)
          .pointer(partialShift)
          .i32((int) rowsPerBlock)
          .launch(chunks, samples, 1, columnBlock(rows.width), 0);
      if (gScale != null && partialScale != null) {
        chunkSums(partialScale, gScale, rows.width, scaleStride);
      }
      if (gShift != null && partialShift != null) {
        chunkSums(partialShift, gShift, rows.width, scaleStride);
      }
    }
  }

  /**
   * Threads of a block that shares out columns, four to a thread: no more of them idle than must.
   */
  static int columnBlock(long width) {
    long threads = width % 4 == 0 ? width / 4 : width;
    return threads <= 128 ? 256 : (int) Math.min(512, CudaStream.ceilDiv(threads, 32) * 32);
  }

  /** The sums of {@code partial}, {@code [samples, chunks, width]}, over its chunks. */
  void chunkSums(CudaTensor partial, Cotangent target, long width, long stride) {
    engine
        .launch("elementwise", "chunk_sums")
        .pointer(partial)
        .out((CudaTensor) target.target())
        .i32(target.add())
        .i32((int) width)
        .i64(stride)
        .i32((int) partial.dim(1))
        .launch(CudaStream.ceilDiv(width, 128), partial.dim(0), 1, 128, 0);
  }

  @Override
  public Saved norm(Norm norm, Tensor x, @Nullable Tensor gain, Tensor y, boolean keep) {
    Rows rows = Rows.plain(norm, x, gain);
    return forward(
        rows,
        (CudaTensor) x,
        rows.width,
        (CudaTensor) gain,
        null,
        (CudaTensor) y,
        rows.width,
        keep);
  }

  @Override
  public void normTangent(
      Norm norm, Tensor x, @Nullable Tensor gain, Saved saved, Tensor dx, Tensor dy) {
    Rows rows = Rows.plain(norm, x, gain);
    tangent(
        rows,
        (CudaTensor) x,
        rows.width,
        (CudaTensor) gain,
        (CudaTensor) dx,
        null,
        null,
        (CudaTensor) dy,
        rows.width);
  }

  @Override
  public void normBackward(
      Norm norm,
      Tensor x,
      @Nullable Tensor gain,
      Saved saved,
      Tensor gy,
      @Nullable Cotangent gx,
      @Nullable Cotangent gGain) {
    Rows rows = Rows.plain(norm, x, gain);
    backward(
        rows,
        (CudaTensor) x,
        rows.width,
        (CudaTensor) gain,
        saved,
        (CudaTensor) gy,
        rows.width,
        gx,
        rows.width,
        gGain,
        null,
        0);
  }
}
