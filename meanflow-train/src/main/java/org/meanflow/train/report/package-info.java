/** The report of a run: one HTML file that shows how it went. */
@NullMarked
package org.meanflow.train.report;

import org.jspecify.annotations.NullMarked;
