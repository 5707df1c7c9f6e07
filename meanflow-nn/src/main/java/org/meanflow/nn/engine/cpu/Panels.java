package org.meanflow.nn.engine.cpu;

import java.util.List;
import org.meanflow.nn.engine.cpu.Product.Layout;

/**
 * The right-hand matrix of products, {@code [k, n]}, in panels of columns, and each panel in chunks
 * of rows: what a chunk is multiplied with stays in a core's cache.
 *
 * @param factor the numbers
 * @param chunks the rows
 * @param columns the panels
 * @param all the chunks of the first panel, then those of the second, and so on
 */
record Panels(Factor factor, Pieces chunks, Pieces columns, List<Chunk> all) {

  /**
   * Rows of a panel.
   *
   * @param address of the numbers
   * @param layout how they lie there
   * @param part bytes between two parts of a split number
   */
  record Chunk(long address, Layout layout, long part) {}

  Chunk chunk(int panel, int chunk) {
    return all.get(panel * chunks.count() + chunk);
  }

  int count() {
    return columns.count();
  }
}
