package org.meanflow.nn.weights;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;

/** Data types of safetensors that can be read and written; all little endian. */
public enum Dtype {
  /** IEEE 754 binary64. */
  F64(8, true),
  /** IEEE 754 binary32. */
  F32(4, true),
  /** IEEE 754 binary16. */
  F16(2, true),
  /** bfloat16: the upper half of a binary32. */
  BF16(2, true),
  /** Signed 64-bit integer. */
  I64(8, false),
  /** Signed 32-bit integer. */
  I32(4, false),
  /** Signed 16-bit integer. */
  I16(2, false),
  /** Signed 8-bit integer. */
  I8(1, false),
  /** Unsigned 8-bit integer. */
  U8(1, false),
  /** One byte, 0 for false; read as true if it is anything else. */
  BOOL(1, false);

  // Offsets in a file need not be aligned: the header may have any length.
  static final ValueLayout.OfDouble DOUBLE =
      ValueLayout.JAVA_DOUBLE_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
  static final ValueLayout.OfFloat FLOAT =
      ValueLayout.JAVA_FLOAT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
  static final ValueLayout.OfLong LONG =
      ValueLayout.JAVA_LONG_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
  private static final ValueLayout.OfInt INT =
      ValueLayout.JAVA_INT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
  private static final ValueLayout.OfShort SHORT =
      ValueLayout.JAVA_SHORT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);

  private final int bytes;
  private final boolean floating;

  Dtype(int bytes, boolean floating) {
    this.bytes = bytes;
    this.floating = floating;
  }

  /** {@return the size of one element in bytes} */
  public int bytes() {
    return bytes;
  }

  /** {@return whether this is a floating-point type, as opposed to an integer or boolean} */
  public boolean isFloating() {
    return floating;
  }

  /**
   * An element of a floating type, exact.
   *
   * @param data elements of this type, little endian, of any alignment
   * @param i which, counted from 0
   * @return its value
   * @throws IllegalStateException if the type is not floating
   */
  public double getFloating(MemorySegment data, long i) {
    return switch (this) {
      case F64 -> data.get(DOUBLE, 8 * i);
      case F32 -> data.get(FLOAT, 4 * i);
      case F16 -> Float.float16ToFloat(data.get(SHORT, 2 * i));
      case BF16 -> Float.intBitsToFloat(data.get(SHORT, 2 * i) << 16);
      case I64, I32, I16, I8, U8, BOOL ->
          throw new IllegalStateException(this + " is not floating");
    };
  }

  /** Sets element {@code i} of a floating type, rounded to nearest, ties to even. */
  void setFloating(MemorySegment data, long i, double value) {
    switch (this) {
      case F64 -> data.set(DOUBLE, 8 * i, value);
      case F32 -> data.set(FLOAT, 4 * i, (float) value);
      case F16 -> data.set(SHORT, 2 * i, Float.floatToFloat16((float) value));
      case BF16 -> data.set(SHORT, 2 * i, toBfloat16((float) value));
      case I64, I32, I16, I8, U8, BOOL ->
          throw new IllegalStateException(this + " is not floating");
    }
  }

  /**
   * An element of an integer or boolean type, exact.
   *
   * @param data elements of this type, little endian, of any alignment
   * @param i which, counted from 0
   * @return its value; 0 or 1 for a boolean
   * @throws IllegalStateException if the type is floating
   */
  public long getInteger(MemorySegment data, long i) {
    return switch (this) {
      case I64 -> data.get(LONG, 8 * i);
      case I32 -> data.get(INT, 4 * i);
      case I16 -> data.get(SHORT, 2 * i);
      case I8 -> data.get(ValueLayout.JAVA_BYTE, i);
      case U8 -> Byte.toUnsignedLong(data.get(ValueLayout.JAVA_BYTE, i));
      case BOOL -> data.get(ValueLayout.JAVA_BYTE, i) == 0 ? 0 : 1;
      case F64, F32, F16, BF16 -> throw new IllegalStateException(this + " is floating");
    };
  }

  /** Sets element {@code i} of an integer or boolean type to a value that it {@link #holds}. */
  void setInteger(MemorySegment data, long i, long value) {
    switch (this) {
      case I64 -> data.set(LONG, 8 * i, value);
      case I32 -> data.set(INT, 4 * i, (int) value);
      case I16 -> data.set(SHORT, 2 * i, (short) value);
      case I8, U8, BOOL -> data.set(ValueLayout.JAVA_BYTE, i, (byte) value);
      case F64, F32, F16, BF16 -> throw new IllegalStateException(this + " is floating");
    }
  }

  /** Whether the range of an integer or boolean type includes a value. */
  boolean holds(long value) {
    return switch (this) {
      case I64 -> true;
      case I32 -> value == (int) value;
      case I16 -> value == (short) value;
      case I8 -> value == (byte) value;
      case U8 -> value >>> 8 == 0;
      case BOOL -> value >>> 1 == 0;
      case F64, F32, F16, BF16 -> false;
    };
  }

  private static short toBfloat16(float value) {
    int bits = Float.floatToRawIntBits(value);
    if (Float.isNaN(value)) {
      return (short) (bits >>> 16 | 0x40); // stays NaN although the lower half is cut off
    }
    return (short) ((bits + 0x7FFF + (bits >>> 16 & 1)) >>> 16);
  }
}
