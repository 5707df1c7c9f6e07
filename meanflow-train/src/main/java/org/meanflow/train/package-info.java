/** Training: one step, the loop around it, and its state on disk. */
@NullMarked
package org.meanflow.train;

import org.jspecify.annotations.NullMarked;
