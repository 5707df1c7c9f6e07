package org.meanflow.train.data;

import org.jspecify.annotations.Nullable;
import org.meanflow.core.random.Purpose;

/**
 * Another data set, each of its images mirrored left to right with probability ½ whenever training
 * looks at it.
 */
public final class HorizontalFlip extends PerImageDataset {
  private final PerImageDataset data;

  /**
   * Mirrors the images of a data set.
   *
   * @param data the images; closed with this
   */
  public HorizontalFlip(PerImageDataset data) {
    super(data.size(), data.classes(), data.imageShape());
    this.data = data;
  }

  @Override
  protected void read(int index, @Nullable Visit visit, double[] image) throws DataException {
    data.read(index, visit, image);
    if (visit != null && visit.random(Purpose.AUGMENTATION).nextUniform() < 0.5) {
      int width = (int) imageShape()[2];
      for (int row = 0; row < image.length; row += width) {
        for (int left = row, right = row + width - 1; left < right; left++, right--) {
          double value = image[left];
          image[left] = image[right];
          image[right] = value;
        }
      }
    }
  }

  @Override
  protected int label(int index) {
    return data.label(index);
  }

  @Override
  public void close() {
    data.close();
  }
}
