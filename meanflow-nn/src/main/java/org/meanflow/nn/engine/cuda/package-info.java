/** The engine for NVIDIA GPUs: CUDA driver, NVRTC and cuBLASLt, called through FFM. */
@NullMarked
package org.meanflow.nn.engine.cuda;

import org.jspecify.annotations.NullMarked;
