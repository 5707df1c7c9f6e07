package org.meanflow.train.data;

import java.io.IOException;

/**
 * A data set cannot be read: a file is missing, damaged, hostile or another one than it was taken
 * for. The message says what is wrong, at which byte of which file, and what to do.
 */
public final class DataException extends IOException {
  private static final long serialVersionUID = 1L;

  /**
   * Creates the message {@code FILE: PROBLEM; REMEDY}.
   *
   * @param file the file, or the file and the place in it
   * @param problem what is wrong
   * @param remedy what to do
   */
  DataException(String file, String problem, String remedy) {
    super(file + ": " + problem + "; " + remedy);
  }

  /** Creates the same message for a failure with a cause. */
  DataException(String file, String problem, String remedy, IOException cause) {
    super(file + ": " + problem + "; " + remedy, cause);
  }
}
