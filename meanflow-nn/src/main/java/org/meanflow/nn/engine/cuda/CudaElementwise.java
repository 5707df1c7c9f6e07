package org.meanflow.nn.engine.cuda;

import org.meanflow.nn.engine.ElementwiseKernels;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;

/** Elementwise maps, softmax and sums; nothing needs to be remembered for a slope. */
final class CudaElementwise implements ElementwiseKernels {
  private static final int COLUMNS_PER_BLOCK = 128;

  private final CudaEngine engine;

  CudaElementwise(CudaEngine engine) {
    this.engine = engine;
  }

  private CudaStream launch(String kernel) {
    return engine.launch("elementwise", kernel);
  }

  private static CudaTensor t(Tensor tensor) {
    return (CudaTensor) tensor;
  }

  @Override
  public void fill(Tensor x, double value) {
    launch("fill").out(t(x)).f32(value).i64(x.size()).launchFlat(x.size());
  }

  @Override
  public void copy(Tensor x, Tensor y) {
    scale(1, x, y, false);
  }

  @Override
  public void combine(double alpha, Tensor x, double beta, Tensor y, Tensor z) {
    long n = z.size();
    launch("combine").f32(alpha).in(t(x)).f32(beta).in(t(y)).out(t(z)).i64(n).launchFlat(n);
  }

  @Override
  public void scale(double alpha, Tensor x, Tensor y, boolean add) {
    long n = y.size();
    launch("scale").f32(alpha).in(t(x)).out(t(y)).i32(add).i64(n).launchFlat(n);
  }

  @Override
  public void multiply(Tensor x, Tensor y, Tensor z, boolean add) {
    long n = z.size();
    launch("multiply").in(t(x)).in(t(y)).out(t(z)).i32(add).i64(n).launchFlat(n);
  }

  @Override
  public Saved gelu(Tensor x, Tensor y, boolean keep) {
    return map("gelu", x, y);
  }

  @Override
  public void geluSlope(Tensor x, Saved saved, Tensor d, Tensor y, boolean add) {
    slope("gelu_slope", x, d, y, add);
  }

  @Override
  public Saved silu(Tensor x, Tensor y, boolean keep) {
    return map("silu", x, y);
  }

  @Override
  public void siluSlope(Tensor x, Saved saved, Tensor d, Tensor y, boolean add) {
    slope("silu_slope", x, d, y, add);
  }

  private Saved map(String kernel, Tensor x, Tensor y) {
    long n = y.size();
    launch(kernel).in(t(x)).out(t(y)).in(null).in(null).i64(n).i64(0).launchFlat(n);
    return Saved.NOTHING;
  }

  private void slope(String kernel, Tensor x, Tensor d, Tensor y, boolean add) {
    long n = y.size();
    launch(kernel).in(t(x)).in(t(d)).out(t(y)).i32(add).i64(n).launchFlat(n);
  }

  @Override
  public void softmax(Tensor x, Tensor y) {
    int width = Math.toIntExact(x.dim(-1));
    long rows = x.size() / width;
    launch("softmax").in(t(x)).out(t(y)).i64(rows).i32(width).launchRows(rows);
  }

  @Override
  public void softmaxSlope(Tensor y, Tensor d, Tensor z, boolean add) {
    int width = Math.toIntExact(y.dim(-1));
    long rows = z.size() / width;
    launch("softmax_slope")
        .in(t(y))
        .in(t(d))
        .out(t(z))
        .i32(add)
        .i64(rows)
        .i32(width)
        .launchRows(rows);
  }

  @Override
  public void addTable(Tensor x, Tensor table, Tensor y) {
    long n = y.size();
    launch("add_table").in(t(x)).in(t(table)).out(t(y)).i64(n).i64(table.size()).launchFlat(n);
  }

  @Override
  public void sumOverBatch(Tensor x, Tensor y, boolean add) {
    columnSums(x, y, x.dim(0), y.size(), add);
  }

  /** y (+)= the sum of the rows of x, {@code [rows, columns]}; always in the same order. */
  void columnSums(Tensor x, Tensor y, long rows, long columns, boolean add) {
    long rowsPerChunk = Math.max(64, CudaStream.ceilDiv(rows, 64));
    long chunks = CudaStream.ceilDiv(rows, rowsPerChunk);
    if (chunks <= 1) {
      columnSums(t(x), t(y), add, rows, columns, rowsPerChunk, 1);
      return;
    }
    try (CudaTensor partial = engine.floats(chunks, columns)) {
      columnSums(t(x), partial, false, rows, columns, rowsPerChunk, chunks);
      columnSums(partial, t(y), add, chunks, columns, chunks, 1);
    }
  }

  private void columnSums(
      CudaTensor x,
      CudaTensor y,
      boolean add,
      long rows,
      long columns,
      long rowsPerChunk,
      long chunks) {
    launch("column_sums")
        .in(x)
        .out(y)
        .i32(add)
        .i64(rows)
        .i64(columns)
        .i64(rowsPerChunk)
        .launch(CudaStream.ceilDiv(columns, COLUMNS_PER_BLOCK), chunks, 1, 256, 0);
  }
}
