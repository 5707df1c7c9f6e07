package org.meanflow.core.random;

/**
 * What a random number is for. Each purpose has a stream of its own, so that drawing more of one
 * never shifts another. The order is part of the format of a run: append, never reorder.
 */
public enum Purpose {
  /** Initial parameters of a network. */
  INITIALISATION,
  /** Order of the samples of a data set in an epoch. */
  DATA_ORDER,
  /** Random augmentation of a sample. */
  AUGMENTATION,
  /** The noise ε of a training batch. */
  NOISE,
  /** The time pairs (r, t) of a training batch. */
  TIME,
  /** Which labels of a training batch are dropped. */
  LABEL_DROP,
  /** The noise from which samples are drawn. */
  SAMPLING
}
