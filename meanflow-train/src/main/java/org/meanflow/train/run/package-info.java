/** The directory of a run and the log of its metrics. */
@NullMarked
package org.meanflow.train.run;

import org.jspecify.annotations.NullMarked;
