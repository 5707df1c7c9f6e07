package org.meanflow.nn.engine.cuda;

import java.io.File;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.SymbolLookup;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.function.UnaryOperator;
import org.jspecify.annotations.Nullable;

/**
 * Finds the libraries of CUDA: where a setting says, where the loader looks, in the usual folders
 * of the toolkit, and among the copies that Python packages carry.
 */
final class LibraryFinder {
  private static final boolean WINDOWS =
      System.getProperty("os.name", "").toLowerCase(Locale.ROOT).contains("windows");

  private final UnaryOperator<@Nullable String> settings;
  private final List<Path> folders;

  /**
   * A finder.
   *
   * @param settings value of a setting such as {@code meanflow.cuda.driver}, or null
   */
  LibraryFinder(UnaryOperator<@Nullable String> settings) {
    this(settings, usualFolders(settings));
  }

  LibraryFinder(UnaryOperator<@Nullable String> settings, List<Path> folders) {
    this.settings = settings;
    this.folders = folders;
  }

  /** System properties, and for each the variable of its name, as in MEANFLOW_CUDA_DRIVER. */
  static @Nullable String setting(@Nullable String name) {
    if (name == null) {
      return null;
    }
    String property = System.getProperty(name);
    return property != null
        ? property
        : System.getenv(name.replace('.', '_').toUpperCase(Locale.ROOT));
  }

  /**
   * A library that is looked for.
   *
   * @param setting the property that names its file
   * @param title how messages call it
   * @param versions its known versions, the newest first
   */
  record Library(String setting, String title, List<Version> versions) {
    static final Library DRIVER =
        new Library(
            "meanflow.cuda.driver",
            "the CUDA driver",
            List.of(new Version(0, "libcuda.so.1", "nvcuda.dll")));
    static final Library NVRTC =
        new Library(
            "meanflow.cuda.nvrtc",
            "NVRTC",
            List.of(
                new Version(13, "libnvrtc.so.13", "nvrtc64_130_0.dll"),
                new Version(12, "libnvrtc.so.12", "nvrtc64_120_0.dll"),
                new Version(11, "libnvrtc.so.11.2", "nvrtc64_112_0.dll")));
    static final Library CUBLAS_LT =
        new Library(
            "meanflow.cuda.cublasLt",
            "cuBLASLt",
            List.of(
                new Version(13, "libcublasLt.so.13", "cublasLt64_13.dll"),
                new Version(12, "libcublasLt.so.12", "cublasLt64_12.dll"),
                new Version(11, "libcublasLt.so.11", "cublasLt64_11.dll")));
    static final Library NCCL =
        new Library(
            "meanflow.cuda.nccl", "NCCL", List.of(new Version(0, "libnccl.so.2", "nccl.dll")));
  }

  /**
   * A version of a library.
   *
   * @param major major version of CUDA that it belongs to; 0 for any
   * @param linux its file name
   * @param windows its file name
   */
  record Version(int major, String linux, String windows) {
    String file() {
      return WINDOWS ? windows : linux;
    }
  }

  /**
   * A loaded library.
   *
   * @param symbols its functions
   * @param where its path, or its name if the loader found it
   */
  record Found(SymbolLookup symbols, String where) {}

  /**
   * Loads a library.
   *
   * @param library which one
   * @param driverMajor major version of CUDA that the driver knows; libraries of later ones are
   *     passed over
   * @throws CudaException if there is none, with the places that were looked at
   */
  Found find(Library library, int driverMajor) {
    String explicit = settings.apply(library.setting);
    if (explicit != null && !explicit.isBlank()) {
      return explicit(library, explicit);
    }
    List<String> failures = new ArrayList<>();
    for (Version version : library.versions) {
      if (version.major > driverMajor) {
        failures.add(version.file() + " needs a newer driver");
        continue;
      }
      Found byName = load(version.file(), null, failures);
      if (byName != null) {
        return byName;
      }
      for (Path folder : folders) {
        Path file = folder.resolve(version.file());
        if (Files.isRegularFile(file)) {
          Found found = load(version.file(), file, failures);
          if (found != null) {
            return found;
          }
        }
      }
    }
    // The driver is no part of a toolkit: where it was looked for tells nothing.
    String places =
        library.equals(Library.DRIVER)
            ? ""
            : "looked where the loader does and in " + folders + "; ";
    throw new CudaException(
        "%s not found: %s (%s-D%s=FILE names it)"
            .formatted(library.title, String.join("; ", failures), places, library.setting));
  }

  private static Found explicit(Library library, String setting) {
    Path file;
    try {
      file = Path.of(setting);
    } catch (InvalidPathException e) {
      throw new CudaException("%s is not a path: '%s'".formatted(library.setting, setting), e);
    }
    if (!Files.isRegularFile(file)) {
      throw new CudaException("%s names no file: %s".formatted(library.setting, file));
    }
    List<String> failures = new ArrayList<>();
    Found found = load(file.getFileName().toString(), file, failures);
    if (found == null) {
      throw new CudaException(
          "%s names no library of this platform: %s"
              .formatted(library.setting, String.join("; ", failures)));
    }
    return found;
  }

  private static @Nullable Found load(String name, @Nullable Path file, List<String> failures) {
    try {
      if (file == null) {
        return new Found(SymbolLookup.libraryLookup(name, Arena.global()), name);
      }
      loadBuiltins(file);
      return new Found(
          SymbolLookup.libraryLookup(file.toAbsolutePath(), Arena.global()), file.toString());
    } catch (IllegalArgumentException e) {
      failures.add(file == null ? "the loader knows no " + name : file + " does not load");
      return null;
    }
  }

  /** NVRTC opens its builtins by name: they are found if they are loaded already. */
  private static void loadBuiltins(Path library) {
    Path folder = library.toAbsolutePath().getParent();
    if (folder == null || !library.getFileName().toString().contains("nvrtc")) {
      return;
    }
    try (DirectoryStream<Path> builtins =
        Files.newDirectoryStream(folder, "*nvrtc-builtins{.so.*,64_*.dll}")) {
      for (Path file : builtins) {
        SymbolLookup.libraryLookup(file, Arena.global());
      }
    } catch (IOException | IllegalArgumentException e) {
      // NVRTC says so itself when it misses them.
    }
  }

  private static List<Path> usualFolders(UnaryOperator<@Nullable String> settings) {
    Set<Path> folders = new LinkedHashSet<>();
    for (String home : new String[] {System.getenv("CUDA_HOME"), System.getenv("CUDA_PATH")}) {
      if (home != null && !home.isBlank()) {
        toolkit(Path.of(home), folders);
      }
    }
    if (WINDOWS) {
      expand(Path.of("C:\\Program Files\\NVIDIA GPU Computing Toolkit\\CUDA"), "v*")
          .forEach(home -> toolkit(home, folders));
    } else {
      expand(Path.of("/usr/local"), "cuda*").forEach(home -> toolkit(home, folders));
      toolkit(Path.of("/opt/cuda"), folders);
      for (String folder :
          List.of(
              "/usr/lib/x86_64-linux-gnu",
              "/usr/lib/aarch64-linux-gnu",
              "/usr/lib64",
              "/usr/lib/wsl/lib")) {
        addIfThere(Path.of(folder), folders);
      }
    }
    pythonPackages(settings)
        .forEach(
            packages ->
                expand(packages.resolve("nvidia"), "*")
                    .forEach(
                        part -> {
                          addIfThere(part.resolve("lib"), folders);
                          addIfThere(part.resolve("bin"), folders);
                        }));
    return List.copyOf(folders);
  }

  private static void toolkit(Path home, Set<Path> folders) {
    for (String part : List.of("lib64", "lib", "bin", "bin/x64")) {
      addIfThere(home.resolve(part), folders);
    }
    expand(home.resolve("targets"), "*").forEach(t -> addIfThere(t.resolve("lib"), folders));
  }

  /** Folders called site-packages or dist-packages of the Pythons that can be guessed. */
  private static List<Path> pythonPackages(UnaryOperator<@Nullable String> settings) {
    List<Path> packages = new ArrayList<>();
    List<Path> prefixes = new ArrayList<>();
    for (String variable : List.of("VIRTUAL_ENV", "CONDA_PREFIX")) {
      String prefix = System.getenv(variable);
      if (prefix != null && !prefix.isBlank()) {
        prefixes.add(Path.of(prefix));
      }
    }
    String path = System.getenv("PYTHONPATH");
    if (path != null && !path.isBlank()) {
      for (String entry : path.split(File.pathSeparator)) {
        packages.add(Path.of(entry));
      }
    }
    String named = settings.apply("meanflow.cuda.python");
    if (named != null && !named.isBlank()) {
      packages.addFirst(Path.of(named));
    }
    String home = System.getProperty("user.home", "");
    prefixes.addAll(List.of(Path.of(home, ".local"), Path.of("/usr/local"), Path.of("/usr")));
    prefixes.addAll(expand(Path.of("/opt"), "*"));
    for (Path prefix : prefixes) {
      for (Path python : expand(prefix.resolve("lib"), "python3*")) {
        packages.add(python.resolve("site-packages"));
        packages.add(python.resolve("dist-packages"));
      }
      packages.add(prefix.resolve("Lib").resolve("site-packages"));
    }
    return packages;
  }

  private static void addIfThere(Path folder, Set<Path> folders) {
    if (Files.isDirectory(folder)) {
      folders.add(folder);
    }
  }

  /** The folders in {@code parent} that match, the one with the highest name first. */
  private static List<Path> expand(Path parent, String pattern) {
    List<Path> found = new ArrayList<>();
    if (Files.isDirectory(parent)) {
      try (DirectoryStream<Path> matches = Files.newDirectoryStream(parent, pattern)) {
        matches.forEach(found::add);
      } catch (IOException e) {
        return found; // a folder that cannot be read holds nothing for us
      }
    }
    found.sort(Comparator.reverseOrder());
    return found;
  }
}
