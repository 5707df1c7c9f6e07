package org.meanflow.nn.engine.cuda;

import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.ModulationKernels;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.engine.cuda.CudaNorm.Rows;

/** Shift, scale and gate. A chunk of a modulation is a view from its first column on. */
final class CudaModulation implements ModulationKernels {
  private static final int ROWS_PER_BLOCK = 16;

  private final CudaEngine engine;
  private final CudaNorm norms;

  CudaModulation(CudaEngine engine, CudaNorm norms) {
    this.engine = engine;
    this.norms = norms;
  }

  private static CudaTensor chunk(Tensor modulation, int chunk, long width) {
    return (CudaTensor) modulation.view(chunk * width, modulation.size() - chunk * width);
  }

  private static @Nullable CudaTensor chunkOrNull(
      @Nullable Tensor modulation, int chunk, long width) {
    return modulation == null ? null : chunk(modulation, chunk, width);
  }

  private static @Nullable Cotangent chunkOf(
      @Nullable Cotangent modulation, int chunk, long width) {
    return modulation == null
        ? null
        : new Cotangent(chunk(modulation.target(), chunk, width), modulation.add());
  }

  @Override
  public Saved normModulate(
      Norm norm, Tensor x, Tensor modulation, int shift, int scale, Tensor y, boolean keep) {
    long width = x.dim(2);
    return norms.forward(
        Rows.modulated(norm, x, modulation.dim(1)),
        (CudaTensor) x,
        width,
        chunk(modulation, scale, width),
        chunk(modulation, shift, width),
        (CudaTensor) y,
        width,
        keep);
  }

  @Override
  public void normModulateTangent(
      Norm norm,
      Tensor x,
      Tensor modulation,
      int shift,
      int scale,
      Saved saved,
      @Nullable Tensor dx,
      @Nullable Tensor dModulation,
      Tensor dy) {
    long width = x.dim(2);
    norms.tangent(
        Rows.modulated(norm, x, modulation.dim(1)),
        (CudaTensor) x,
        width,
        chunk(modulation, scale, width),
        (CudaTensor) dx,
        chunkOrNull(dModulation, scale, width),
        chunkOrNull(dModulation, shift, width),
        (CudaTensor) dy,
        width);
  }

  @Override
  public void normModulateBackward(
      Norm norm,
      Tensor x,
      Tensor modulation,
      int shift,
      int scale,
      Saved saved,
      Tensor gy,
      @Nullable Cotangent gx,
      @Nullable Cotangent gModulation) {
    long width = x.dim(2);
    norms.backward(
        Rows.modulated(norm, x, modulation.dim(1)),
        (CudaTensor) x,
        width,
        chunk(modulation, scale, width),
        saved,
        (CudaTensor) gy,
        width,
        gx,
        width,
        chunkOf(gModulation, scale, width),
        chunkOf(gModulation, shift, width),
        modulation.dim(1));
  }

  @Override
  public void gatedResidual(Tensor x, Tensor y, Tensor modulation, int gate, Tensor out) {
    residual(
        (CudaTensor) x,
        (CudaTensor) y,
        modulation,
        gate,
        (CudaTensor) out,
        null,
        null,
        null,
        null,
        out);
  }

  @Override
  public void gatedResidualTangent(
      Tensor y,
      Tensor modulation,
      int gate,
      @Nullable Tensor dx,
      @Nullable Tensor dy,
      @Nullable Tensor dModulation,
      Tensor dOut) {
    residual(
        null,
        (CudaTensor) y,
        modulation,
        gate,
        null,
        (CudaTensor) dx,
        (CudaTensor) dy,
        dModulation,
        (CudaTensor) dOut,
        dOut);
  }

  private void residual(
      @Nullable CudaTensor x,
      CudaTensor y,
      Tensor modulation,
      int gate,
      @Nullable CudaTensor out,
      @Nullable CudaTensor dx,
      @Nullable CudaTensor dy,
      @Nullable Tensor dModulation,
      @Nullable CudaTensor dOut,
      Tensor result) {
    long width = result.dim(2);
    long n = result.size();
    engine
        .launch("modulation", "gated_residual")
        .in(x)
        .in(y)
        .in(chunk(modulation, gate, width))
        .out(out)
        .in(dx)
        .in(dy)
        .in(chunkOrNull(dModulation, gate, width))
        .out(dOut)
        .i32((int) width)
        .i64(result.dim(1) * width)
        .i64(modulation.dim(1))
        .i64(n)
        .i64(dOut == null ? 0 : n)
        .launchFlat(n);
  }

  @Override
  public void gatedResidualBackward(
      Tensor y,
      Tensor modulation,
      int gate,
      Tensor gOut,
      @Nullable Cotangent gx,
      @Nullable Cotangent gy,
      @Nullable Cotangent gModulation) {
    long samples = gOut.dim(0);
    long tokens = gOut.dim(1);
    long width = gOut.dim(2);
    long chunks = CudaStream.ceilDiv(tokens, ROWS_PER_BLOCK);
    try (CudaTensor partial = gModulation == null ? null : engine.floats(samples, chunks, width)) {
      engine
          .launch("modulation", "gated_residual_backward")
          .in((CudaTensor) y)
          .in(chunk(modulation, gate, width))
          .in((CudaTensor) gOut)
          .out(gx == null ? null : (CudaTensor) gx.target())
          .i32(gx != null && gx.add())
          .out(gy == null ? null : (CudaTensor) gy.target())
          .i32(gy != null && gy.add())
          .pointer(partial)
          .i32((int) width)
          .i64(tokens)
          .i64(modulation.dim(1))
          .i32(ROWS_PER_BLOCK)
          .launch(chunks, samples, 1, CudaNorm.columnBlock(width), 0);
      Cotangent gGate = chunkOf(gModulation, gate, width);
      if (gGate != null && partial != null) {
        norms.chunkSums(partial, gGate, width, modulation.dim(1));
      }
    }
  }
}
