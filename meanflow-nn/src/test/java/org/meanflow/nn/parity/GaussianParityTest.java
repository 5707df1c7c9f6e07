package org.meanflow.nn.parity;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.Arrays;
import java.util.Map;
import java.util.function.ToDoubleFunction;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.meanflow.core.field.DifferentiableVelocity;
import org.meanflow.core.field.Tangent;
import org.meanflow.core.oracle.GaussianField;
import org.meanflow.core.oracle.GaussianMixtureField;
import org.meanflow.nn.fixtures.Fixture;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/** The closed-form fields against an independent evaluation of the same formulas. */
class GaussianParityTest {
  private static final Pattern NUMBER = Pattern.compile("[0-9.]+(e-?[0-9]+)?");

  /** Points and times, and what a field makes of them. */
  private record Points(DifferentiableVelocity field, INDArray z, double[] r, double[] t) {

    INDArray u() {
      return field.u(z, r, t, null);
    }

    INDArray v() {
      return field.v(z, t, null);
    }

    INDArray zR() {
      double[] gap = IntStream.range(0, t.length).mapToDouble(i -> t[i] - r[i]).toArray();
      return z.sub(Nd4j.createFromArray(gap).castTo(z.dataType()).reshape(z.shape()).mul(u()));
    }

    /** ∂u along (ż, ṙ, ṫ). */
    INDArray jvp(INDArray dz, double dr, double dt) {
      return field.derivative(z, r, t, null, new Tangent(dz, dr, dt)).jvp();
    }

    INDArray jvp(double dz, double dr, double dt) {
      return jvp(z.mul(0).add(dz), dr, dt);
    }
  }

  @ParameterizedTest
  @EnumSource(
      value = DataType.class,
      names = {"DOUBLE", "FLOAT"})
  void oneGaussian(DataType type) {
    Fixture fixture = Fixture.of("gaussian", "single");
    JsonNode tolerances = fixture.json().get("tolerances");
    double tolerance =
        firstNumber(
            tolerances.get(
                type == DataType.DOUBLE ? "float64_implementation" : "float32_implementation"));
    Map<String, ToDoubleFunction<Points>> outputs =
        Map.of(
            "out.v", p -> p.v().getDouble(0),
            "out.u", p -> p.u().getDouble(0),
            "out.dudt", p -> p.jvp(p.v(), 0, 1).getDouble(0),
            "out.z_r", p -> p.zR().getDouble(0),
            "out.du_dz", p -> p.jvp(1, 0, 0).getDouble(0),
            "out.du_dt_partial", p -> p.jvp(0, 0, 1).getDouble(0),
            "out.du_dr_partial", p -> p.jvp(0, 1, 0).getDouble(0));
    assertThat(fixture.names("out."))
        .as("outputs compared, but for the field's own terms")
        .allMatch(name -> outputs.containsKey(name) || name.matches("out\\.(mean|std)_t"));
    Points[] rows = rows(fixture, type);
    outputs.forEach(
        (name, output) ->
            fixture.assertClose(
                name, Arrays.stream(rows).mapToDouble(output).toArray(), tolerance));
  }

  /** Every row has a mean and a standard deviation of its own. */
  private static Points[] rows(Fixture fixture, DataType type) {
    double[] mean = fixture.values("in.mu");
    double[] std = fixture.values("in.s");
    double[] z = fixture.values("in.z");
    double[] r = fixture.values("in.r");
    double[] t = fixture.values("in.t");
    return IntStream.range(0, z.length)
        .mapToObj(
            i ->
                new Points(
                    new GaussianField(mean[i], std[i]),
                    Nd4j.createFromArray(z[i]).castTo(type),
                    new double[] {r[i]},
                    new double[] {t[i]}))
        .toArray(Points[]::new);
  }

  @Test
  void mixture() {
    Fixture fixture = Fixture.of("gaussian", "mixture");
    JsonNode tolerances = fixture.json().get("tolerances");
    double closedForm = firstNumber(tolerances.get("v"));
    double solved = firstNumber(tolerances.get("u,z_r,one_step_x"));
    double derived = firstNumber(tolerances.get("dudt"));
    GaussianMixtureField field =
        new GaussianMixtureField(
            fixture.values("in.weights"), fixture.values("in.means"), fixture.values("in.stds"));
    double[] r = fixture.values("in.r");
    double[] t = fixture.values("in.t");
    Points points = new Points(field, fixture.array("in.z", DataType.DOUBLE), r, t);
    Points onDiagonal = new Points(field, points.z, t, t);
    fixture.assertClose("out.v", points.v(), closedForm);
    fixture.assertClose("out.dvdt", onDiagonal.jvp(points.v(), 1, 1), closedForm);
    fixture.assertClose("out.u", points.u(), solved);
    fixture.assertClose("out.z_r", points.zR(), solved);
    fixture.assertClose("out.dudt", points.jvp(points.v(), 0, 1), derived);

    double[] zero = new double[t.length];
    double[] one = IntStream.range(0, t.length).mapToDouble(i -> 1).toArray();
    INDArray noise = fixture.array("in.noise", DataType.DOUBLE);
    fixture.assertClose("out.one_step_x", new Points(field, noise, zero, one).zR(), solved);
    assertThat(fixture.names("out.")).hasSize(6);
  }

  /** Tolerances are numbers, or a number with words around it. */
  private static double firstNumber(JsonNode tolerance) {
    Matcher matcher = NUMBER.matcher(tolerance.asText());
    assertThat(matcher.find()).as("number in %s", tolerance).isTrue();
    return Double.parseDouble(matcher.group());
  }
}
