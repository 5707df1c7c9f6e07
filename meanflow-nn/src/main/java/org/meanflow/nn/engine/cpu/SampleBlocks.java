package org.meanflow.nn.engine.cpu;

import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Tensor;

/**
 * The tokens of each sample in blocks, one for each item of work. Sums over the tokens of a sample
 * are taken block by block.
 */
record SampleBlocks(int samples, int tokens, int width) {
  /** Tokens of a block. */
  private static final int TOKENS = NormRows.BLOCK;

  static SampleBlocks of(Tensor x) {
    return new SampleBlocks((int) x.dim(0), (int) x.dim(1), (int) x.dim(2));
  }

  private int perSample() {
    return Math.ceilDiv(tokens, TOKENS);
  }

  int count() {
    return samples * perSample();
  }

  int sample(int item) {
    return item / perSample();
  }

  /** First row of a block, in tokens of the whole batch. */
  long first(int item) {
    return (long) sample(item) * tokens + (long) (item % perSample()) * TOKENS;
  }

  int rows(int item) {
    return (int) (last(item) - first(item));
  }

  /** Row after the last of a block. */
  long last(int item) {
    return Math.min(first(item) + TOKENS, (sample(item) + 1L) * tokens);
  }

  /** Most rows that are read or written at once: one, if rows have to be padded. */
  int atOnce() {
    return width % Simd.LANES == 0 ? NormRows.rowsAtOnce(width) : 1;
  }

  /** Chunk {@code index} of a sample's modulation, as a row. */
  long chunk(Tensor modulation, int sample, int index, Scratch scratch, int slot) {
    CpuTensor m = CpuTensor.of(modulation);
    return Simd.in(m, sample * m.dim(1) + (long) index * width, width, scratch, slot);
  }

  /** Copies chunk {@code index} of a sample's modulation, as a row. */
  void copyChunk(Tensor modulation, int sample, int index, long to) {
    CpuTensor m = CpuTensor.of(modulation);
    Simd.copyIn(m, sample * m.dim(1) + (long) index * width, width, to);
  }

  /**
   * Sums the blocks' sums of each sample into chunks of the modulation's cotangent.
   *
   * @param sums for each block one row for each of {@code chunks}, padded to whole vectors
   * @param slot of scratch memory
   */
  void addUp(Workers workers, CpuTensor sums, int[] chunks, Cotangent gModulation, int slot) {
    CpuTensor target = CpuTensor.of(gModulation.target());
    int padded = Simd.padded(width);
    long item = (long) chunks.length * padded;
    workers.run(
        samples,
        (sample, scratch) -> {
          long first = (long) sample * perSample();
          for (int part = 0; part < chunks.length; part++) {
            long total = sums.address(first * item + (long) part * padded);
            for (int block = 1; block < perSample(); block++) {
              Simd.addTo(
                  sums.address((first + block) * item + (long) part * padded), total, padded);
            }
            long start = sample * target.dim(1) + (long) chunks[part] * width;
            CpuNorm.writeRow(target, start, width, total, gModulation.add(), scratch, slot);
          }
        });
  }
}
