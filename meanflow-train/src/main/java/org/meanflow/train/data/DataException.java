package org.meanflow.train.data;

import java.io.IOException;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.Objects;

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
  DataException(String file, String problem, String remedy, Exception cause) {
    super(file + ": " + problem + "; " + remedy, cause);
  }

  /** Where the byte {@code offset} of a file is, for messages. */
  static String at(String file, long offset) {
    return file + ": byte " + offset;
  }

  /** What to say where reading a file failed. */
  static DataException unreadable(Path file, IOException cause) {
    return cause instanceof NoSuchFileException
        ? new DataException(
            file.toString(), "there is no such file", "check the name and the folder", cause)
        : new DataException(
            file.toString(),
            "cannot be read: " + Objects.requireNonNullElse(cause.getMessage(), cause.toString()),
            "check the file",
            cause);
  }
}
