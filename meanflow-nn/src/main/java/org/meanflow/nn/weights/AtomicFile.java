package org.meanflow.nn.weights;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.Objects;
import java.util.UUID;

/**
 * Writes a file as a whole or not at all: to a temporary name in the same directory, forced to the
 * disk, then moved into place in one step, which is forced to the disk, too. A reader never sees
 * half a file, and when writing fails the file that was there before is untouched.
 */
public final class AtomicFile {

  private AtomicFile() {}

  /** What to write. */
  @FunctionalInterface
  public interface Content {

    /**
     * Writes all of it.
     *
     * @param channel an empty file, open for writing
     * @throws IOException if that fails
     */
    void writeTo(FileChannel channel) throws IOException;
  }

  /**
   * Writes {@code content} to {@code target}, replacing what is there. Missing parent directories
   * are made.
   *
   * @param target the file to write
   * @param content what to write in it
   * @throws IOException if the place cannot be written, with a message that says so, or if the
   *     content fails; then nothing but the directories is left behind
   */
  public static void write(Path target, Content content) throws IOException {
    if (Files.isDirectory(target)) {
      throw new IOException("cannot write " + target + ": it is a directory; name a file in it");
    }
    Path file = target.toAbsolutePath();
    Path temporary = file.resolveSibling("." + file.getFileName() + "." + UUID.randomUUID());
    try (FileChannel channel = create(temporary, target)) {
      content.writeTo(channel);
      channel.force(true);
    } catch (Throwable failure) {
      delete(temporary, failure);
      throw failure;
    }
    try {
      Files.move(temporary, file, StandardCopyOption.ATOMIC_MOVE);
    } catch (IOException failure) {
      delete(temporary, failure);
      throw failure;
    }
    forceDirectory(Objects.requireNonNull(file.getParent())); // a file has one
  }

  /**
   * Writes a short file, replacing what is there.
   *
   * @param target the file to write
   * @param content all that is to be in it
   * @throws IOException as above
   */
  public static void write(Path target, byte[] content) throws IOException {
    write(
        target,
        channel -> {
          ByteBuffer rest = ByteBuffer.wrap(content);
          while (rest.hasRemaining()) {
            channel.write(rest);
          }
        });
  }

  /**
   * Forces to the disk which files a directory holds, so that a file moved there survives a loss of
   * power. Does nothing where directories cannot be opened (Windows).
   *
   * @param directory the directory
   * @throws IOException if the disk refuses
   */
  public static void forceDirectory(Path directory) throws IOException {
    FileChannel channel;
    try {
      channel = FileChannel.open(directory);
    } catch (IOException e) {
      return;
    }
    try (channel) {
      channel.force(true);
    }
  }

  private static FileChannel create(Path temporary, Path target) throws IOException {
    Path directory = temporary.getParent();
    try {
      Files.createDirectories(directory);
      return FileChannel.open(temporary, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE);
    } catch (FileSystemException e) {
      String reason = e.getReason();
      if (reason == null) {
        reason =
            e instanceof FileAlreadyExistsException
                ? e.getFile() + " is a file, not a directory"
                : e.getClass().getSimpleName();
      }
      throw new IOException(
          "cannot write %s: no file can be made in %s (%s); ".formatted(target, directory, reason)
              + "choose another place or change its permissions",
          e);
    }
  }

  private static void delete(Path temporary, Throwable failure) {
    try {
      Files.deleteIfExists(temporary);
    } catch (IOException e) {
      failure.addSuppressed(e);
    }
  }
}
