package org.meanflow.nn.engine.cpu;

import java.util.List;
import org.meanflow.nn.engine.cpu.PackedWeight.Panel;
import org.meanflow.nn.engine.cpu.Product.Layout;
import org.meanflow.nn.engine.cpu.Product.Spec;

/** Rows in tiles that stay in a core's cache, times the panels of a weight. */
final class TileProduct {
  /** Rows of a tile: fewer read the weight too often, more leave the second-level cache. */
  private static final long ROWS = 256;

  /** The same for wide rows of bfloat16. */
  private static final long WIDE_HALF_ROWS = 128;

  private static final long WIDE = 1024;

  /** There are at least so many tiles, to be shared out, unless they became too small. */
  private static final long TILES = 4;

  private static final long LEAST_ROWS = 64;
  private static final long MULTIPLE = 16;

  private final List<Panel> panels;
  private final long k;
  private final boolean halfResult;
  private final Product[] whole;
  private final Product[] rest;

  /**
   * A product of tiles.
   *
   * @param products compiles
   * @param panels of the weight
   * @param tiles the rows
   * @param k columns of the left-hand factor
   * @param n columns of the result
   * @param halfResult whether the result is bfloat16
   * @param bias whether a row is added to every row
   * @param add whether to add to the result
   */
  TileProduct(
      Products products,
      List<Panel> panels,
      Pieces tiles,
      long k,
      long n,
      boolean halfResult,
      boolean bias,
      boolean add) {
    this.panels = panels;
    this.k = k;
    this.halfResult = halfResult;
    whole = compile(products, tiles.size(false), n, bias, add);
    rest =
        tiles.size(true) == tiles.size()
            ? whole
            : compile(products, tiles.size(true), n, bias, add);
  }

  /**
   * Cuts rows into tiles.
   *
   * @param rows how many there are
   * @param widest the longer side of the weight
   * @param half whether factors are bfloat16
   */
  static Pieces tiles(long rows, long widest, boolean half) {
    long most = half && widest > WIDE ? WIDE_HALF_ROWS : ROWS;
    return Pieces.of(rows, Math.clamp(Math.ceilDiv(rows, TILES), LEAST_ROWS, most), MULTIPLE);
  }

  private Product[] compile(Products products, long rows, long n, boolean bias, boolean add) {
    Product[] compiled = new Product[panels.size()];
    for (int p = 0; p < compiled.length; p++) {
      Layout b = panels.get(p).layout();
      compiled[p] =
          products.product(
              new Spec(
                  rows,
                  k,
                  panels.get(p).columns(),
                  Layout.rows(b.half(), k),
                  b,
                  Layout.rows(halfResult, n),
                  bias,
                  add));
    }
    return compiled;
  }

  int panels() {
    return whole.length;
  }

  /** Whether factors are bfloat16. */
  boolean half() {
    return panels.getFirst().layout().half();
  }

  /**
   * The rows of a tile as a factor: where they are, or narrowed to bfloat16.
   *
   * @param x {@code [rows, k]}
   * @param first row of the tile
   * @param rows of the tile
   * @param scratch of the calling thread
   * @param slot for narrowed rows
   */
  long factor(CpuTensor x, long first, long rows, Scratch scratch, int slot) {
    long address = x.address(first * k);
    if (x.half() || !half()) {
      return address;
    }
    long narrow = scratch.bytes(slot, rows * k * Short.BYTES);
    Simd.narrow(address, narrow, Math.toIntExact(rows * k));
    return narrow;
  }

  /** Multiplies with all panels. */
  void run(Scratch scratch, boolean last, long a, long bias, long c) {
    for (int panel = 0; panel < whole.length; panel++) {
      run(scratch, last, panel, a, bias, c);
    }
  }

  /**
   * Multiplies with one panel.
   *
   * @param scratch of the calling thread
   * @param last whether the tile is the last
   * @param index of the panel
   * @param a address of the tile's first row, of the type of factors
   * @param bias address of the bias; 0 without one
   * @param c address of the result's first row of the tile
   */
  void run(Scratch scratch, boolean last, int index, long a, long bias, long c) {
    Panel panel = panels.get(index);
    (last ? rest : whole)
        [index].run(
            scratch,
            a,
            panel.address(),
            bias == 0 ? 0 : bias + panel.from() * Float.BYTES,
            c + panel.from() * (halfResult ? Short.BYTES : Float.BYTES));
  }
}
