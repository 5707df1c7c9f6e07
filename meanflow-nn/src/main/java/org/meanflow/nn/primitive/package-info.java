/** The differentiable operations, one in each file. */
@NullMarked
package org.meanflow.nn.primitive;

import org.jspecify.annotations.NullMarked;
