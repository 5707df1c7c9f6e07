package org.meanflow.nn.engine.cpu;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.meanflow.nn.engine.cpu.PackedWeight.Panel;
import org.meanflow.nn.engine.cpu.PackedWeight.Use;
import org.meanflow.nn.engine.cpu.Product.Layout;
import org.meanflow.nn.engine.cpu.Product.Spec;

/** Compiled products and packed weights of one engine. */
final class Products {
  private static final long PLAIN_PANEL = 256;

  private final Memory memory;
  private final Workers workers;
  private final boolean half;
  private final Map<Spec, Product> compiled = new HashMap<>();

  /**
   * @param half whether factors are bfloat16
   */
  Products(Memory memory, Workers workers, boolean half) {
    this.memory = memory;
    this.workers = workers;
    this.half = half;
  }

  /** {@return whether factors of products are bfloat16} */
  boolean half() {
    return half;
  }

  /** The product of these shapes and layouts. Not to be called by several threads at once. */
  Product product(Spec spec) {
    Product known = compiled.get(spec);
    if (known == null) {
      known = OneDnn.available() ? new OneDnnProduct(spec, workers.count()) : new BlasProduct(spec);
      compiled.put(spec, known);
    }
    return known;
  }

  /**
   * A weight ready to be multiplied with. If it was changed, all packed weights of its buffer are
   * packed anew, in parallel: they were changed together.
   *
   * @param w {@code [out, in]}
   * @param use what it is multiplied with
   * @param typicalRows rows of the other factor that the layout is chosen for
   */
  List<Panel> packed(CpuTensor w, Use use, long typicalRows) {
    if (!OneDnn.available()) {
      return plain(w, use);
    }
    PackedWeight.Key key = new PackedWeight.Key(w.address(), w.dim(0), w.dim(1), use);
    Memory.Block block = w.block();
    PackedWeight weight = block.packed.get(key);
    if (weight == null) {
      weight = new PackedWeight(memory, key, half, typicalRows, workers.count());
      block.packed.put(key, weight);
    }
    if (!weight.isOf(block.version)) {
      refresh(block);
    }
    return weight.panels();
  }

  /** A weight as it lies in memory, float32, in panels of columns. */
  static List<Panel> plain(CpuTensor w, Use use) {
    long in = w.dim(1);
    long columns = use == Use.FORWARD ? w.dim(0) : in;
    List<Panel> panels = new ArrayList<>();
    for (long from = 0; from < columns; from += PLAIN_PANEL) {
      panels.add(
          new Panel(
              from,
              Math.min(PLAIN_PANEL, columns - from),
              w.address(use == Use.FORWARD ? from * in : from),
              use == Use.FORWARD ? Layout.transposed(false, in) : Layout.rows(false, in)));
    }
    return panels;
  }

  private void refresh(Memory.Block block) {
    List<Reorder> reorders = new ArrayList<>();
    for (PackedWeight weight : block.packed.values()) {
      if (!weight.isOf(block.version)) {
        reorders.addAll(weight.reorders());
        weight.packedFrom(block.version);
      }
    }
    workers.run(reorders.size(), (item, scratch) -> reorders.get(item).run(scratch));
  }
}
