package org.meanflow.core.oracle;

/** A number and its derivative along one direction: forward-mode differentiation of a scalar. */
record Dual(double value, double tangent) {

  static Dual constant(double value) {
    return new Dual(value, 0);
  }

  Dual plus(Dual other) {
    return new Dual(value + other.value, tangent + other.tangent);
  }

  Dual minus(Dual other) {
    return new Dual(value - other.value, tangent - other.tangent);
  }

  Dual times(Dual other) {
    return new Dual(value * other.value, value * other.tangent + tangent * other.value);
  }

  Dual times(double factor) {
    return new Dual(value * factor, tangent * factor);
  }
}
