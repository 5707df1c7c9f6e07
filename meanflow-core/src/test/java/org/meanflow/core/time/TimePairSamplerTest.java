package org.meanflow.core.time;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.meanflow.core.Closeness.assertClose;

import java.util.Arrays;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;

class TimePairSamplerTest {
  private static final int DRAWS = 200_000;
  private static final TimeLaw PAPER_LAW = new LogitNormal(-0.4, 1);

  /** A joint law with mean and variance of t, r and t − r, and the probability of r = t. */
  record Reference(
      String name,
      TimePairSampler sampler,
      double tMean,
      double tVar,
      double rMean,
      double rVar,
      double gapMean,
      double gapVar,
      double equal) {
    @Override
    public String toString() {
      return name;
    }
  }

  /**
   * By quadrature to 1e-9, from the project's reference fixtures samplers/distributions.json; the
   * uniform row is elementary (t = max has mean 2/3 and variance 1/18).
   */
  static Stream<Reference> references() {
    TimeLaw uniform = new Uniform();
    TimeLaw v0 = new LogitNormal(-2, 2);
    return Stream.of(
        new Reference(
            "uniform",
            new TimePairSampler(uniform, uniform, Pairing.MAX_MIN, 0.5, EqualCount.EXACT),
            2.0 / 3,
            1.0 / 18,
            0.5,
            1.0 / 12,
            1.0 / 6,
            1.0 / 18,
            0.5),
        new Reference(
            "paper",
            TimePairSampler.paper(),
            0.5347215277146183,
            0.032053765131401346,
            0.4763666251949194,
            0.04022252552187103,
            0.05835490251969894,
            0.0173850536600032,
            0.75),
        new Reference(
            "no equal samples",
            new TimePairSampler(PAPER_LAW, PAPER_LAW, Pairing.MAX_MIN, 0, EqualCount.EXACT),
            0.5347215277146183,
            0.032053765131401346,
            0.30130191763582265,
            0.023865270916277312,
            0.2334196100787957,
            0.028676678863010042,
            0),
        new Reference(
            "py-meanflow v0",
            new TimePairSampler(v0, v0, Pairing.MAX_MIN, 0.25, EqualCount.BERNOULLI),
            0.3537319882614609,
            0.07308359790084559,
            0.16033363777434398,
            0.04378798184045671,
            0.19339835048711693,
            0.05539449947678768,
            0.25),
        new Reference(
            "py-meanflow v1",
            new TimePairSampler(
                new LogitNormal(-0.6, 1.6),
                new LogitNormal(-4, 1.6),
                Pairing.INDEPENDENT_THEN_MIN,
                0.25,
                EqualCount.BERNOULLI),
            0.3984429455423843,
            0.074363620892992,
            0.13074285125049395,
            0.04576824009033554,
            0.26770009429189034,
            0.08009882093632165,
            0.29985314896189275));
  }

  /**
   * Five standard deviations: √(var/n) for a mean, √(3/n) is ample for a variance of bounded laws.
   */
  @ParameterizedTest
  @MethodSource("references")
  void momentsMatchTheReference(Reference reference) {
    TimePairs pairs = reference.sampler().sample(DRAWS, stream());
    double[] gap =
        IntStream.range(0, DRAWS).mapToDouble(i -> pairs.t()[i] - pairs.r()[i]).toArray();
    assertMoments(pairs.t(), reference.tMean(), reference.tVar());
    assertMoments(pairs.r(), reference.rMean(), reference.rVar());
    assertMoments(gap, reference.gapMean(), reference.gapVar());
    double p = reference.equal();
    double share = (double) Arrays.stream(gap).filter(g -> g == 0).count() / DRAWS;
    assertClose(share, p, 5 * Math.sqrt(p * (1 - p) / DRAWS));
  }

  /** Quantiles of the laws of the paper's t and r before any are made equal: same source. */
  @ParameterizedTest
  @CsvSource({
    "0.01, 0.1568901253255519, 0.04856993549099452",
    "0.05, 0.23865482491721351, 0.08670809306925756",
    "0.25, 0.401312339887548, 0.1812654028482289",
    "0.5, 0.5361747167925639, 0.27990112047451055",
    "0.75, 0.6699143501380527, 0.4013123398875479",
    "0.95, 0.8255639208358201, 0.589057034068704",
    "0.99, 0.8979783996885973, 0.707143640387244"
  })
  void quantilesMatchTheReference(double q, double tQuantile, double rQuantile) {
    TimePairs pairs =
        new TimePairSampler(PAPER_LAW, PAPER_LAW, Pairing.MAX_MIN, 0, EqualCount.EXACT)
            .sample(DRAWS, stream());
    double bound = 5 * Math.sqrt(q * (1 - q) / DRAWS);
    assertClose(shareBelow(pairs.t(), tQuantile), q, bound);
    assertClose(shareBelow(pairs.r(), rQuantile), q, bound);
  }

  @ParameterizedTest
  @CsvSource({"0, 7, 0", "1, 7, 7", "0.75, 64, 48", "0.75, 7, 5", "0.5, 1, 0", "0.1, 30, 3"})
  void exactCountIsTheFloorOfTheShare(double fraction, int batch, int equal) {
    TimePairSampler sampler =
        new TimePairSampler(PAPER_LAW, PAPER_LAW, Pairing.MAX_MIN, fraction, EqualCount.EXACT);
    TimePairs pairs = sampler.sample(batch, stream());
    assertThat(pairs.batch()).isEqualTo(batch);
    assertThat(pairs.distinct()).isEqualTo(batch - equal);
    for (int i = 0; i < batch; i++) {
      assertThat(pairs.r()[i] == pairs.t()[i]).isEqualTo(i >= batch - equal);
    }
  }

  /** The number of equal samples in B of Bernoulli(f) varies: B·f ± 5·√(B·f(1 − f)). */
  @Test
  void bernoulliCountVariesAroundTheShare() {
    TimePairSampler sampler =
        new TimePairSampler(PAPER_LAW, PAPER_LAW, Pairing.MAX_MIN, 0.75, EqualCount.BERNOULLI);
    int[] distinct =
        IntStream.range(0, 50)
            .map(s -> sampler.sample(400, new RandomStream(1, s, Purpose.TIME)).distinct())
            .toArray();
    assertThat(Arrays.stream(distinct).distinct().count()).isGreaterThan(5);
    for (int count : distinct) {
      assertClose(count, 100, 5 * Math.sqrt(400 * 0.75 * 0.25));
    }
  }

  @Test
  void independentPairingKeepsTheSizeOfTheFirstGroupFixed() {
    TimePairSampler sampler =
        new TimePairSampler(
            new LogitNormal(-0.6, 1.6),
            new LogitNormal(-4, 1.6),
            Pairing.INDEPENDENT_THEN_MIN,
            0.25,
            EqualCount.EXACT);
    for (int step = 0; step < 20; step++) {
      TimePairs pairs = sampler.sample(64, new RandomStream(1, step, Purpose.TIME));
      assertThat(pairs.distinct()).isEqualTo(48);
    }
  }

  /**
   * The first rows of the project's reference fixture samplers/transforms: normal draws of t and r,
   * and the equal samples (1 and 3), which come last here.
   */
  @ParameterizedTest
  @ValueSource(strings = {"v0", "v1"})
  void knownDrawsGiveTheKnownPairs(String name) {
    double[] normalT = {
      0.0401417501270771, -0.5285924673080444, -0.4989394247531891, 0.673231303691864,
      0.262337863445282, 0.29231491684913635, -0.8571497797966003, -2.067772388458252
    };
    double[] normalR = {
      -0.9571308493614197, -0.5733593106269836, 1.3441169261932373, 0.7803568243980408,
      0.2616279721260071, 0.39878708124160767, -0.05549447238445282, 0.4044676125049591
    };
    boolean[] equal = {false, true, false, true, false, false, false, false};
    int[] order = {0, 2, 4, 5, 6, 7, 1, 3};
    boolean v0 = name.equals("v0");
    LogitNormal lawT = v0 ? new LogitNormal(-2, 2) : new LogitNormal(-0.6, 1.6);
    LogitNormal lawR = v0 ? new LogitNormal(-2, 2) : new LogitNormal(-4, 1.6);
    double[] t =
        v0
            ? new double[] {
              0.12789318361445942, 0.044908290962705065, 0.6655739233253167, 0.3919110306074972,
              0.1861346992311154, 0.2310439546272245, 0.10803333298890545, 0.23306855570093024
            }
            : new double[] {
              0.36917139037648017, 0.1906568237211099, 0.1980855251662014, 0.6170794094679587,
              0.45505677625252805, 0.46697412167226743, 0.12223433852960683, 0.019676919883478722
            };
    double[] r =
        v0
            ? new double[] {
              0.01956485414563769, 0.044908290962705065, 0.047521791715361514, 0.3919110306074972,
              0.18591971422311065, 0.19538842165899023, 0.023792620817566806, 0.002159870563548803
            }
            : new double[] {
              0.003944780600727114, 0.1906568237211099, 0.13594184188553712, 0.6170794094679587,
              0.02708292901422769, 0.033506320382163356, 0.016483230531631757, 0.019676919883478722
            };
    Pairing pairing = v0 ? Pairing.MAX_MIN : Pairing.INDEPENDENT_THEN_MIN;
    TimePairs pairs =
        new TimePairSampler(lawT, lawR, pairing, 0.25, EqualCount.BERNOULLI)
            .pair(
                Arrays.stream(normalT).map(lawT::fromNormal).toArray(),
                Arrays.stream(normalR).map(lawR::fromNormal).toArray(),
                equal);
    assertThat(pairs.distinct()).isEqualTo(6);
    assertClose(pairs.t(), IntStream.of(order).mapToDouble(i -> t[i]).toArray(), 1e-12);
    assertClose(pairs.r(), IntStream.of(order).mapToDouble(i -> r[i]).toArray(), 1e-12);
  }

  @Test
  void sampleIsAFunctionOfTheStream() {
    TimePairs first = TimePairSampler.paper().sample(16, stream());
    TimePairs second = TimePairSampler.paper().sample(16, stream());
    assertThat(first.r()).isEqualTo(second.r());
    assertThat(first.t()).isEqualTo(second.t());
  }

  @Test
  void refusesWhatIsOutOfRange() {
    for (double bad : new double[] {-0.1, 1.1, Double.NaN}) {
      assertThatThrownBy(
              () ->
                  new TimePairSampler(PAPER_LAW, PAPER_LAW, Pairing.MAX_MIN, bad, EqualCount.EXACT))
          .hasMessage("fractionEqual must be in [0, 1], got " + bad);
    }
    assertThatThrownBy(() -> TimePairSampler.paper().sample(0, stream()))
        .hasMessage("batch must be > 0, got 0");
    assertThatThrownBy(
            () -> TimePairSampler.paper().pair(new double[2], new double[1], new boolean[2]))
        .hasMessage("a, b and equal must have the same length, got 2, 1, 2");
  }

  private static void assertMoments(double[] values, double mean, double variance) {
    double m = Arrays.stream(values).average().orElse(Double.NaN);
    double v = Arrays.stream(values).map(x -> (x - m) * (x - m)).average().orElse(Double.NaN);
    assertClose(m, mean, 5 * Math.sqrt(variance / values.length));
    assertClose(v / variance, 1, 5 * Math.sqrt(3.0 / values.length));
  }

  private static double shareBelow(double[] values, double bound) {
    return (double) Arrays.stream(values).filter(x -> x <= bound).count() / values.length;
  }

  private static RandomStream stream() {
    return new RandomStream(20250519, 0, Purpose.TIME);
  }
}
