package org.meanflow.nn.engine.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.SymbolLookup;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.meanflow.nn.engine.cuda.LibraryFinder.Library;

/** Where libraries are looked for; the emulated device plays NVRTC. */
@Tag("cuda-emulated")
class LibraryFinderTest {
  private static void assumeTheLoaderHasNone(String... names) {
    for (String name : names) {
      boolean known = true;
      try {
        SymbolLookup.libraryLookup(name, Arena.global());
      } catch (IllegalArgumentException e) {
        known = false;
      }
      assumeTrue(!known, "the loader finds " + name + " first");
    }
  }

  private static Path copyTo(Path folder, String name) throws IOException {
    return Files.copy(EmulatedCuda.library(), Files.createDirectories(folder).resolve(name));
  }

  @Test
  void copiesInPythonPackagesAreFound(@TempDir Path packages) throws IOException {
    assumeTheLoaderHasNone("libnvrtc.so.13");
    Path file = copyTo(packages.resolve("nvidia/cu13/lib"), "libnvrtc.so.13");
    Map<String, String> settings = Map.of("meanflow.cuda.python", packages.toString());

    LibraryFinder.Found found =
        new LibraryFinder(EmulatedDevice.reader(settings)).find(Library.NVRTC, 13);

    assertThat(found.where()).isEqualTo(file.toString());
    assertThat(found.symbols().find("nvrtcVersion")).isPresent();
  }

  @Test
  void theNewestThatTheDriverKnowsIsTaken(@TempDir Path folder) throws IOException {
    assumeTheLoaderHasNone("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2");
    copyTo(folder, "libnvrtc.so.13");
    Path older = copyTo(folder, "libnvrtc.so.11.2");
    LibraryFinder finder = new LibraryFinder(EmulatedDevice.reader(Map.of()), List.of(folder));

    assertThat(finder.find(Library.NVRTC, 12).where()).isEqualTo(older.toString());
    Files.delete(older);
    assertThatThrownBy(() -> finder.find(Library.NVRTC, 12))
        .isInstanceOf(CudaException.class)
        .hasMessage(
            "NVRTC not found: libnvrtc.so.13 needs a newer driver; the loader knows no"
                + " libnvrtc.so.12; the loader knows no libnvrtc.so.11.2 (looked where the loader"
                + " does and in [%s]; -Dmeanflow.cuda.nvrtc=FILE names it)",
            folder);
  }

  @Test
  void aSettingThatNamesNoFileIsAnErrorWhateverElseThereIs(@TempDir Path folder) {
    Map<String, String> settings =
        Map.of("meanflow.cuda.cublasLt", folder.resolve("no.so").toString());
    assertThatThrownBy(
            () -> new LibraryFinder(EmulatedDevice.reader(settings)).find(Library.CUBLAS_LT, 13))
        .isInstanceOf(CudaException.class)
        .hasMessage("meanflow.cuda.cublasLt names no file: " + folder.resolve("no.so"));
  }
}
