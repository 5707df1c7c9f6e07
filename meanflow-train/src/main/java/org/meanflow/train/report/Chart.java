package org.meanflow.train.report;

import java.awt.BasicStroke;
import java.awt.Color;
import java.awt.Font;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Locale;
import java.util.regex.Pattern;
import java.util.stream.DoubleStream;
import java.util.stream.IntStream;
import org.knowm.xchart.VectorGraphicsEncoder;
import org.knowm.xchart.VectorGraphicsEncoder.VectorGraphicsFormat;
import org.knowm.xchart.XYChart;
import org.knowm.xchart.XYSeries;
import org.knowm.xchart.XYSeries.XYSeriesRenderStyle;
import org.knowm.xchart.style.XYStyler;
import org.knowm.xchart.style.lines.SeriesLines;
import org.knowm.xchart.style.markers.SeriesMarkers;
import org.meanflow.train.run.Metric;

/**
 * A curve as an SVG element to stand in a page: the medians of the bins as a line, what lies
 * between their extremes as a band, and what the guard did as vertical lines. The page gives it its
 * colours, by the variables {@code --line}, {@code --band}, {@code --mark}, {@code --grid} and
 * {@code --ticks}, and is told by {@code data-left} and {@code data-right} where the first and the
 * last bin are.
 */
final class Chart {
  private static final int WIDTH = 440;
  private static final int HEIGHT = 240;
  private static final int FONT_SIZE = 12;
  private static final float LINE_WIDTH = 1.6f;

  /** Where values span a larger factor, the axis is logarithmic: small ones would be lost. */
  private static final double LINEAR_SPAN = 50;

  /** Labels would stand at data points instead of round numbers if these were evenly spaced. */
  private static final double UNEVEN = 1e-3;

  /** Stand for the variables below while the chart is drawn. */
  private static final Color[] COLORS =
      IntStream.range(0, 6).mapToObj(i -> new Color(i, i, i)).toArray(Color[]::new);

  private static final String[] VARIABLES = {
    "none", "var(--grid)", "var(--ticks)", "var(--band)", "var(--line)", "var(--mark)"
  };
  private static final Pattern COLOR = Pattern.compile("rgb\\(([0-5]),\\1,\\1\\)");

  /** A hundredth of a pixel is enough; the encoder writes up to 17 digits. */
  private static final Pattern LONG_FRACTION = Pattern.compile("(\\.[0-9]{2})[0-9]+");

  private Chart() {}

  /**
   * Draws a curve.
   *
   * @param metric what is drawn; its name begins the identifiers in the element
   * @param steps where the bins are, ascending
   * @param band the values; at least one is finite
   * @param shaded whether there is a band around the line
   * @param marks the bins in which the guard did something
   */
  static String svg(Metric metric, double[] steps, Bins.Band band, boolean shaded, int[] marks)
      throws IOException {
    XYChart chart = new XYChart(WIDTH, HEIGHT);
    style(chart.getStyler());
    double[] x = steps.clone();
    x[x.length - 1] += UNEVEN;
    double[] extremes = shaded ? concat(band.low(), band.high()) : band.median();
    scale(chart.getStyler(), metric.logarithmic(), extremes);
    if (marks.length > 0) {
      mark(chart, pick(x, marks), extremes);
    }
    if (shaded) {
      int[] ahead =
          IntStream.range(0, x.length).filter(i -> Double.isFinite(band.low()[i])).toArray();
      int[] back =
          IntStream.rangeClosed(1, ahead.length).map(i -> ahead[ahead.length - i]).toArray();
      XYSeries area =
          chart.addSeries(
              "band",
              concat(pick(x, ahead), pick(x, back)),
              concat(pick(band.high(), ahead), pick(band.low(), back)));
      area.setXYSeriesRenderStyle(XYSeriesRenderStyle.PolygonArea);
      area.setMarker(SeriesMarkers.NONE).setLineStyle(SeriesLines.NONE).setFillColor(COLORS[3]);
    }
    XYSeries line = chart.addSeries("median", x, band.median());
    line.setMarker(SeriesMarkers.NONE).setLineColor(COLORS[4]).setLineWidth(LINE_WIDTH);
    return inline(metric.name(), chart, x);
  }

  /** Lines from the lowest value to the highest. */
  private static void mark(XYChart chart, double[] at, double[] values) {
    double low = finite(values).min().orElse(0);
    double high = finite(values).max().orElse(1);
    XYSeries lines =
        chart.addSeries(
            "guard",
            Arrays.stream(at).flatMap(x -> DoubleStream.of(x, x, x)).toArray(),
            Arrays.stream(at).flatMap(_ -> DoubleStream.of(low, high, Double.NaN)).toArray());
    lines.setMarker(SeriesMarkers.NONE).setLineColor(COLORS[5]).setLineWidth(1);
    lines.setLineStyle(SeriesLines.SOLID);
  }

  private static void style(XYStyler styler) {
    styler.setLegendVisible(false);
    styler.setChartTitleVisible(false);
    styler.setChartPadding(4);
    styler.setChartBackgroundColor(COLORS[0]);
    styler.setPlotBackgroundColor(COLORS[0]);
    styler.setPlotBorderVisible(false);
    styler.setPlotContentSize(0.98);
    styler.setAxisTitlesVisible(false);
    styler.setAxisTicksLineVisible(false);
    styler.setAxisTicksMarksVisible(false);
    styler.setAxisTickLabelsFont(new Font(Font.SANS_SERIF, Font.PLAIN, FONT_SIZE));
    styler.setXAxisTickLabelsColor(COLORS[2]);
    styler.setYAxisTickLabelsColor(COLORS[2]);
    styler.setPlotGridVerticalLinesVisible(false);
    styler.setPlotGridLinesColor(COLORS[1]);
    styler.setPlotGridLinesStroke(new BasicStroke(1));
    styler.setXAxisMin(0.0);
    styler.setXAxisTickMarkSpacingHint(80);
    styler.setXAxisDecimalPattern("#,##0.##");
  }

  private static void scale(XYStyler styler, boolean mayBeLogarithmic, double[] values) {
    double low = finite(values).min().orElse(0);
    double high = finite(values).max().orElse(1);
    if (low == high) { // an axis needs some length
      double margin = low == 0 ? 1 : Math.abs(low) / 2;
      styler.setYAxisMin(low - margin).setYAxisMax(high + margin);
    }
    if (mayBeLogarithmic && low > 0 && high / low > LINEAR_SPAN) {
      styler.setYAxisLogarithmic(true); // whose ticks a formatting function would put elsewhere
    } else {
      styler.setyAxisTickLabelsFormattingFunction(Numbers::round);
    }
  }

  private static DoubleStream finite(double[] values) {
    return Arrays.stream(values).filter(Double::isFinite);
  }

  private static double[] pick(double[] values, int[] indices) {
    return Arrays.stream(indices).mapToDouble(i -> values[i]).toArray();
  }

  private static double[] concat(double[] first, double[] second) {
    return DoubleStream.concat(Arrays.stream(first), Arrays.stream(second)).toArray();
  }

  /** Without the prologue of a file and a size of its own, and with names of its own. */
  private static String inline(String name, XYChart chart, double[] x) throws IOException {
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    VectorGraphicsEncoder.saveVectorGraphic(chart, out, VectorGraphicsFormat.SVG);
    String file = out.toString(StandardCharsets.UTF_8);
    String element = file.substring(file.indexOf("<svg"));
    String body = element.substring(element.indexOf('>') + 1);
    body = body.replaceAll("(id=\"|url\\(#)clip", "$1" + name + "-clip");
    body = body.replaceAll(">\\s+<", "><");
    body = LONG_FRACTION.matcher(body).replaceAll("$1");
    body = COLOR.matcher(body).replaceAll(color -> VARIABLES[Integer.parseInt(color.group(1))]);
    return String.format(
        Locale.ROOT,
        "<svg viewBox=\"0 0 %d %d\" data-metric=\"%s\" data-left=\"%.1f\" data-right=\"%.1f\""
            + " aria-hidden=\"true\">%s",
        WIDTH,
        HEIGHT,
        name,
        chart.getScreenXFromChart(x[0]),
        chart.getScreenXFromChart(x[x.length - 1]),
        body);
  }
}
