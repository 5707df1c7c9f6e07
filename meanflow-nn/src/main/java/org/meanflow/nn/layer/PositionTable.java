package org.meanflow.nn.layer;

/** The positional embedding of image tokens. */
public enum PositionTable {
  /** A parameter {@code pos_embed}, initialised with the sinusoids. */
  LEARNED,
  /** The sinusoids, fixed. */
  FIXED;

  /**
   * Two-dimensional sinusoids, {@code [rows·columns, width]}, row-major: the first half of the
   * channels encodes the column, the second the row, each half as [sin(p w_j), cos(p w_j)] with w_j
   * = 10000^(−j/(width/4)).
   *
   * @param rows rows of patches
   * @param columns columns of patches
   * @param width channels of a token, a multiple of 4
   * @return the table, row-major
   * @throws IllegalArgumentException if {@code width} is not a multiple of 4
   */
  public static double[] sinusoids(int rows, int columns, int width) {
    if (width < 4 || width % 4 != 0) {
      throw new IllegalArgumentException(
          "width must be a multiple of 4 for a positional table, got " + width);
    }
    int quarter = width / 4;
    double[] table = new double[rows * columns * width];
    for (int row = 0; row < rows; row++) {
      for (int column = 0; column < columns; column++) {
        int start = (row * columns + column) * width;
        for (int j = 0; j < quarter; j++) {
          double frequency = Math.pow(10_000, -(double) j / quarter);
          table[start + j] = Math.sin(column * frequency);
          table[start + quarter + j] = Math.cos(column * frequency);
          table[start + 2 * quarter + j] = Math.sin(row * frequency);
          table[start + 3 * quarter + j] = Math.cos(row * frequency);
        }
      }
    }
    return table;
  }
}
