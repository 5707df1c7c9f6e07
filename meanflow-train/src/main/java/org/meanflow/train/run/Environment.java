package org.meanflow.train.run;

/**
 * What a run is computed with. A run that is resumed goes on bit for bit where engine, precision
 * and number of processors are the same.
 *
 * @param version version of this library
 * @param engine name of the engine
 * @param precision arithmetic, as in a recipe
 * @param processors processors that the engine may use
 * @param seed seed of all randomness
 * @param java version of the JVM
 */
public record Environment(
    String version, String engine, String precision, int processors, long seed, String java) {}
