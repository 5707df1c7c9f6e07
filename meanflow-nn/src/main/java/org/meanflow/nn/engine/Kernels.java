package org.meanflow.nn.engine;

/**
 * The operations of an engine: a closed list of fused kernels, by family. Conventions common to
 * all:
 *
 * <ul>
 *   <li>{@code batch} is the first extent of every activation. A tangent has the first m rows of
 *       the batch only; kernels take m from the tangent and read the values' first m rows.
 *   <li>{@code …Tangent} kernels overwrite their result. A tangent that is {@code null} is zero.
 *   <li>{@code …Backward} kernels write cotangents through {@link Cotangent}, which says whether to
 *       overwrite or to add; a {@code null} cotangent is not wanted.
 *   <li>A result never overlaps an argument, unless a kernel's text allows it.
 * </ul>
 *
 * @param linear affine maps
 * @param feedForward two affine maps with a GELU between them
 * @param elementwise elementwise maps
 * @param norm normalisations
 * @param modulation shift, scale and gate
 * @param attention self-attention
 * @param embedding embeddings of times, labels and patches
 * @param optimizer passes over all parameters
 */
public record Kernels(
    LinearKernels linear,
    FeedForwardKernels feedForward,
    ElementwiseKernels elementwise,
    NormKernels norm,
    ModulationKernels modulation,
    AttentionKernels attention,
    EmbeddingKernels embedding,
    OptimizerKernels optimizer) {}
