package org.meanflow;

import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.noClasses;
import static com.tngtech.archunit.library.Architectures.layeredArchitecture;
import static org.assertj.core.api.Assertions.assertThat;

import com.tngtech.archunit.core.domain.JavaClasses;
import com.tngtech.archunit.core.importer.ClassFileImporter;
import com.tngtech.archunit.core.importer.ImportOption;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** The modules depend on each other in one direction, and libraries on no particular backend. */
class ArchitectureTest {
  private static final String[] LIBRARIES = {
    "org.meanflow.core..", "org.meanflow.nn..", "org.meanflow.sample..", "org.meanflow.train.."
  };

  private static JavaClasses classes;

  @BeforeAll
  static void importMainClasses() {
    classes =
        new ClassFileImporter()
            .withImportOption(new ImportOption.DoNotIncludeTests())
            .importPackages("org.meanflow");
  }

  /** Maven's modules cannot be the only guard: a package in the wrong module would pass. */
  @Test
  void dependenciesRunFromExamplesToCore() {
    layeredArchitecture()
        .consideringOnlyDependenciesInLayers()
        .withOptionalLayers(true)
        .layer("core")
        .definedBy("org.meanflow.core..")
        .layer("nn")
        .definedBy("org.meanflow.nn..")
        .layer("sample")
        .definedBy("org.meanflow.sample..")
        .layer("train")
        .definedBy("org.meanflow.train..")
        .layer("examples")
        .definedBy("org.meanflow.examples..")
        .whereLayer("core")
        .mayNotAccessAnyLayer()
        .whereLayer("nn")
        .mayOnlyAccessLayers("core")
        .whereLayer("sample")
        .mayOnlyAccessLayers("core", "nn")
        .whereLayer("train")
        .mayOnlyAccessLayers("core", "nn", "sample")
        .check(classes);
  }

  @Test
  void librariesDoNotDependOnAnNd4jBackend() {
    noClasses()
        .that()
        .resideInAnyPackage(LIBRARIES)
        .should()
        .dependOnClassesThat()
        .resideInAnyPackage("org.nd4j.linalg.cpu..", "org.nd4j.linalg.jcublas..")
        .allowEmptyShould(true)
        .check(classes);
  }

  @Test
  void everyClassIsInAModulesPackage() {
    assertThat(classes)
        .extracting(c -> c.getPackageName())
        .allMatch(p -> p.matches("org\\.meanflow\\.(core|nn|sample|train|examples)(\\..*)?"));
  }
}
