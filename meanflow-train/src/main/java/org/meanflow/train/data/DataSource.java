package org.meanflow.train.data;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
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
    Path path = Path.of(name);
    if (!path.isAbsolute()) {
      if (folder == null) {
        throw new DataException(
            name, "is relative to a folder that is not given", "name the folder with --data");
      }
      path = folder.resolve(name);
    }
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
}
