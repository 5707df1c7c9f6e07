/** Recipes: all that a training run needs to know, read from YAML. */
@NullMarked
package org.meanflow.train.recipe;

import org.jspecify.annotations.NullMarked;
