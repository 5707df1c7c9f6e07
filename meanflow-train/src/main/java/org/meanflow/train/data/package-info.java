/** Data sets, the order in which training sees them, and reading ahead of it. */
@NullMarked
package org.meanflow.train.data;

import org.jspecify.annotations.NullMarked;
