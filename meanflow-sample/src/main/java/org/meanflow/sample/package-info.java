/**
 * Sampling from an average-velocity field: one step, a few steps, or a solver of the flow's
 * differential equation; and images and arrays as files.
 */
@NullMarked
package org.meanflow.sample;

import org.jspecify.annotations.NullMarked;
