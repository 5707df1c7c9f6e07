package org.meanflow.nn.engine.cpu;

/** The numbers that products take. */
enum Factor {
  /** float32. */
  FLOAT(1, false),

  /** bfloat16. */
  HALF(1, true),

  /**
   * float32 as a sum of three bfloat16 numbers, x = x₁ + x₂ + x₃, of 8 bits each and so without
   * error. Of the nine products in x·y six are added up in float32, the smallest first: those with
   * x₂y₃, x₃y₂ and x₃y₃, each below 2⁻²⁴|x·y|, are left out. The error is smaller than with {@link
   * #FLOAT}, and on processors with AMX the result is there sooner (Henry, Tang and Heinecke, arXiv
   * 1904.06376). An infinite number makes it NaN.
   */
  SPLIT(3, true);

  /** Numbers that stand for one. */
  final int parts;

  /** Whether they are bfloat16. */
  final boolean half;

  Factor(int parts, boolean half) {
    this.parts = parts;
    this.half = half;
  }

  /** Of a number. */
  int bytes() {
    return half ? Short.BYTES : Float.BYTES;
  }
}
