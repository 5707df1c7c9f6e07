package org.meanflow.train.data;

import java.io.BufferedInputStream;
import java.io.EOFException;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.io.PushbackInputStream;
import java.nio.ByteBuffer;
import java.nio.file.NoSuchFileException;
import java.util.Arrays;
import java.util.stream.Collectors;
import java.util.zip.GZIPInputStream;
import java.util.zip.ZipException;

/**
 * A file of unsigned bytes in the IDX format of MNIST: the magic number 0x000008RR with the rank
 * RR, RR dimensions as big-endian 32-bit integers, then the bytes, row-major.
 *
 * @param dimensions the dimensions, each ≥ 1
 * @param data as many bytes as the dimensions say
 */
record IdxFile(int[] dimensions, byte[] data) {
  private static final int UNSIGNED_BYTES = 0x0800;
  private static final int GZIP_MAGIC = 0x1f8b;
  private static final int FIRST_CHUNK = 1 << 16;

  private static final String REFETCH = "download it again";

  /**
   * Reads a file, plain or compressed with gzip, as its first bytes tell.
   *
   * @param source the file
   * @param rank number of dimensions that it must have
   * @param content what it should hold, for messages
   */
  static IdxFile read(DataSource source, int rank, String content) throws DataException {
    try (InputStream stream = source.open()) {
      return new Reader(source.name(), stream).read(rank, content);
    } catch (NoSuchFileException | FileNotFoundException e) {
      throw new DataException(
          source.name(), "there is no such file", "check the name and the folder", e);
    } catch (DataException e) {
      throw e;
    } catch (IOException e) {
      throw new DataException(
          source.name(), "cannot be read: " + e.getMessage(), "check the file", e);
    }
  }

  private static final class Reader {
    private final String file;
    private final InputStream raw;
    private InputStream in;
    private long position;

    Reader(String file, InputStream raw) {
      this.file = file;
      this.raw = raw;
      in = raw;
    }

    IdxFile read(int rank, String content) throws DataException {
      try {
        in = decompressed(raw);
        requireMagic(UNSIGNED_BYTES | rank, content);
        int[] dimensions = new int[rank];
        for (int i = 0; i < rank; i++) {
          dimensions[i] = dimension(i);
        }
        byte[] data = data(dimensions);
        if (in.read() >= 0) {
          throw failure("bytes follow where the file should end", REFETCH);
        }
        return new IdxFile(dimensions, data);
      } catch (DataException e) {
        throw e;
      } catch (EOFException e) {
        throw failure("the gzip stream breaks off", REFETCH, e);
      } catch (ZipException e) {
        throw failure("the gzip stream is damaged: " + e.getMessage(), REFETCH, e);
      } catch (IOException e) {
        throw failure("cannot be read: " + e.getMessage(), "check the file", e);
      }
    }

    private static InputStream decompressed(InputStream raw) throws IOException {
      PushbackInputStream bytes = new PushbackInputStream(new BufferedInputStream(raw), 2);
      byte[] magic = bytes.readNBytes(2);
      bytes.unread(magic);
      boolean gzip = magic.length == 2 && ByteBuffer.wrap(magic).getChar() == GZIP_MAGIC;
      return gzip ? new GZIPInputStream(bytes, FIRST_CHUNK) : bytes;
    }

    private void requireMagic(int expected, String content) throws IOException {
      int magic = integer();
      if (magic != expected) {
        position = 0;
        throw failure(
            "magic number must be 0x%08x (%s), got 0x%08x".formatted(expected, content, magic),
            "check that this is the file of the " + content);
      }
    }

    private int dimension(int index) throws IOException {
      int size = integer();
      if (size == 0 && index == 0) {
        position -= Integer.BYTES;
        throw failure("the file is empty: its first dimension is 0", REFETCH);
      }
      if (size < 1) {
        position -= Integer.BYTES;
        throw failure(
            "dimension %d must be in [1, 2^31), got %s"
                .formatted(index, Integer.toUnsignedString(size)),
            REFETCH);
      }
      return size;
    }

    private int integer() throws IOException {
      byte[] bytes = new byte[Integer.BYTES];
      int count = fill(bytes, 0);
      if (count < bytes.length) {
        throw failure("the file breaks off in its header", REFETCH);
      }
      return ByteBuffer.wrap(bytes).getInt();
    }

    /** Memory grows with what is read, not with what the header promises. */
    private byte[] data(int[] dimensions) throws IOException {
      long promised = product(dimensions);
      // A growing array is there twice for a moment, and the program needs memory too.
      long limit = Math.min(Integer.MAX_VALUE - 8, Runtime.getRuntime().maxMemory() / 4);
      byte[] data = new byte[(int) Math.min(promised, FIRST_CHUNK)];
      int count = fill(data, 0);
      while (count == data.length && count < promised && count < limit) {
        long larger = Math.min(2L * count, Math.min(promised, limit));
        data = Arrays.copyOf(data, (int) larger);
        count += fill(data, count);
      }
      if (count == promised) {
        return data;
      }
      String sizes =
          Arrays.stream(dimensions).mapToObj(String::valueOf).collect(Collectors.joining("×"));
      if (count == limit) {
        throw failure(
            "%s bytes do not fit in memory, at most %d do".formatted(sizes, limit),
            "give the JVM more with -Xmx");
      }
      throw failure("the file breaks off after %d of %s bytes".formatted(count, sizes), REFETCH);
    }

    /** The product, or the largest long, more than any file holds, if that is too small. */
    private static long product(int[] dimensions) {
      long product = 1;
      for (int size : dimensions) {
        boolean overflows = Math.multiplyHigh(product, size) != 0 || product * size < 0;
        product = overflows ? Long.MAX_VALUE : product * size;
      }
      return product;
    }

    /** Reads until the array is full or the file ends; says how many bytes came. */
    private int fill(byte[] bytes, int from) throws IOException {
      int count = from;
      while (count < bytes.length) {
        int more = in.read(bytes, count, bytes.length - count);
        if (more < 0) {
          break;
        }
        count += more;
        position += more;
      }
      return count - from;
    }

    private DataException failure(String problem, String remedy) {
      return new DataException(place(), problem, remedy);
    }

    private DataException failure(String problem, String remedy, IOException cause) {
      return new DataException(place(), problem, remedy, cause);
    }

    private String place() {
      return DataException.at(file, position)
          + (in instanceof GZIPInputStream ? " of the decompressed data" : "");
    }
  }
}
