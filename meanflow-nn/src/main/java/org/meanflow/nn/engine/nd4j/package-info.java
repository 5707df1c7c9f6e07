/** The reference engine, on whatever ND4J backend is on the class path. */
@NullMarked
package org.meanflow.nn.engine.nd4j;

import org.jspecify.annotations.NullMarked;
