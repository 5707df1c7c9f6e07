package org.meanflow.train.data;

import java.awt.Graphics2D;
import java.awt.RenderingHints;
import java.awt.image.BufferedImage;
import java.awt.image.IndexColorModel;
import java.awt.image.Raster;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Set;
import java.util.zip.CRC32;
import javax.imageio.ImageIO;
import javax.imageio.ImageReader;
import javax.imageio.event.IIOReadWarningListener;
import javax.imageio.stream.MemoryCacheImageInputStream;

/**
 * A decoded PNG or JPEG file, told by its first bytes and not by its name.
 *
 * <p>The readers of the JDK trust what a header says: they allocate what a chunk promises, ignore
 * checksums and fill up a file that breaks off with grey. So the chunks of a file are checked here
 * first, and only those that make the picture are given to them.
 *
 * @param rgb the pixels, row-major, 0x00RRGGBB; transparency is ignored
 * @param width pixels in a row
 * @param height number of rows
 */
record ImageFile(int[] rgb, int width, int height) {
  private static final long PNG_MAGIC = 0x89504e470d0a1a0aL;
  private static final Set<String> PNG_CHUNKS = Set.of("IHDR", "PLTE", "tRNS", "IDAT", "IEND");
  private static final int PNG_CHUNK_FRAME = 12; // length, type and checksum
  private static final int MOST_BYTES = 1 << 28;
  private static final int MOST_PIXELS = 1 << 25;

  /** Deflate makes at most 1032 bytes out of one, and those are at most 8 pixels each. */
  private static final long PNG_PIXELS_OF_A_BYTE = 8 * 1032;

  /** A block of 8×8 pixels takes at least one bit for its mean. */
  private static final long JPEG_PIXELS_OF_A_BYTE = 8 * 64;

  private static final String REPLACE = "replace the file or remove it";

  /** Reads a file. */
  static ImageFile read(Path path) throws DataException {
    String file = path.toString();
    try (InputStream in = Files.newInputStream(path)) {
      byte[] bytes = in.readNBytes(MOST_BYTES + 1);
      if (bytes.length > MOST_BYTES) {
        throw new DataException(
            DataException.at(file, MOST_BYTES), "the file is too large for an image", REPLACE);
      }
      return decode(file, bytes);
    } catch (DataException e) {
      throw e;
    } catch (IOException e) {
      throw DataException.unreadable(path, e);
    }
  }

  private static ImageFile decode(String file, byte[] bytes) throws DataException {
    ByteBuffer all = ByteBuffer.wrap(bytes);
    if (bytes.length >= Long.BYTES && all.getLong(0) == PNG_MAGIC) {
      return decode(file, "png", png(file, bytes));
    }
    if (bytes.length >= Short.BYTES && all.getShort(0) == (short) 0xffd8) {
      return decode(file, "jpeg", jpeg(file, bytes));
    }
    throw new DataException(
        DataException.at(file, 0), "it begins neither as a PNG nor as a JPEG file", REPLACE);
  }

  /** The chunks of a PNG file that make its picture, their checksums checked. */
  private static byte[] png(String file, byte[] bytes) throws DataException {
    ByteBuffer all = ByteBuffer.wrap(bytes);
    ByteArrayOutputStream kept = new ByteArrayOutputStream(bytes.length);
    kept.write(bytes, 0, Long.BYTES);
    int position = Long.BYTES;
    String type = "";
    while (!type.equals("IEND")) {
      long length = bytes.length - position < PNG_CHUNK_FRAME ? -1 : all.getInt(position);
      if (length < 0 || length > bytes.length - position - PNG_CHUNK_FRAME) {
        throw new DataException(
            DataException.at(file, position),
            "the file breaks off in a chunk after '" + printable(type) + "'",
            REPLACE);
      }
      boolean header = position == Long.BYTES;
      type = new String(bytes, position + Integer.BYTES, 4, StandardCharsets.ISO_8859_1);
      int end = position + PNG_CHUNK_FRAME + (int) length;
      CRC32 checksum = new CRC32();
      checksum.update(bytes, position + Integer.BYTES, Integer.BYTES + (int) length);
      if ((int) checksum.getValue() != all.getInt(end - Integer.BYTES)) {
        throw new DataException(
            DataException.at(file, position),
            "chunk '" + printable(type) + "' is damaged: its checksum is another one",
            REPLACE);
      }
      if (header != (type.equals("IHDR") && length == 13)) {
        throw new DataException(
            DataException.at(file, position), "a PNG file must begin with its header", REPLACE);
      }
      if (header) {
        int width = all.getInt(position + 8);
        int height = all.getInt(position + 12);
        requireSize(file, position + 8, width, height, bytes.length * PNG_PIXELS_OF_A_BYTE);
      }
      if (PNG_CHUNKS.contains(type)) {
        kept.write(bytes, position, end - position);
      }
      position = end;
    }
    return kept.toByteArray();
  }

  /** The segments of a JPEG file that make its picture. */
  private static byte[] jpeg(String file, byte[] bytes) throws DataException {
    ByteBuffer all = ByteBuffer.wrap(bytes);
    ByteArrayOutputStream kept = new ByteArrayOutputStream(bytes.length);
    kept.write(bytes, 0, Short.BYTES);
    int position = Short.BYTES;
    boolean sized = false;
    while (true) {
      if (bytes.length - position >= 4 && all.getShort(position) == -1) {
        position++; // any number of bytes 0xff may stand before a marker
        continue;
      }
      int length = bytes.length - position < 4 ? -1 : all.getShort(position + 2) & 0xffff;
      if (length < 2 || length > bytes.length - position - 2) {
        throw new DataException(
            DataException.at(file, position), "the file breaks off in its header", REPLACE);
      }
      int marker = all.getShort(position) & 0xffff;
      if (marker < 0xff01) {
        throw new DataException(
            DataException.at(file, position),
            "a segment must begin with a marker, got 0x%04x".formatted(marker),
            REPLACE);
      }
      boolean frame =
          marker >= 0xffc0
              && marker <= 0xffcf
              && marker != 0xffc4
              && marker != 0xffc8
              && marker != 0xffcc;
      if (frame && length >= 7) {
        int height = all.getShort(position + 5) & 0xffff;
        int width = all.getShort(position + 7) & 0xffff;
        requireSize(file, position + 5, width, height, bytes.length * JPEG_PIXELS_OF_A_BYTE);
        sized = true;
      }
      // APP0 and APP14 tell how colours are coded; other applications' segments and comments go.
      boolean dropped = (marker > 0xffe0 && marker <= 0xffef) || marker == 0xfffe;
      if (!dropped || marker == 0xffee) {
        kept.write(bytes, position, 2 + length);
      }
      position += 2 + length;
      if (marker == 0xffda) {
        break;
      }
    }
    if (!sized) {
      throw new DataException(
          DataException.at(file, position), "the scan begins before the image's size", REPLACE);
    }
    kept.write(bytes, position, bytes.length - position);
    return kept.toByteArray();
  }

  private static String printable(String type) {
    return type.replaceAll("[^A-Za-z]", "?");
  }

  private static void requireSize(String file, int position, int width, int height, long possible)
      throws DataException {
    long most = Math.min(MOST_PIXELS, possible);
    if (width < 1 || height < 1 || (long) width * height > most) {
      throw new DataException(
          DataException.at(file, position),
          "an image of this file must have from 1 to %d pixels, got %d×%d"
              .formatted(most, Integer.toUnsignedLong(width), Integer.toUnsignedLong(height)),
          REPLACE);
    }
  }

  private static ImageFile decode(String file, String format, byte[] bytes) throws DataException {
    ImageReader reader = ImageIO.getImageReadersByFormatName(format).next();
    String[] warning = {""};
    try {
      reader.addIIOReadWarningListener(warningListener(warning));
      reader.setInput(new MemoryCacheImageInputStream(new ByteArrayInputStream(bytes)), true, true);
      ImageFile image = of(reader.read(0));
      // A JPEG file that breaks off comes with a warning and the rest in grey.
      if (!warning[0].isEmpty()) {
        throw new DataException(file, "the image is damaged: " + warning[0], REPLACE);
      }
      return image;
    } catch (DataException e) {
      throw e;
    } catch (IOException | RuntimeException e) {
      // The readers meet damage with all kinds of exceptions, messages of many lines and none.
      String problem = e.getMessage() == null ? e.getClass().getSimpleName() : e.getMessage();
      throw new DataException(
          file, "the image is damaged: " + problem.lines().findFirst().orElse(""), REPLACE, e);
    } finally {
      reader.dispose();
    }
  }

  private static IIOReadWarningListener warningListener(String[] warning) {
    return (source, message) -> {
      if (!message.contains("extraneous bytes")) { // harmless, and found in much-used data sets
        warning[0] = message;
      }
    };
  }

  /**
   * The pixels as the file has them: {@code BufferedImage.getRGB} would take grey for linear light
   * and brighten it.
   */
  private static ImageFile of(BufferedImage image) {
    int width = image.getWidth();
    int height = image.getHeight();
    int[] rgb = new int[width * height];
    if (image.getColorModel() instanceof IndexColorModel) {
      image.getRGB(0, 0, width, height, rgb, 0, width);
      Arrays.setAll(rgb, i -> rgb[i] & 0xffffff);
      return new ImageFile(rgb, width, height);
    }
    Raster raster = image.getRaster();
    int bands = raster.getNumBands();
    int most = (1 << raster.getSampleModel().getSampleSize(0)) - 1;
    int[] row = new int[bands * width];
    for (int y = 0; y < height; y++) {
      raster.getPixels(0, y, width, 1, row);
      for (int x = 0; x < width; x++) {
        int value = 0;
        for (int band = 0; band < 3; band++) {
          int sample = row[bands * x + (bands < 3 ? 0 : band)];
          value = value << 8 | (most == 255 ? sample : Math.round(255f * sample / most));
        }
        rgb[y * width + x] = value;
      }
    }
    return new ImageFile(rgb, width, height);
  }

  /**
   * The middle square, scaled: halved while that leaves enough pixels, then by bicubic
   * interpolation, as guided-diffusion does.
   *
   * @param side height and width of the result
   * @return its pixels, 0x00RRGGBB
   */
  int[] square(int side) {
    if (width == side && height == side) {
      return rgb;
    }
    int shorter = Math.min(width, height);
    BufferedImage image = new BufferedImage(shorter, shorter, BufferedImage.TYPE_INT_RGB);
    int left = (width - shorter) / 2;
    int top = (height - shorter) / 2;
    image.setRGB(0, 0, shorter, shorter, rgb, top * width + left, width);
    while (image.getWidth() >= 2 * side) {
      // Bilinear interpolation at half the size is the mean of four pixels.
      image = scaled(image, image.getWidth() / 2, RenderingHints.VALUE_INTERPOLATION_BILINEAR);
    }
    if (image.getWidth() != side) {
      image = scaled(image, side, RenderingHints.VALUE_INTERPOLATION_BICUBIC);
    }
    int[] pixels = image.getRGB(0, 0, side, side, null, 0, side);
    Arrays.setAll(pixels, i -> pixels[i] & 0xffffff);
    return pixels;
  }

  private static BufferedImage scaled(BufferedImage image, int side, Object interpolation) {
    BufferedImage result = new BufferedImage(side, side, BufferedImage.TYPE_INT_RGB);
    Graphics2D graphics = result.createGraphics();
    graphics.setRenderingHint(RenderingHints.KEY_INTERPOLATION, interpolation);
    graphics.drawImage(image, 0, 0, side, side, null);
    graphics.dispose();
    return result;
  }
}
