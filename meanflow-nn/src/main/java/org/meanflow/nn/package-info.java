/** Networks as average-velocity fields. */
@NullMarked
package org.meanflow.nn;

import org.jspecify.annotations.NullMarked;
