package org.meanflow.train.recipe;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.ParameterizedType;
import java.lang.reflect.RecordComponent;
import java.lang.reflect.Type;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/**
 * Turns a tree of keys and values into records and back. The components of a record are its keys: a
 * key that is no component is an error, and so is a component without a key unless it is {@link
 * Nullable} or has a {@link Default}. A list may be given as its only element. Values are never
 * converted, except integers to {@code double}; constants of an enum are written in lower case with
 * hyphens. Data binding by Jackson has all these rules too, but messages that show classes rather
 * than keys.
 */
final class RecordBinder {
  private static final ObjectMapper JSON = new ObjectMapper();

  private final String source;

  /**
   * Creates a binder.
   *
   * @param source where the tree comes from, for messages
   */
  RecordBinder(String source) {
    this.source = source;
  }

  /**
   * Makes a record.
   *
   * @param path key path of the tree; empty for a whole recipe
   * @param tree a mapping
   * @param type class of the record
   * @throws RecipeException if keys or values do not fit, or the record refuses them
   */
  <R extends Record> R bind(String path, JsonNode tree, Class<R> type) throws RecipeException {
    if (!tree.isObject()) {
      String subject = path.isEmpty() ? "a recipe" : path;
      throw failure("%s must be a mapping of keys to values, got %s", subject, text(tree));
    }
    RecordComponent[] components = type.getRecordComponents();
    refuseUnknown(path, tree, Arrays.stream(components).map(RecordComponent::getName).toList());
    @Nullable Object[] values = new @Nullable Object[components.length];
    Class<?>[] types = new Class<?>[components.length];
    for (int i = 0; i < components.length; i++) {
      types[i] = components[i].getType();
      values[i] = component(path, tree, components[i]);
    }
    try {
      return type.getDeclaredConstructor(types).newInstance(values);
    } catch (InvocationTargetException e) {
      if (e.getCause() instanceof IllegalArgumentException refusal) {
        throw new RecipeException(source, within(path, refusal.getMessage()), refusal);
      }
      throw new IllegalStateException(type + " failed", e.getCause());
    } catch (ReflectiveOperationException e) {
      throw new IllegalStateException(type + " cannot be made", e);
    }
  }

  /** The tree that binds to an equal record. */
  static ObjectNode tree(Record section) {
    ObjectNode tree = JsonNodeFactory.instance.objectNode();
    for (RecordComponent component : section.getClass().getRecordComponents()) {
      Object value;
      try {
        value = component.getAccessor().invoke(section);
      } catch (ReflectiveOperationException e) {
        throw new IllegalStateException(component + " cannot be read", e);
      }
      switch (value) {
        case null -> {}
        case Record nested -> tree.set(component.getName(), tree(nested));
        case Enum<?> constant -> tree.put(component.getName(), key(constant));
        default -> tree.set(component.getName(), JSON.valueToTree(value));
      }
    }
    return tree;
  }

  private void refuseUnknown(String path, JsonNode tree, List<String> known)
      throws RecipeException {
    for (String key : (Iterable<String>) tree::fieldNames) {
      if (!known.contains(key)) {
        String near = Spelling.nearest(key, known);
        throw failure(
            "%s is unknown; %s",
            join(path, key),
            near == null
                ? "known are " + String.join(", ", known)
                : "did you mean " + join(path, near) + "?");
      }
    }
  }

  private @Nullable Object component(String path, JsonNode tree, RecordComponent component)
      throws RecipeException {
    String key = join(path, component.getName());
    JsonNode value = tree.path(component.getName());
    if (value.isMissingNode() || isNothing(value)) {
      if (component.getAnnotatedType().isAnnotationPresent(Nullable.class)) {
        return null;
      }
      Default otherwise = component.getAnnotation(Default.class);
      if (otherwise != null) {
        return value(key, Yaml.parse(source, otherwise.value()), component.getGenericType());
      }
      throw failure("%s must be given, got %s", key, value.isMissingNode() ? "nothing" : "null");
    }
    return value(key, value, component.getGenericType());
  }

  /** Jackson reads the null of {@code key:} as an empty text, which no key takes. */
  private static boolean isNothing(JsonNode value) {
    return value.isNull() || (value.isTextual() && value.textValue().isEmpty());
  }

  private Object value(String key, JsonNode value, Type genericType) throws RecipeException {
    if (genericType instanceof ParameterizedType list) {
      List<Object> elements = new ArrayList<>();
      for (JsonNode element : value.isArray() ? value : List.of(value)) {
        elements.add(value(key, element, list.getActualTypeArguments()[0]));
      }
      return List.copyOf(elements);
    }
    Class<?> type = (Class<?>) genericType;
    if (type.isRecord()) {
      return bind(key, value, type.asSubclass(Record.class));
    }
    if (type.isEnum()) {
      return constant(key, value, type);
    }
    if (type == int.class && value.isIntegralNumber() && value.canConvertToInt()) {
      return value.intValue();
    }
    if ((type == long.class || type == Long.class)
        && value.isIntegralNumber()
        && value.canConvertToLong()) {
      return value.longValue();
    }
    if ((type == double.class || type == Double.class) && value.isNumber()) {
      return value.doubleValue();
    }
    if ((type == boolean.class || type == Boolean.class) && value.isBoolean()) {
      return value.booleanValue();
    }
    if (type == String.class && value.isTextual()) {
      return value.textValue();
    }
    throw failure("%s must be %s, got %s", key, description(type), text(value));
  }

  private Object constant(String key, JsonNode value, Class<?> type) throws RecipeException {
    Object[] constants = type.getEnumConstants();
    for (Object constant : constants) {
      if (key((Enum<?>) constant).equals(value.textValue())) {
        return constant;
      }
    }
    String known =
        Arrays.stream(constants).map(each -> key((Enum<?>) each)).collect(Collectors.joining(", "));
    throw failure("%s must be one of %s, got %s", key, known, text(value));
  }

  private static String key(Enum<?> constant) {
    return constant.name().toLowerCase(Locale.ROOT).replace('_', '-');
  }

  private static String description(Class<?> type) {
    return switch (type.getSimpleName()) {
      case "int" -> "an integer of 32 bits";
      case "long", "Long" -> "an integer of 64 bits";
      case "double", "Double" -> "a number";
      case "boolean", "Boolean" -> "true or false";
      default -> "a text";
    };
  }

  /** A record speaks of its components, or of all by their full path. */
  private static String within(String path, @Nullable String message) {
    String full = String.valueOf(message);
    return full.startsWith(path + ".") ? full : join(path, full);
  }

  private static String join(String path, String key) {
    return path.isEmpty() ? key : path + "." + key;
  }

  private static String text(JsonNode value) {
    String text = value.isMissingNode() ? "nothing" : value.toString();
    return text.length() <= 80 ? text : text.substring(0, 80) + "…";
  }

  @SuppressWarnings("AnnotateFormatMethod") // not worth a dependency
  private RecipeException failure(String problem, Object... arguments) {
    return new RecipeException(source, problem.formatted(arguments));
  }
}
