package org.meanflow.nn.engine.cuda;

import static java.lang.constant.ConstantDescs.CD_MethodHandle;
import static java.lang.constant.ConstantDescs.CD_MethodHandles_Lookup;
import static java.lang.constant.ConstantDescs.CD_Object;
import static java.lang.constant.ConstantDescs.CD_String;
import static java.lang.constant.ConstantDescs.CD_int;

import java.lang.classfile.ClassFile;
import java.lang.classfile.TypeKind;
import java.lang.constant.ClassDesc;
import java.lang.constant.ConstantDesc;
import java.lang.constant.ConstantDescs;
import java.lang.constant.DirectMethodHandleDesc;
import java.lang.constant.DynamicConstantDesc;
import java.lang.constant.MethodHandleDesc;
import java.lang.constant.MethodTypeDesc;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.lang.reflect.AccessFlag;
import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;

/**
 * Turns an interface that reads like a C header into calls of a library: each method is the
 * function of its name. {@code int} is a C int or enum, {@code long} a 64-bit integer, a size or a
 * pointer, {@code float} a float.
 *
 * <p>The class behind the interface holds its method handles as constants, so that a call costs no
 * more than a hand-written one, boxes nothing and allocates nothing.
 */
final class NativeApi {
  private static final DirectMethodHandleDesc CLASS_DATA_AT =
      MethodHandleDesc.ofMethod(
          DirectMethodHandleDesc.Kind.STATIC,
          ClassDesc.of(MethodHandles.class.getName()),
          "classDataAt",
          MethodTypeDesc.of(
              CD_Object, CD_MethodHandles_Lookup, CD_String, ConstantDescs.CD_Class, CD_int));

  private NativeApi() {}

  /**
   * The functions of a library.
   *
   * @param api an interface of this package
   * @param library where they are looked up
   * @param what the library, as an error message should name it
   * @throws CudaException if the library lacks a function, naming all that it lacks
   */
  static <T> T bind(Class<T> api, SymbolLookup library, String what) {
    Method[] functions = api.getDeclaredMethods();
    Arrays.sort(functions, Comparator.comparing(Method::getName));
    List<String> missing = new ArrayList<>();
    List<MethodHandle> handles = new ArrayList<>();
    for (Method function : functions) {
      MemorySegment symbol = library.find(function.getName()).orElse(MemorySegment.NULL);
      if (symbol.equals(MemorySegment.NULL)) {
        missing.add(function.getName());
      } else {
        handles.add(Linker.nativeLinker().downcallHandle(symbol, descriptor(function)));
      }
    }
    if (!missing.isEmpty()) {
      throw new CudaException(
          "%s is too old or not the library it should be: it has no %s"
              .formatted(what, String.join(", ", missing)));
    }
    try {
      MethodHandles.Lookup bound =
          MethodHandles.lookup()
              .defineHiddenClassWithClassData(classFile(api, functions), handles, true);
      return api.cast(
          bound.findConstructor(bound.lookupClass(), MethodType.methodType(void.class)).invoke());
    } catch (Throwable e) {
      throw new LinkageError("cannot bind " + api.getName(), e);
    }
  }

  private static FunctionDescriptor descriptor(Method function) {
    MemoryLayout[] parameters =
        Arrays.stream(function.getParameterTypes())
            .map(NativeApi::layout)
            .toArray(MemoryLayout[]::new);
    return FunctionDescriptor.of(layout(function.getReturnType()), parameters);
  }

  private static MemoryLayout layout(Class<?> type) {
    if (type == int.class) {
      return ValueLayout.JAVA_INT;
    }
    if (type == long.class) {
      return ValueLayout.JAVA_LONG;
    }
    if (type == float.class) {
      return ValueLayout.JAVA_FLOAT;
    }
    throw new IllegalArgumentException("no C type for " + type);
  }

  private static byte[] classFile(Class<?> api, Method[] functions) {
    ClassDesc name = ClassDesc.of(api.getName() + "Functions");
    return ClassFile.of()
        .build(
            name,
            type -> {
              type.withFlags(AccessFlag.FINAL, AccessFlag.SUPER);
              type.withInterfaceSymbols(ClassDesc.of(api.getName()));
              type.withMethodBody(
                  ConstantDescs.INIT_NAME,
                  ConstantDescs.MTD_void,
                  0,
                  code ->
                      code.aload(0)
                          .invokespecial(CD_Object, ConstantDescs.INIT_NAME, ConstantDescs.MTD_void)
                          .return_());
              for (int i = 0; i < functions.length; i++) {
                MethodTypeDesc signature = signature(functions[i]);
                ConstantDesc handle =
                    DynamicConstantDesc.ofNamed(
                        CLASS_DATA_AT, ConstantDescs.DEFAULT_NAME, CD_MethodHandle, i);
                type.withMethodBody(
                    functions[i].getName(),
                    signature,
                    ClassFile.ACC_PUBLIC,
                    code -> {
                      code.loadConstant(handle);
                      for (int p = 0; p < signature.parameterCount(); p++) {
                        code.loadLocal(
                            TypeKind.from(signature.parameterType(p)), code.parameterSlot(p));
                      }
                      code.invokevirtual(CD_MethodHandle, "invokeExact", signature)
                          .return_(TypeKind.from(signature.returnType()));
                    });
              }
            });
  }

  private static MethodTypeDesc signature(Method function) {
    return MethodType.methodType(function.getReturnType(), function.getParameterTypes())
        .describeConstable()
        .orElseThrow();
  }
}
