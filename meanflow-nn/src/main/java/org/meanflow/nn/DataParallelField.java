package org.meanflow.nn;

import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.function.Function;
import java.util.function.IntFunction;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import org.meanflow.core.field.Derivative;
import org.meanflow.core.field.Tangent;
import org.meanflow.core.field.TrainableVelocity;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.engine.Engine;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;
import org.nd4j.linalg.indexing.NDArrayIndex;

/**
 * A network as a field that evaluates each batch in shards, one on each engine of a team, at the
 * same time. Gradients of the shards are summed into the gradients of the parameters, always in the
 * same order, so results do not depend on timing.
 */
public final class DataParallelField implements TrainableVelocity {
  private static final ExecutorService THREADS =
      Executors.newCachedThreadPool(Thread.ofPlatform().daemon().name("shard-", 0).factory());

  private final List<ParameterStore> replicas = new ArrayList<>();
  private final List<NetworkField> fields = new ArrayList<>();

  private DataParallelField(VelocityNetwork network, ParameterStore parameters, List<Engine> team) {
    for (Engine member : team) {
      ParameterStore replica = replicas.isEmpty() ? parameters : parameters.replica(member);
      replicas.add(replica);
      fields.add(new NetworkField(network, replica));
    }
  }

  /**
   * The field u_θ on all engines of the team that holds θ.
   *
   * @param network the structure
   * @param parameters θ; they stay the caller's to close
   * @return a {@link NetworkField} if the team is one engine, else one of this class
   */
  public static TrainableVelocity of(VelocityNetwork network, ParameterStore parameters) {
    List<Engine> team = parameters.engine().team();
    return team.size() == 1
        ? new NetworkField(network, parameters)
        : new DataParallelField(network, parameters, team);
  }

  @Override
  public INDArray u(INDArray z, double[] r, double[] t, int @Nullable [] labels) {
    NetworkField.check(z, r, t, labels, null);
    List<Rows> shards = split(t.length, 0);
    return gather(
        shards,
        run(
            shards.size(),
            k -> {
              Rows rows = shards.get(k);
              return fields.get(k).u(rows.of(z), rows.of(r), rows.of(t), rows.ofLabels(labels));
            }),
        Function.identity(),
        Rows::samples);
  }

  @Override
  public Derivative derivative(
      INDArray z, double[] r, double[] t, int @Nullable [] labels, Tangent tangent) {
    NetworkField.check(z, r, t, labels, tangent);
    List<Rows> shards = split(t.length, tangent.rows());
    List<Derivative> parts =
        run(
            shards.size(),
            k -> {
              Rows rows = shards.get(k);
              return fields
                  .get(k)
                  .derivative(
                      rows.of(z), rows.of(r), rows.of(t), rows.ofLabels(labels), rows.of(tangent));
            });
    return new Derivative(
        gather(shards, parts, Derivative::u, Rows::samples),
        gather(shards, parts, Derivative::jvp, Rows::withTangent));
  }

  /** {@inheritDoc} The gradients are those of {@link ParameterStore#gradients}. */
  @Override
  public Pass pass(INDArray z, double[] r, double[] t, int @Nullable [] labels, Tangent tangent) {
    NetworkField.check(z, r, t, labels, tangent);
    List<Rows> shards = split(t.length, tangent.rows());
    List<Pass> passes =
        run(
            shards.size(),
            k -> {
              Rows rows = shards.get(k);
              return fields
                  .get(k)
                  .pass(
                      rows.of(z), rows.of(r), rows.of(t), rows.ofLabels(labels), rows.of(tangent));
            });
    return new ShardedPass(shards, passes);
  }

  private final class ShardedPass implements Pass {
    private final List<Rows> shards;
    private final List<Pass> passes;
    private final INDArray u;
    private final INDArray jvp;
    private boolean backwardDone;

    ShardedPass(List<Rows> shards, List<Pass> passes) {
      this.shards = shards;
      this.passes = passes;
      this.u = gather(shards, passes, Pass::u, Rows::samples);
      this.jvp = gather(shards, passes, Pass::jvp, Rows::withTangent);
    }

    @Override
    public INDArray u() {
      return u;
    }

    @Override
    public INDArray jvp() {
      return jvp;
    }

    @Override
    public void backward(INDArray cotangent) {
      run(
          passes.size(),
          k -> {
            ParameterStore replica = replicas.get(k);
            if (k > 0) {
              replica.clearGradients();
            }
            passes.get(k).backward(shards.get(k).of(cotangent));
            return k;
          });
      ParameterStore total = replicas.getFirst();
      for (ParameterStore replica : replicas.subList(1, passes.size())) {
        total
            .engine()
            .kernels()
            .elementwise()
            .scale(1, replica.gradients(), total.gradients(), true);
      }
      backwardDone = true;
    }

    @Override
    public @Nullable String firstNonFinite() {
      return backwardDone
          ? passes.getFirst().firstNonFinite() // its gradients are the sum
          : passes.stream()
              .map(Pass::firstNonFinite)
              .filter(Objects::nonNull)
              .findFirst()
              .orElse(null);
    }

    @Override
    public void close() {
      passes.forEach(Pass::close);
    }
  }

  /**
   * The samples of a shard: some of those with a tangent, and some of those without, which come
   * later in the batch.
   */
  private record Rows(int tangentFrom, int tangentTo, int plainFrom, int plainTo) {

    int withTangent() {
      return tangentTo - tangentFrom;
    }

    int samples() {
      return withTangent() + plainTo - plainFrom;
    }

    private IntStream indices() {
      return IntStream.concat(
          IntStream.range(tangentFrom, tangentTo), IntStream.range(plainFrom, plainTo));
    }

    INDArray of(INDArray batch) {
      INDArray first = range(batch, tangentFrom, tangentTo);
      INDArray second = range(batch, plainFrom, plainTo);
      return withTangent() == 0
          ? second
          : withTangent() == samples() ? first : Nd4j.concat(0, first, second);
    }

    double[] of(double[] times) {
      return indices().mapToDouble(i -> times[i]).toArray();
    }

    int @Nullable [] ofLabels(int @Nullable [] labels) {
      return labels == null ? null : indices().map(i -> labels[i]).toArray();
    }

    Tangent of(Tangent tangent) {
      return new Tangent(range(tangent.z(), tangentFrom, tangentTo), tangent.r(), tangent.t());
    }

    /** Puts a shard's result, of all its samples or of those with a tangent, into the batch's. */
    void put(INDArray part, INDArray batch) {
      range(batch, tangentFrom, tangentTo).assign(range(part, 0, withTangent()));
      if (part.size(0) > withTangent()) {
        range(batch, plainFrom, plainTo).assign(range(part, withTangent(), samples()));
      }
    }

    private static INDArray range(INDArray batch, int from, int to) {
      long[] shape = batch.shape().clone();
      shape[0] = (long) to - from;
      return from == to
          ? Nd4j.create(batch.dataType(), shape)
          : batch
              .reshape('c', batch.size(0), batch.length() / batch.size(0))
              .get(NDArrayIndex.interval(from, to))
              .reshape('c', shape);
    }
  }

  private List<Rows> split(int batch, int tangents) {
    int count = fields.size();
    int plain = batch - tangents;
    return IntStream.range(0, count)
        .mapToObj(
            k ->
                new Rows(
                    tangents * k / count,
                    tangents * (k + 1) / count,
                    tangents + plain * k / count,
                    tangents + plain * (k + 1) / count))
        .filter(rows -> rows.samples() > 0)
        .toList();
  }

  private static <T> INDArray gather(
      List<Rows> shards,
      List<T> parts,
      Function<T, INDArray> array,
      Function<Rows, Integer> rowsOf) {
    INDArray first = array.apply(parts.getFirst());
    long[] shape = first.shape().clone();
    shape[0] = shards.stream().mapToLong(rowsOf::apply).sum();
    INDArray whole = Nd4j.create(first.dataType(), shape);
    for (int k = 0; k < parts.size(); k++) {
      if (rowsOf.apply(shards.get(k)) > 0) {
        shards.get(k).put(array.apply(parts.get(k)), whole);
      }
    }
    return whole;
  }

  /** Runs one task for each shard, the first on this thread; waits for all, even if one fails. */
  private <T> List<T> run(int count, IntFunction<T> task) {
    List<Future<T>> others = new ArrayList<>();
    for (int k = 1; k < count; k++) {
      int shard = k;
      Callable<T> other = () -> task.apply(shard);
      others.add(THREADS.submit(other));
    }
    List<T> results = new ArrayList<>();
    RuntimeException failure = null;
    try {
      results.add(task.apply(0));
    } catch (RuntimeException e) {
      failure = e;
    }
    for (Future<T> other : others) {
      try {
        results.add(other.get());
      } catch (ExecutionException e) {
        failure =
            e.getCause() instanceof RuntimeException cause ? cause : new IllegalStateException(e);
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        failure = new IllegalStateException("interrupted while a shard was computed", e);
      }
    }
    if (failure != null) {
      results.forEach(result -> closeIfPass(result));
      throw failure;
    }
    return results;
  }

  private static void closeIfPass(@Nullable Object result) {
    if (result instanceof Pass pass) {
      pass.close();
    }
  }
}
