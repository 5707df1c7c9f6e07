/** Laws of the time pairs (r, t) that a training step draws. */
@NullMarked
package org.meanflow.core.time;

import org.jspecify.annotations.NullMarked;
