package org.meanflow.examples.bench;

import java.lang.reflect.InvocationHandler;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.lang.reflect.RecordComponent;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;
import org.meanflow.core.field.TrainableVelocity;
import org.meanflow.nn.NetworkField;
import org.meanflow.nn.autodiff.Primitive;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.primitive.FeedForward;
import org.meanflow.nn.primitive.Linear;

/**
 * Where the time goes, by primitive and rule. Engines and fields are watched through proxies, so
 * that nothing is paid where nobody watches. Which rule of which primitive a kernel serves is read
 * from the stack; the time for that is left out.
 *
 * <p>Times are exclusive: that of a field does not contain that of its kernels. On an engine with a
 * team all threads count, waiting included.
 */
final class Profile {

  /** The rule of a primitive that a kernel serves. */
  enum Phase {
    /** The value. */
    FORWARD,
    /** The tangent. */
    TANGENT,
    /** The cotangents. */
    BACKWARD,
    /** The value, when only the value of the field is asked for. */
    EVALUATE,
    /** Not a primitive. */
    OTHER
  }

  /**
   * What a row of the table is about.
   *
   * @param operation name of a primitive, or of what else took time
   */
  record Key(String operation, Phase phase) {}

  /**
   * What it cost.
   *
   * @param products milliseconds in {@linkplain Engine#productMilliseconds products}; NaN if they
   *     are not known
   * @param flops operations in products
   */
  record Cost(long calls, double milliseconds, double products, double flops, double bytes) {
    static final Cost NONE = new Cost(0, 0, 0, 0, 0);

    Cost plus(Cost other) {
      return new Cost(
          calls + other.calls,
          milliseconds + other.milliseconds,
          products + other.products,
          flops + other.flops,
          bytes + other.bytes);
    }

    private Cost part(double share) {
      return new Cost(calls, share * milliseconds, share * products, share * flops, share * bytes);
    }
  }

  private static final Set<String> LINEAR =
      Set.of(Linear.class.getSimpleName(), FeedForward.class.getSimpleName());
  private static final String PRIMITIVES = Linear.class.getPackageName() + ".";
  private static final Map<String, Phase> RULES =
      Map.of(
          "forward", Phase.FORWARD,
          "forwardStacked", Phase.FORWARD,
          "jvp", Phase.TANGENT,
          "vjp", Phase.BACKWARD);
  private static final Set<String> MEMORY = Set.of("allocate", "write", "read", "copyOf");

  private final Map<Key, Cost> costs = new HashMap<>();
  private final ThreadLocal<double[]> inner = ThreadLocal.withInitial(() -> new double[1]);

  /** Forgets what was measured so far. */
  synchronized void clear() {
    costs.clear();
  }

  /** What was measured so far. */
  synchronized Map<Key, Cost> costs() {
    return Map.copyOf(costs);
  }

  /** Counts what {@code work} does by itself under a name. */
  void time(String operation, Runnable work) {
    try {
      timed(
          call -> call.record(new Key(operation, Phase.OTHER)),
          () -> {
            work.run();
            return null;
          });
    } catch (RuntimeException | Error e) {
      throw e;
    } catch (Throwable e) {
      throw new IllegalStateException(e);
    }
  }

  /** A field that does the same and is watched. */
  TrainableVelocity watch(TrainableVelocity field) {
    return watched(TrainableVelocity.class, field);
  }

  private <T> T watched(Class<T> type, T target) {
    return proxy(
        type,
        (proxy, method, arguments) -> {
          Object result =
              timed(
                  call -> call.record(new Key("tape", Phase.OTHER)),
                  () -> invoke(target, method, arguments));
          return result instanceof TrainableVelocity.Pass pass
              ? watched(TrainableVelocity.Pass.class, pass)
              : result;
        });
  }

  /** An engine that does the same and is watched. */
  Engine watch(Engine engine) {
    return watch(engine, true);
  }

  private Engine watch(Engine engine, boolean first) {
    Kernels kernels = watch(engine.kernels(), engine);
    List<Engine> others =
        first && engine.team().size() > 1
            ? engine.team().stream().skip(1).map(member -> watch(member, false)).toList()
            : List.of();
    return proxy(
        Engine.class,
        (proxy, method, arguments) -> {
          if (method.getName().equals("kernels")) {
            return kernels;
          }
          if (method.getName().equals("team")) {
            List<Engine> team = new ArrayList<>(List.of((Engine) proxy));
            team.addAll(others);
            return team;
          }
          return MEMORY.contains(method.getName())
              ? timed(
                  call -> call.record(new Key(method.getName(), Phase.OTHER)),
                  () -> invoke(engine, method, arguments))
              : invoke(engine, method, arguments);
        });
  }

  /** Wraps each family of kernels, whatever families there are. */
  private Kernels watch(Kernels kernels, Engine engine) {
    RecordComponent[] families = Kernels.class.getRecordComponents();
    try {
      Object[] watched = new Object[families.length];
      for (int i = 0; i < families.length; i++) {
        watched[i] =
            watchFamily(families[i].getType(), families[i].getAccessor().invoke(kernels), engine);
      }
      Class<?>[] types =
          Arrays.stream(families).map(RecordComponent::getType).toArray(Class<?>[]::new);
      return Kernels.class.getConstructor(types).newInstance(watched);
    } catch (ReflectiveOperationException e) {
      throw new IllegalStateException(e);
    }
  }

  private <T> T watchFamily(Class<T> family, Object target, Engine engine) {
    return proxy(
        family,
        (proxy, method, arguments) -> {
          double before = engine.productMilliseconds();
          return timed(
              call -> {
                double products = engine.productMilliseconds() - before;
                KernelWork work = KernelWork.of(family, method.getName(), arguments, engine);
                call.record(key(method.getName()), products, work);
              },
              () -> {
                Object result = invoke(target, method, arguments);
                engine.finish();
                return result;
              });
        });
  }

  /** The primitive and its rule that called a kernel, from the stack. */
  private static Key key(String kernel) {
    return StackWalker.getInstance()
        .walk(
            frames -> {
              String operation = null;
              Phase phase = null;
              for (StackWalker.StackFrame frame :
                  (Iterable<StackWalker.StackFrame>) frames::iterator) {
                String type = frame.getClassName();
                boolean primitive = type.startsWith(PRIMITIVES);
                if (operation == null && primitive) {
                  operation = type.substring(PRIMITIVES.length());
                }
                if (phase == null && (primitive || type.startsWith(Primitive.class.getName()))) {
                  phase = RULES.get(frame.getMethodName());
                }
                if (type.equals(NetworkField.class.getName())
                    && frame.getMethodName().equals("u")) {
                  phase = Phase.EVALUATE;
                  break;
                }
              }
              return operation == null || phase == null
                  ? new Key(kernel, phase == Phase.EVALUATE ? phase : Phase.OTHER)
                  : new Key(operation, phase);
            });
  }

  /** A measured call, to be put down under one key or several. */
  private final class Call {
    private final double milliseconds;

    Call(double milliseconds) {
      this.milliseconds = milliseconds;
    }

    void record(Key key) {
      add(key, new Cost(1, milliseconds, 0, 0, 0));
    }

    /** Value and tangent in one product: each has its share of the rows. */
    void record(Key key, double products, KernelWork work) {
      Cost whole = new Cost(1, milliseconds, products, work.flops(), work.bytes());
      double tangents = key.phase == Phase.FORWARD ? work.tangentShare() : 0;
      add(key, whole.part(1 - tangents));
      if (tangents > 0) {
        add(new Key(key.operation, Phase.TANGENT), whole.part(tangents));
      }
    }

    private void add(Key key, Cost cost) {
      synchronized (Profile.this) {
        costs.merge(key, cost, Cost::plus);
      }
    }
  }

  private interface Recorder {
    void record(Call call);
  }

  private interface Work {
    @Nullable Object run() throws Throwable;
  }

  private @Nullable Object timed(Recorder recorder, Work work) throws Throwable {
    double[] innerTime = inner.get();
    double outerInner = innerTime[0];
    innerTime[0] = 0;
    long start = System.nanoTime();
    try {
      return work.run();
    } finally {
      double exclusive = (System.nanoTime() - start) * 1e-6 - innerTime[0];
      recorder.record(new Call(exclusive));
      // What recording took belongs to nobody.
      innerTime[0] = outerInner + (System.nanoTime() - start) * 1e-6;
    }
  }

  private static @Nullable Object invoke(
      Object target, Method method, Object @Nullable [] arguments) throws Throwable {
    try {
      return method.invoke(target, arguments);
    } catch (InvocationTargetException e) {
      throw e.getCause();
    }
  }

  private static <T> T proxy(Class<T> type, InvocationHandler handler) {
    return type.cast(Proxy.newProxyInstance(type.getClassLoader(), new Class<?>[] {type}, handler));
  }

  /** The sum of some rows. */
  Cost sum(Predicate<Key> rows) {
    return costs().entrySet().stream()
        .filter(entry -> rows.test(entry.getKey()))
        .map(Map.Entry::getValue)
        .reduce(Cost.NONE, Cost::plus);
  }

  /**
   * The products of matrices. Where the engine does not know how long they take, the kernels that
   * are little else: those of linear maps.
   */
  Cost gemm() {
    Cost all = sum(key -> true);
    return Double.isNaN(all.products)
        ? sum(key -> LINEAR.contains(key.operation))
        : new Cost(all.calls, all.products, all.products, all.flops, 0);
  }

  /**
   * The table, the costliest first.
   *
   * @param repetitions how many were measured; figures are for one
   */
  String table(int repetitions) {
    Cost total = sum(key -> true);
    StringBuilder text = new StringBuilder();
    text.append(
        String.format(
            Locale.ROOT,
            "%-20s %-9s %7s %10s %6s %9s %9s %7s%n",
            "operation",
            "rule",
            "calls",
            "ms",
            "%",
            "products",
            "GFLOP/s",
            "GB/s"));
    costs().entrySet().stream()
        .sorted(Comparator.comparingDouble(entry -> -entry.getValue().milliseconds))
        .forEach(entry -> text.append(line(entry.getKey(), entry.getValue(), total, repetitions)));
    text.append(line(new Key("all", Phase.OTHER), total, total, repetitions));
    return text.toString();
  }

  private static String line(Key key, Cost cost, Cost total, int repetitions) {
    return String.format(
        Locale.ROOT,
        "%-20s %-9s %7.1f %10.3f %6.1f %9s %9s %7s%n",
        key.operation,
        key.phase == Phase.OTHER ? "" : key.phase.name().toLowerCase(Locale.ROOT),
        (double) cost.calls / repetitions,
        cost.milliseconds / repetitions,
        100 * cost.milliseconds / total.milliseconds,
        cost.products > 0 ? String.format(Locale.ROOT, "%.3f", cost.products / repetitions) : "",
        rate(cost.flops, cost.milliseconds),
        cost.flops > 0 ? "" : rate(cost.bytes, cost.milliseconds));
  }

  private static String rate(double amount, double milliseconds) {
    return amount > 0 ? String.format(Locale.ROOT, "%.1f", amount / milliseconds * 1e-6) : "";
  }
}
