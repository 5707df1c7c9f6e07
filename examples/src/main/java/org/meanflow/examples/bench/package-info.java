/** Measuring: how long a training step and a sample take, and where the time goes. */
@NullMarked
package org.meanflow.examples.bench;

import org.jspecify.annotations.NullMarked;
