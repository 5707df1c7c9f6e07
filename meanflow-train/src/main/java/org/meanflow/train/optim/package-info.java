/** The numbers of the optimiser: learning rate, AdamW, moving average. */
@NullMarked
package org.meanflow.train.optim;

import org.jspecify.annotations.NullMarked;
