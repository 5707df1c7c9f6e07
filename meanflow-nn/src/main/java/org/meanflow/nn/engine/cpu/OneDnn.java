package org.meanflow.nn.engine.cpu;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.nio.file.Path;
import java.util.List;
import org.bytedeco.javacpp.Loader;
import org.jspecify.annotations.Nullable;
import org.slf4j.LoggerFactory;

/**
 * The C functions of oneDNN that this engine calls, from the library in the {@code
 * org.bytedeco:dnnl} artifact. A failed call is an exception that names it.
 *
 * <p>oneDNN never starts threads here: each of our threads calls it for a part of the work, after
 * {@link #useOneThread}. So there is one pool of threads, and none that spins beside it.
 */
final class OneDnn {
  /** {@code dnnl_data_type_t}. */
  static final int BF16 = 2;

  /** {@code dnnl_data_type_t}. */
  static final int F32 = 3;

  /** {@code DNNL_ARG_…}. */
  static final int SRC = 1;

  /** {@code DNNL_ARG_…}. */
  static final int DST = 17;

  /** {@code DNNL_ARG_…}. */
  static final int WEIGHTS = 33;

  /** {@code DNNL_ARG_…}. */
  static final int BIAS = 41;

  /** {@code DNNL_ARG_…}. */
  static final int SCRATCHPAD = 80;

  /** {@code dnnl_query_t}. */
  static final int QUERY_WEIGHTS = 131;

  /** {@code dnnl_query_t}. */
  static final int QUERY_SCRATCHPAD = 136;

  private static final int TAG_ANY = 1;
  private static final int ENGINE_CPU = 1;
  private static final int STREAM_IN_ORDER = 1;
  private static final int SCRATCHPAD_BY_USER = 1;

  /** Bits of {@code dnnl_cpu_isa_t} that stand for AVX-512 with bfloat16. */
  private static final int ISA_BF16 = 0xe7;

  /** Bits of {@code dnnl_cpu_isa_t} that stand for AMX. */
  private static final int ISA_AMX = 0xfef;

  private static final Linker LINKER = Linker.nativeLinker();
  private static final @Nullable SymbolLookup LIBRARY = open();

  private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT;
  private static final ValueLayout.OfLong WORD = ValueLayout.JAVA_LONG;

  private static final MethodHandle ENGINE_CREATE = call("dnnl_engine_create", WORD, INT, WORD);
  private static final MethodHandle STREAM_CREATE = call("dnnl_stream_create", WORD, WORD, INT);
  private static final MethodHandle MD_STRIDES =
      call("dnnl_memory_desc_create_with_strides", WORD, INT, WORD, INT, WORD);
  private static final MethodHandle MD_TAG =
      call("dnnl_memory_desc_create_with_tag", WORD, INT, WORD, INT, INT);
  private static final MethodHandle MATMUL_PD =
      call("dnnl_matmul_primitive_desc_create", WORD, WORD, WORD, WORD, WORD, WORD, WORD);
  private static final MethodHandle REORDER_PD =
      call("dnnl_reorder_primitive_desc_create", WORD, WORD, WORD, WORD, WORD, WORD);
  private static final MethodHandle PRIMITIVE_CREATE = call("dnnl_primitive_create", WORD, WORD);
  private static final MethodHandle MEMORY_CREATE =
      call("dnnl_memory_create", WORD, WORD, WORD, WORD);
  private static final MethodHandle ATTR_CREATE = call("dnnl_primitive_attr_create", WORD);
  private static final MethodHandle ATTR_SCRATCHPAD =
      call("dnnl_primitive_attr_set_scratchpad_mode", WORD, INT);
  private static final MethodHandle ATTR_POST_OPS =
      call("dnnl_primitive_attr_set_post_ops", WORD, WORD);
  private static final MethodHandle POST_OPS_CREATE = call("dnnl_post_ops_create", WORD);
  private static final MethodHandle POST_OPS_SUM =
      call("dnnl_post_ops_append_sum", WORD, ValueLayout.JAVA_FLOAT, INT, INT);
  private static final MethodHandle SET_HANDLE = call("dnnl_memory_set_data_handle", WORD, WORD);
  private static final MethodHandle EXECUTE = call("dnnl_primitive_execute", WORD, WORD, INT, WORD);
  private static final @Nullable MethodHandle QUERY_MD =
      find("dnnl_primitive_desc_query_md", FunctionDescriptor.of(WORD, WORD, INT, INT));
  private static final @Nullable MethodHandle MD_SIZE =
      find("dnnl_memory_desc_get_size", FunctionDescriptor.of(WORD, WORD));
  private static final @Nullable MethodHandle ISA =
      find("dnnl_get_effective_cpu_isa", FunctionDescriptor.of(INT));
  private static final @Nullable MethodHandle VERSION =
      find("dnnl_version", FunctionDescriptor.of(ValueLayout.ADDRESS));
  private static final @Nullable MethodHandle OMP_SET_NUM_THREADS =
      find("omp_set_num_threads", FunctionDescriptor.ofVoid(INT));

  /** The CPU as oneDNN's device; made on first use. */
  private static final class Cpu {
    static final long ENGINE =
        create(out -> (int) ENGINE_CREATE.invokeExact(out, ENGINE_CPU, 0L), "dnnl_engine_create");
    static final long STREAM =
        create(
            out -> (int) STREAM_CREATE.invokeExact(out, ENGINE, STREAM_IN_ORDER),
            "dnnl_stream_create");
  }

  private OneDnn() {}

  /** {@return whether the library is on the class path and has been loaded} */
  static boolean available() {
    return LIBRARY != null;
  }

  /** {@return whether the CPU multiplies bfloat16 numbers (AVX-512-BF16 or AMX)} */
  static boolean hasBf16() {
    return available() && (isa() & ISA_BF16) == ISA_BF16;
  }

  /** {@return whether products of bfloat16 factors run on AMX} */
  static boolean hasAmx() {
    return available() && (isa() & ISA_AMX) == ISA_AMX;
  }

  /** {@return version and instruction set, for people} */
  static String description() {
    if (!available()) {
      return "no oneDNN";
    }
    try {
      MemorySegment version = (MemorySegment) must(VERSION).invokeExact();
      version = version.reinterpret(3 * INT.byteSize());
      String isa =
          switch (isa()) {
            case 0x7 -> "AVX2";
            case 0xf, 0x1f -> "AVX2-VNNI";
            case 0x27, 0x67 -> "AVX-512";
            case 0xe7 -> "AVX-512-BF16";
            case 0x1ef -> "AVX-512-FP16";
            case 0xfef, 0x1fef, 0x22fff -> "AMX";
            default -> "instruction set 0x" + Integer.toHexString(isa());
          };
      return "oneDNN %d.%d.%d with %s"
          .formatted(
              version.getAtIndex(INT, 0),
              version.getAtIndex(INT, 1),
              version.getAtIndex(INT, 2),
              isa);
    } catch (Throwable e) {
      throw failed("dnnl_version", e);
    }
  }

  private static int isa() {
    try {
      return (int) must(ISA).invokeExact();
    } catch (Throwable e) {
      throw failed("dnnl_get_effective_cpu_isa", e);
    }
  }

  /** Makes this thread's calls run on this thread alone. */
  static void useOneThread() {
    MethodHandle set = OMP_SET_NUM_THREADS;
    if (set != null) {
      try {
        set.invokeExact(1);
      } catch (Throwable e) {
        throw failed("omp_set_num_threads", e);
      }
    }
  }

  /** A matrix {@code [rows, columns]} with strides in elements. */
  static long matrix(int type, long rows, long columns, long rowStride, long columnStride) {
    return strided(type, new long[] {rows, columns}, new long[] {rowStride, columnStride});
  }

  /** Matrices {@code [batch, rows, columns]} with strides in elements. */
  static long matrices(
      int type,
      long batch,
      long rows,
      long columns,
      long batchStride,
      long rowStride,
      long columnStride) {
    return strided(
        type, new long[] {batch, rows, columns}, new long[] {batchStride, rowStride, columnStride});
  }

  private static long strided(int type, long[] shape, long[] elements) {
    try (Arena arena = Arena.ofConfined()) {
      long dims = arena.allocateFrom(WORD, shape).address();
      long strides = arena.allocateFrom(WORD, elements).address();
      return create(
          out -> (int) MD_STRIDES.invokeExact(out, shape.length, dims, type, strides),
          "dnnl_memory_desc_create_with_strides");
    }
  }

  /** A matrix whose layout the primitive chooses. */
  static long anyMatrix(int type, long rows, long columns) {
    try (Arena arena = Arena.ofConfined()) {
      long dims = arena.allocateFrom(WORD, rows, columns).address();
      return create(
          out -> (int) MD_TAG.invokeExact(out, 2, dims, type, TAG_ANY),
          "dnnl_memory_desc_create_with_tag");
    }
  }

  /** Attributes: scratch memory from us, and optionally dst += product. */
  static long attributes(boolean add, int dstType) {
    long attributes =
        create(out -> (int) ATTR_CREATE.invokeExact(out), "dnnl_primitive_attr_create");
    check(
        "dnnl_primitive_attr_set_scratchpad_mode",
        () -> (int) ATTR_SCRATCHPAD.invokeExact(attributes, SCRATCHPAD_BY_USER));
    if (add) {
      long postOps = create(out -> (int) POST_OPS_CREATE.invokeExact(out), "dnnl_post_ops_create");
      check(
          "dnnl_post_ops_append_sum",
          () -> (int) POST_OPS_SUM.invokeExact(postOps, 1f, 0, dstType));
      check(
          "dnnl_primitive_attr_set_post_ops",
          () -> (int) ATTR_POST_OPS.invokeExact(attributes, postOps));
    }
    return attributes;
  }

  /** A product; {@code bias} may be 0. */
  static long matmul(long src, long weights, long bias, long dst, long attributes) {
    return create(
        out -> (int) MATMUL_PD.invokeExact(out, Cpu.ENGINE, src, weights, bias, dst, attributes),
        "dnnl_matmul_primitive_desc_create");
  }

  /** A change of layout and type. */
  static long reorder(long src, long dst, long attributes) {
    return create(
        out -> (int) REORDER_PD.invokeExact(out, src, Cpu.ENGINE, dst, Cpu.ENGINE, attributes),
        "dnnl_reorder_primitive_desc_create");
  }

  /** A memory descriptor that a primitive has chosen. */
  static long query(long description, int what) {
    try {
      return (long) must(QUERY_MD).invokeExact(description, what, 0);
    } catch (Throwable e) {
      throw failed("dnnl_primitive_desc_query_md", e);
    }
  }

  /** The bytes that a descriptor covers. */
  static long size(long matrix) {
    try {
      return (long) must(MD_SIZE).invokeExact(matrix);
    } catch (Throwable e) {
      throw failed("dnnl_memory_desc_get_size", e);
    }
  }

  /** Compiles a primitive for this thread's number of threads. */
  static long primitive(long description) {
    return create(
        out -> (int) PRIMITIVE_CREATE.invokeExact(out, description), "dnnl_primitive_create");
  }

  /** A memory object on no memory yet. */
  static long memory(long matrix) {
    return create(
        out -> (int) MEMORY_CREATE.invokeExact(out, matrix, Cpu.ENGINE, 0L), "dnnl_memory_create");
  }

  /** Points a memory object to an address. */
  static void point(long memory, long address) {
    try {
      check("dnnl_memory_set_data_handle", (int) SET_HANDLE.invokeExact(memory, address));
    } catch (Throwable e) {
      throw failed("dnnl_memory_set_data_handle", e);
    }
  }

  /**
   * A list of arguments for {@link #execute}, {@code dnnl_exec_arg_t}: an int, padding, a memory.
   *
   * @param kinds {@code DNNL_ARG_…} of each
   * @param memories memory object of each
   * @return its address; it lives as long as the process
   */
  static long arguments(int[] kinds, long[] memories) {
    long bytes = 2L * Long.BYTES;
    MemorySegment list = Arena.global().allocate(kinds.length * bytes, Long.BYTES);
    for (int i = 0; i < kinds.length; i++) {
      list.set(INT, i * bytes, kinds[i]);
      list.set(WORD, i * bytes + Long.BYTES, memories[i]);
    }
    return list.address();
  }

  /** Runs a primitive on a list of {@code count} {@link #arguments}. */
  static void execute(long primitive, int count, long arguments) {
    try {
      check(
          "dnnl_primitive_execute",
          (int) EXECUTE.invokeExact(primitive, Cpu.STREAM, count, arguments));
    } catch (Throwable e) {
      throw failed("dnnl_primitive_execute", e);
    }
  }

  @FunctionalInterface
  private interface Creation {
    int into(long address) throws Throwable;
  }

  @FunctionalInterface
  private interface Call {
    int run() throws Throwable;
  }

  private static long create(Creation creation, String name) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment result = arena.allocate(WORD);
      check(name, creation.into(result.address()));
      return result.get(WORD, 0);
    } catch (Throwable e) {
      throw failed(name, e);
    }
  }

  private static void check(String name, Call call) {
    try {
      check(name, call.run());
    } catch (Throwable e) {
      throw failed(name, e);
    }
  }

  private static void check(String name, int status) {
    if (status != 0) {
      String text =
          switch (status) {
            case 1 -> "out of memory";
            case 2 -> "invalid arguments";
            case 3 -> "unimplemented";
            default -> "status " + status;
          };
      throw new IllegalStateException(name + ": " + text);
    }
  }

  private static RuntimeException failed(String name, Throwable e) {
    return switch (e) {
      case RuntimeException runtime -> runtime;
      case Error error -> throw error;
      default -> new IllegalStateException(name + " failed", e);
    };
  }

  /** A function that returns a status. */
  private static MethodHandle call(String name, ValueLayout... arguments) {
    MethodHandle handle = find(name, FunctionDescriptor.of(INT, arguments));
    return handle != null ? handle : missing(name, arguments);
  }

  /** Stands in where there is no library; never called, since {@link #available} says so. */
  private static MethodHandle missing(String name, ValueLayout... arguments) {
    MethodHandle thrower =
        MethodHandles.throwException(int.class, IllegalStateException.class)
            .bindTo(new IllegalStateException(name + ": oneDNN is not on the class path"));
    Class<?>[] types = new Class<?>[arguments.length];
    for (int i = 0; i < types.length; i++) {
      types[i] = arguments[i].carrier();
    }
    return MethodHandles.dropArguments(thrower, 0, types);
  }

  private static @Nullable MethodHandle find(String name, FunctionDescriptor type) {
    SymbolLookup library = LIBRARY;
    return library == null
        ? null
        : library.find(name).map(symbol -> LINKER.downcallHandle(symbol, type)).orElse(null);
  }

  private static MethodHandle must(@Nullable MethodHandle handle) {
    if (handle == null) {
      throw new IllegalStateException("oneDNN is not on the class path");
    }
    return handle;
  }

  /** The library and the OpenMP runtime beside it, unpacked by JavaCPP. */
  private static @Nullable SymbolLookup open() {
    String platform = Loader.getPlatform();
    String folder = "/org/bytedeco/dnnl/" + platform + "/";
    List<String> names =
        platform.startsWith("windows")
            ? List.of("dnnl.dll")
            : platform.startsWith("macosx")
                ? List.of("libiomp5.dylib", "libomp.dylib", "libdnnl.3.dylib")
                : List.of("libgomp.so.1", "libdnnl.so.3");
    SymbolLookup lookup = null;
    try {
      for (String name : names) {
        if (OneDnn.class.getResource(folder + name) == null) {
          continue;
        }
        Path file = Loader.cacheResource(folder + name).toPath();
        SymbolLookup library = SymbolLookup.libraryLookup(file, Arena.global());
        lookup = lookup == null ? library : library.or(lookup);
      }
    } catch (IOException | IllegalArgumentException e) {
      LoggerFactory.getLogger(OneDnn.class).warn("oneDNN cannot be loaded: {}", e.toString());
      return null;
    }
    return OneDnn.class.getResource(folder + names.getLast()) == null ? null : lookup;
  }
}
