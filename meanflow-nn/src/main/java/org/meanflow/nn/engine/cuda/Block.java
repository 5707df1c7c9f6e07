package org.meanflow.nn.engine.cuda;

import org.jspecify.annotations.Nullable;

/** A piece of device memory. */
final class Block {
  final long address;
  final long bytes;

  /** Changes with every write, so that copies in another type know when they are out of date. */
  long version;

  /** A copy of all elements in bfloat16, for products. */
  @Nullable Block compact;

  /** The version that {@link #compact} is a copy of. */
  long compactVersion;

  Block(long address, long bytes) {
    this.address = address;
    this.bytes = bytes;
  }
}
