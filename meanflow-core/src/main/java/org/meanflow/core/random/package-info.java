/** Random numbers as a function of (seed, step, rank, purpose). */
@NullMarked
package org.meanflow.core.random;

import org.jspecify.annotations.NullMarked;
