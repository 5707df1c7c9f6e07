/**
 * Forward- and reverse-mode differentiation: one tape, and three rules for each primitive.
 *
 * <p>Running a network on {@link org.meanflow.nn.autodiff.Dual}s is forward mode; the tape recorded
 * on the way gives reverse mode over the values. Parameters carry no tangents and the MeanFlow
 * target is under stop-gradient, so nothing of second order is ever needed.
 */
@NullMarked
package org.meanflow.nn.autodiff;

import org.jspecify.annotations.NullMarked;
