package org.meanflow.nn.engine.cpu;

import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.util.Collections;

/**
 * A loop over vectors that stays a compiled method of its own.
 *
 * <p>The JIT compiler limits how much it inlines into a method. A loop of the Vector API counts for
 * thousands of its nodes, so that a method that calls three of them is beyond the limit: then some
 * operations are not inlined, and their vectors are boxed, which makes a loop ten to thirty times
 * slower. The compiler does not see through a method handle that is no constant, and to call one
 * takes nanoseconds.
 */
final class OutlinedLoop {
  private static final MethodHandle RUN = find();

  private final MethodHandle method;

  /** The arguments mean what the loop says; those that it does not need are named {@code _}. */
  @FunctionalInterface
  interface Loop {
    void run(long a, long b, long c, long d, long e, long f, long g, long h);
  }

  OutlinedLoop(Loop loop) {
    method = RUN.bindTo(loop);
  }

  private static MethodHandle find() {
    MethodType type = MethodType.methodType(void.class, Collections.nCopies(8, long.class));
    try {
      return MethodHandles.lookup().findVirtual(Loop.class, "run", type);
    } catch (ReflectiveOperationException e) {
      throw new ExceptionInInitializerError(e);
    }
  }

  void run(long a, long b, long c) {
    run(a, b, c, 0);
  }

  void run(long a, long b, long c, long d) {
    run(a, b, c, d, 0);
  }

  void run(long a, long b, long c, long d, long e) {
    run(a, b, c, d, e, 0);
  }

  void run(long a, long b, long c, long d, long e, long f) {
    run(a, b, c, d, e, f, 0);
  }

  void run(long a, long b, long c, long d, long e, long f, long g) {
    run(a, b, c, d, e, f, g, 0);
  }

  /** Runs the loop; what it has no use for may be left out. */
  void run(long a, long b, long c, long d, long e, long f, long g, long h) {
    try {
      method.invokeExact(a, b, c, d, e, f, g, h);
    } catch (RuntimeException | Error failure) {
      throw failure;
    } catch (Throwable failure) {
      throw new IllegalStateException(failure);
    }
  }
}
