package org.meanflow.core.random;

/**
 * What a random number is for. Each purpose has a stream of its own, so that drawing more of one
 * never shifts another. The codes are part of the format of a run: add, never change.
 */
public enum Purpose {
  /** Initial parameters of a network. */
  INITIALISATION(0),
  /** Order of the samples of a data set in an epoch. */
  DATA_ORDER(1),
  /** Random augmentation of a sample. */
  AUGMENTATION(2),
  /** The noise ε of a training batch. */
  NOISE(3),
  /** The time pairs (r, t) of a training batch. */
  TIME(4),
  /** Which labels of a training batch are dropped. */
  LABEL_DROP(5),
  /** The noise from which samples are drawn. */
  SAMPLING(6),
  /** Draws from the posterior of an autoencoder. */
  POSTERIOR(7);

  /** Bits 24 to 31 of the second counter word, in [0, 2⁸). */
  final int code;

  Purpose(int code) {
    this.code = code;
  }
}
