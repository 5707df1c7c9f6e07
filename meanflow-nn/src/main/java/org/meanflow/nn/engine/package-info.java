/** The engines: memory and kernels behind one service-provider interface. */
@NullMarked
package org.meanflow.nn.engine;

import org.jspecify.annotations.NullMarked;
