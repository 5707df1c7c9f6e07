package org.meanflow.nn.engine;

/** Order of the values of a patch within its token. */
public enum PatchOrder {
  /**
   * (channel, row, column): a convolution weight {@code [out, channels, patch, patch]} as a matrix.
   */
  CHANNEL_FIRST,
  /** (row, column, channel): the output head of DiT. */
  CHANNEL_LAST
}
