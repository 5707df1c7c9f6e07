/** Small networks for data that are no images. */
@NullMarked
package org.meanflow.nn.net;

import org.jspecify.annotations.NullMarked;
