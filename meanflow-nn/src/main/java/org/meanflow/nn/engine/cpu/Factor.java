package org.meanflow.nn.engine.cpu;

/** The numbers that products take. */
enum Factor {
  /** float32. */
  FLOAT(1, 1, false),

  /** bfloat16. */
  HALF(1, 1, true),

  /**
   * float32 as a sum of three bfloat16 numbers, x = x₁ + x₂ + x₃, of 8 bits each and so without
   * error. Of the nine products in x·y six are added up in float32, the smallest first: those with
   * x₂y₃, x₃y₂ and x₃y₃, each below 2⁻²⁴|x·y|, are left out. On processors with AMX the error is
   * smaller than with {@link #FLOAT}, and the result is there sooner (Henry, Tang and Heinecke,
   * arXiv 1904.06376). An infinite number makes it NaN.
   */
  SPLIT(3, 1, true),

  /**
   * As {@link #SPLIT}, and the six products are one: a row on the left is x₃ x₂ x₁ x₂ x₁ x₁, each
   * for all its numbers, a column on the right y₁ y₂ y₃ y₁ y₂ y₁. It takes twice the memory, but
   * the result is written once instead of six times, which short rows gain by.
   */
  JOINED(1, 6, true);

  /** Numbers in matrices of their own that stand for one. */
  final int parts;

  /** Numbers within a row or column that stand for one. */
  final int side;

  /** Whether they are bfloat16. */
  final boolean half;

  Factor(int parts, int side, boolean half) {
    this.parts = parts;
    this.side = side;
    this.half = half;
  }

  /** Whether several bfloat16 numbers stand for one of float32. */
  boolean isSplit() {
    return parts * side > 1;
  }

  /** Of a number. */
  int bytes() {
    return half ? Short.BYTES : Float.BYTES;
  }
}
