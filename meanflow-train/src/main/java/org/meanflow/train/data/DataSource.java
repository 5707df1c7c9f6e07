package org.meanflow.train.data;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.DirectoryIteratorException;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Objects;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/** Where the bytes of a data file come from. */
public interface DataSource {

  /** What the name of a class-path resource begins with in {@link #locate}. */
  String RESOURCE = "resource:";

  /** {@return the name of the file in messages} */
  String name();

  /**
   * Opens the file.
   *
   * @return a stream of its bytes, from the first one; the caller closes it
   * @throws IOException if there is no such file or it cannot be read
   */
  InputStream open() throws IOException;

  /**
   * A file.
   *
   * @param path where it is
   * @return its bytes
   */
  static DataSource file(Path path) {
    return new DataSource() {
      @Override
      public String name() {
        return path.toString();
      }

      @Override
      public InputStream open() throws IOException {
        return Files.newInputStream(path);
      }
    };
  }

  /**
   * A resource on the class path.
   *
   * @param resource its absolute name, without a slash in front
   * @return its bytes
   */
  static DataSource resource(String resource) {
    return new DataSource() {
      @Override
      public String name() {
        return RESOURCE + resource;
      }

      @Override
      public InputStream open() throws IOException {
        InputStream bytes = DataSource.class.getResourceAsStream("/" + resource);
        if (bytes == null) {
          throw new FileNotFoundException(name());
        }
        return bytes;
      }
    };
  }

  /**
   * The file that a recipe names: {@code resource:NAME} is a resource on the class path, anything
   * else a path, taken relative to a folder. Where there is no file {@code NAME}, {@code NAME.gz}
   * stands in for it.
   *
   * @param name the file's name in a recipe
   * @param folder what relative paths are relative to; {@code null} for none
   * @return its bytes
   * @throws DataException if there is no such file, or the path is relative and no folder is given
   */
  static DataSource locate(String name, @Nullable Path folder) throws DataException {
    if (name.startsWith(RESOURCE)) {
      return resource(name.substring(RESOURCE.length()));
    }
    Path path = resolve(name, folder);
    Path compressed = path.resolveSibling(path.getFileName() + ".gz");
    if (Files.exists(path)) {
      return file(path);
    }
    if (Files.exists(compressed)) {
      return file(compressed);
    }
    throw new DataException(
        path.toString(),
        "there is no such file, nor one with .gz behind its name",
        "name the folder that holds it with --data");
  }

  /**
   * The files that a recipe names: a path, taken relative to a folder, in whose last name {@code *}
   * stands for any text, as in {@code train/*.npz}. {@code NAME.labels.npy} is left out: it belongs
   * to {@code NAME.npy}.
   *
   * @param pattern the files' names in a recipe
   * @param folder what relative paths are relative to; {@code null} for none
   * @return at least one file, sorted by name
   * @throws DataException if there is none, the folder cannot be listed, or the path is relative
   *     and no folder is given
   */
  static List<Path> matching(String pattern, @Nullable Path folder) throws DataException {
    int slash = pattern.lastIndexOf('/');
    Path parent =
        slash < 0 && folder != null
            ? folder
            : resolve(slash < 0 ? pattern : pattern.substring(0, slash + 1), folder);
    Pattern name =
        Pattern.compile(
            Arrays.stream(pattern.substring(slash + 1).split("\\*", -1))
                .map(Pattern::quote)
                .collect(Collectors.joining(".*")));
    List<Path> files = new ArrayList<>();
    try (DirectoryStream<Path> entries =
        Files.newDirectoryStream(
            parent,
            entry -> {
              String file = String.valueOf(entry.getFileName());
              return name.matcher(file).matches() && !file.endsWith(".labels.npy");
            })) {
      entries.forEach(files::add);
    } catch (IOException e) {
      throw DataException.unreadable(parent, e);
    } catch (DirectoryIteratorException e) {
      throw DataException.unreadable(parent, Objects.requireNonNull(e.getCause()));
    }
    if (files.isEmpty()) {
      throw new DataException(
          parent.toString(),
          "there is no file " + pattern.substring(slash + 1) + " in it",
          "name the folder that holds them with --data, or the files with data.images");
    }
    Collections.sort(files);
    return files;
  }

  /**
   * A path that a recipe names.
   *
   * @param name the path
   * @param folder what a relative path is relative to; {@code null} for none
   * @return the path; nothing need be there
   * @throws DataException if the path is relative and no folder is given, or it is no path
   */
  static Path resolve(String name, @Nullable Path folder) throws DataException {
    try {
      Path path = Path.of(name);
      if (path.isAbsolute()) {
        return path;
      }
      if (folder == null) {
        throw new DataException(
            name, "is relative to a folder that is not given", "name the folder with --data");
      }
      return folder.resolve(path);
    } catch (InvalidPathException e) {
      throw new DataException(
          name.replaceAll("\\p{Cntrl}", "?"), "is no path: " + e.getReason(), "check it", e);
    }
  }
}
