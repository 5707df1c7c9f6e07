/** Paths from data to noise. */
@NullMarked
package org.meanflow.core.path;

import org.jspecify.annotations.NullMarked;
