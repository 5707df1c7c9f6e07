/** Fields known in closed form, to measure everything else against. */
@NullMarked
package org.meanflow.core.oracle;

import org.jspecify.annotations.NullMarked;
