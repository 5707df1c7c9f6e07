package org.meanflow.core.objective;

import java.util.Arrays;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;
import org.nd4j.linalg.indexing.NDArrayIndex;

/** Samples of a batch as the rows of a matrix. */
final class Rows {
  private Rows() {}

  /** The batch as a matrix {@code [batch, elements]}; a view where the layout allows it. */
  static INDArray matrix(INDArray batch) {
    return batch.reshape(batch.size(0), batch.length() / batch.size(0));
  }

  /** The first samples, compact: the batch itself if they are all of it, else a copy. */
  static INDArray first(INDArray batch, int count) {
    if (count == batch.size(0)) {
      return batch;
    }
    long[] shape = batch.shape().clone(); // shape() is the live array
    shape[0] = count;
    return count == 0
        ? Nd4j.create(batch.dataType(), shape)
        : matrix(batch).get(NDArrayIndex.interval(0, count)).dup('c').reshape(shape);
  }

  /** The samples with the given indices: the batch itself if they are all of it, else a copy. */
  static INDArray take(INDArray batch, int[] rows) {
    if (rows.length == batch.size(0)) {
      return batch;
    }
    long[] shape = batch.shape().clone(); // shape() is the live array
    shape[0] = rows.length;
    return Nd4j.pullRows(matrix(batch), 1, rows, 'c').reshape(shape);
  }

  /** Refuses arrays that differ in shape or data type. */
  static void requireSame(String name, INDArray array, String otherName, INDArray other) {
    if (array.dataType() != other.dataType() || !array.equalShapes(other)) {
      throw new IllegalArgumentException(
          "%s must have the shape and type of %s, %s%s, got %s%s"
              .formatted(
                  name,
                  otherName,
                  other.dataType(),
                  Arrays.toString(other.shape()),
                  array.dataType(),
                  Arrays.toString(array.shape())));
    }
  }

  /** Refuses per-sample values whose number is not that of the samples. */
  static void requireOneEach(String name, int length, INDArray batch) {
    if (length != batch.size(0)) {
      throw new IllegalArgumentException(
          "%s must have one value for each of %d samples, got %d"
              .formatted(name, batch.size(0), length));
    }
  }
}
