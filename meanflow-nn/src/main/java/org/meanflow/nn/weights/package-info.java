/** Weights on disk: the safetensors format, read by memory mapping and written atomically. */
@NullMarked
package org.meanflow.nn.weights;

import org.jspecify.annotations.NullMarked;
