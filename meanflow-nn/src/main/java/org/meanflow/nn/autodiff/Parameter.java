package org.meanflow.nn.autodiff;

/**
 * A parameter of a network: its name, shape and place in the flat buffers of a {@link
 * ParameterStore}.
 *
 * @param name name as in a PyTorch state dict
 * @param shape extents; weights are {@code [out, in]}
 * @param offset position of its first element in the buffer
 * @param initializer law of its first values
 */
public record Parameter(String name, long[] shape, long offset, Initializer initializer) {}
