/** Data sets of images and the order in which training sees them. */
@NullMarked
package org.meanflow.train.data;

import org.jspecify.annotations.NullMarked;
