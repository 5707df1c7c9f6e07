/**
 * The fast engine for CPUs: matrix products by oneDNN, everything else by kernels on the Vector API
 * over off-heap memory, all on one pool of threads.
 */
@NullMarked
package org.meanflow.nn.engine.cpu;

import org.jspecify.annotations.NullMarked;
