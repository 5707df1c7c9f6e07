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
 */
public interface Kernels
    extends LinearKernels,
        ElementwiseKernels,
        NormKernels,
        AttentionKernels,
        EmbeddingKernels,
        OptimizerKernels {}
