package org.meanflow.nn.engine.cuda;

/**
 * A compiled kernel.
 *
 * @param name its name, for messages
 * @param function the driver's handle
 */
record Kernel(String name, long function) {}
