package org.meanflow.nn.weights;

import java.io.IOException;

/** A weights file is in order but does not fit the network; the message lists where. */
public final class WeightsException extends IOException {
  private static final long serialVersionUID = 1L;

  WeightsException(String message) {
    super(message);
  }
}
