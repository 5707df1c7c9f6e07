/** Arithmetic on batches of samples. */
@NullMarked
package org.meanflow.core.batch;

import org.jspecify.annotations.NullMarked;
