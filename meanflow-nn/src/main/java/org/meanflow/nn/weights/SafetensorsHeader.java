package org.meanflow.nn.weights;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The header of a safetensors file, checked so that every tensor can be read without surprises. */
record SafetensorsHeader(Map<String, TensorInfo> tensors, Map<String, String> metadata) {
  static final String METADATA = "__metadata__";

  /** Size in bytes of the header length, the first thing in a file. */
  static final int LENGTH_BYTES = 8;

  private static final ObjectMapper JSON =
      JsonMapper.builder(
              JsonFactory.builder()
                  .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
                  .disable(JsonFactory.Feature.CHARSET_DETECTION)
                  .disable(JsonFactory.Feature.INTERN_FIELD_NAMES)
                  .build())
          .build();

  private static final String RESAVE = "the file is damaged or no safetensors file: save it again";
  private static final String REFETCH = "the file was cut off: download or save it again";

  /**
   * Parses a header.
   *
   * @param file the file, for messages
   * @param json the header's bytes
   * @param dataBytes size of the data section, which the tensors must fill without gaps
   */
  static SafetensorsHeader parse(Path file, byte[] json, long dataBytes)
      throws SafetensorsException {
    requireUtf8(file, json);
    Map<String, TensorInfo> tensors = new LinkedHashMap<>();
    List<Located> located = new ArrayList<>();
    Map<String, String> metadata = Map.of();
    try (JsonParser parser = JSON.createParser(json)) {
      if (json.length == 0 || json[0] != '{' || parser.nextToken() != JsonToken.START_OBJECT) {
        throw new SafetensorsException(
            file, LENGTH_BYTES, "header must be a JSON object, beginning with '{'", RESAVE);
      }
      while (parser.nextToken() == JsonToken.FIELD_NAME) {
        String name = parser.currentName();
        long position = LENGTH_BYTES + parser.currentTokenLocation().getByteOffset();
        parser.nextToken();
        JsonNode entry = JSON.readTree(parser);
        try {
          if (name.equals(METADATA)) {
            metadata = metadata(entry);
          } else {
            TensorInfo tensor = tensor(name, entry);
            tensors.put(name, tensor);
            located.add(new Located(tensor, position));
          }
        } catch (IllegalArgumentException e) {
          String subject = name.equals(METADATA) ? METADATA : "tensor '" + name + "'";
          throw new SafetensorsException(file, position, subject + ": " + e.getMessage(), RESAVE);
        }
      }
      if (parser.nextToken() != null) {
        throw new SafetensorsException(
            file,
            LENGTH_BYTES + parser.currentTokenLocation().getByteOffset(),
            "header must end with its JSON object and spaces",
            RESAVE);
      }
    } catch (JsonProcessingException e) {
      long position = e.getLocation() == null ? 0 : Math.max(0, e.getLocation().getByteOffset());
      throw new SafetensorsException(
          file,
          LENGTH_BYTES + position,
          "header is not valid JSON: " + e.getOriginalMessage(),
          RESAVE);
    } catch (SafetensorsException e) {
      throw e;
    } catch (IOException e) {
      throw new AssertionError("reading from memory", e);
    }
    requireGapless(file, located, LENGTH_BYTES + json.length, dataBytes);
    return new SafetensorsHeader(
        Collections.unmodifiableMap(tensors), Collections.unmodifiableMap(metadata));
  }

  private static void requireUtf8(Path file, byte[] json) throws SafetensorsException {
    ByteBuffer bytes = ByteBuffer.wrap(json);
    try {
      StandardCharsets.UTF_8.newDecoder().decode(bytes);
    } catch (CharacterCodingException e) {
      throw new SafetensorsException(
          file, LENGTH_BYTES + bytes.position(), "header is not valid UTF-8", RESAVE);
    }
  }

  private static Map<String, String> metadata(JsonNode entry) {
    if (!entry.isObject()) {
      throw new IllegalArgumentException("must be an object, got " + brief(entry));
    }
    Map<String, String> metadata = new LinkedHashMap<>();
    for (Map.Entry<String, JsonNode> property : entry.properties()) {
      if (!property.getValue().isTextual()) {
        throw new IllegalArgumentException(
            "'%s' must be a string, got %s"
                .formatted(property.getKey(), brief(property.getValue())));
      }
      metadata.put(property.getKey(), property.getValue().textValue());
    }
    return metadata;
  }

  private static TensorInfo tensor(String name, JsonNode entry) {
    if (!entry.isObject()) {
      throw new IllegalArgumentException("must be an object, got " + brief(entry));
    }
    long[] offsets = integers(entry, "data_offsets");
    if (offsets.length != 2) {
      throw new IllegalArgumentException(
          "data_offsets must be [begin, end], got " + brief(entry.get("data_offsets")));
    }
    return new TensorInfo(name, dtype(entry), integers(entry, "shape"), offsets[0], offsets[1]);
  }

  private static Dtype dtype(JsonNode entry) {
    JsonNode value = entry.path("dtype");
    for (Dtype dtype : Dtype.values()) {
      if (dtype.name().equals(value.textValue())) {
        return dtype;
      }
    }
    throw new IllegalArgumentException(
        "dtype must be one of %s, got %s".formatted(Arrays.toString(Dtype.values()), brief(value)));
  }

  private static long[] integers(JsonNode entry, String field) {
    JsonNode values = entry.path(field);
    boolean valid = values.isArray();
    for (JsonNode value : values) {
      valid &= value.isIntegralNumber() && value.canConvertToLong();
    }
    if (!valid) {
      throw new IllegalArgumentException(
          field + " must be an array of 64-bit integers, got " + brief(values));
    }
    return values.valueStream().mapToLong(JsonNode::longValue).toArray();
  }

  private static String brief(JsonNode value) {
    String text = value.isMissingNode() ? "nothing" : value.toString();
    return text.length() <= 80 ? text : text.substring(0, 80) + "…";
  }

  /** A tensor and the byte of the file at which its entry in the header begins. */
  private record Located(TensorInfo tensor, long position) {}

  /** The tensors must cover the data section exactly: no overlap, no hole, no rest. */
  private static void requireGapless(
      Path file, List<Located> tensors, long dataStart, long dataBytes)
      throws SafetensorsException {
    tensors.sort(
        Comparator.<Located>comparingLong(each -> each.tensor.begin())
            .thenComparingLong(each -> each.tensor.end()));
    long covered = 0;
    for (Located each : tensors) {
      TensorInfo tensor = each.tensor;
      String offsets =
          "tensor '%s': data_offsets [%d, %d] "
              .formatted(tensor.name(), tensor.begin(), tensor.end());
      if (tensor.end() > dataBytes) {
        throw new SafetensorsException(
            file,
            each.position,
            offsets + "reach past the " + dataBytes + " bytes of data",
            REFETCH);
      }
      if (tensor.begin() < covered) {
        throw new SafetensorsException(
            file, each.position, offsets + "overlap the tensor that ends at " + covered, RESAVE);
      }
      if (tensor.begin() > covered) {
        throw new SafetensorsException(
            file, each.position, offsets + "leave a hole in the data after " + covered, RESAVE);
      }
      covered = tensor.end();
    }
    if (covered < dataBytes) {
      throw new SafetensorsException(
          file,
          dataStart + covered,
          (dataBytes - covered) + " bytes follow the last tensor",
          RESAVE);
    }
  }
}
