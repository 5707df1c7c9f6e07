/** The MeanFlow objective: guidance, target, adaptive loss and the identity they rest on. */
@NullMarked
package org.meanflow.core.objective;

import org.jspecify.annotations.NullMarked;
