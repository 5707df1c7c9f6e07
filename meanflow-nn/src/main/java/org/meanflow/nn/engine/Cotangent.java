package org.meanflow.nn.engine;

/**
 * Where a backward kernel puts the cotangent of one of its inputs.
 *
 * @param target tensor of the shape of the input
 * @param add whether to add to {@code target} or to overwrite it
 */
public record Cotangent(Tensor target, boolean add) {}
