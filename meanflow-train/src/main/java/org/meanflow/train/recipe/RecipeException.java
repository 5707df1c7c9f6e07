package org.meanflow.train.recipe;

import java.io.IOException;

/**
 * A recipe cannot be read: it is missing, no YAML, or has a key or value that it must not have. The
 * message is one line: {@code SOURCE: KEY RULE, got VALUE}.
 */
public final class RecipeException extends IOException {
  private static final long serialVersionUID = 1L;

  /**
   * Creates the message {@code SOURCE: PROBLEM}.
   *
   * @param source the recipe
   * @param problem what is wrong, beginning with the key, and what to do
   */
  RecipeException(String source, String problem) {
    super(source + ": " + problem);
  }

  /** Creates the same message for a failure with a cause. */
  RecipeException(String source, String problem, Throwable cause) {
    super(source + ": " + problem, cause);
  }
}
