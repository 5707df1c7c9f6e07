package org.meanflow.nn.weights;

import java.io.IOException;
import java.nio.file.Path;

/**
 * A file is not the safetensors file that it was taken for: damaged, hostile, or without the tensor
 * asked for. The message says what is wrong, at which byte of which file, and what to do.
 */
public final class SafetensorsException extends IOException {
  private static final long serialVersionUID = 1L;

  /**
   * Creates the message {@code FILE: byte OFFSET: PROBLEM; REMEDY}.
   *
   * @param file the file
   * @param offset where in the file the problem is, counted from its first byte
   * @param problem what is wrong, with the tensor's name where there is one
   * @param remedy what to do
   */
  SafetensorsException(Path file, long offset, String problem, String remedy) {
    super(file + ": byte " + offset + ": " + problem + "; " + remedy);
  }
}
