/** Layers: parameters by their PyTorch names, and the primitives applied to them. */
@NullMarked
package org.meanflow.nn.layer;

import org.jspecify.annotations.NullMarked;
