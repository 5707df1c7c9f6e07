/** The command line, and small mains that show the library at work. */
@NullMarked
package org.meanflow.examples;

import org.jspecify.annotations.NullMarked;
