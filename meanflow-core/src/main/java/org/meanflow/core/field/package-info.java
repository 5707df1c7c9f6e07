/** The field interfaces through which core and the samplers see a network. */
@NullMarked
package org.meanflow.core.field;

import org.jspecify.annotations.NullMarked;
