/** The diffusion transformer (Peebles and Xie, arXiv 2212.09748) as an average-velocity network. */
@NullMarked
package org.meanflow.nn.dit;

import org.jspecify.annotations.NullMarked;
