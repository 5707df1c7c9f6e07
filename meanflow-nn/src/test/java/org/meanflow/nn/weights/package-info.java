/** Tests of the weights formats. */
@NullMarked
package org.meanflow.nn.weights;

import org.jspecify.annotations.NullMarked;
