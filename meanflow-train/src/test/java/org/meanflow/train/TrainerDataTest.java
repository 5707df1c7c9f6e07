package org.meanflow.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.awt.image.BufferedImage;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import javax.imageio.ImageIO;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.meanflow.nn.dit.DiT;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;
import org.meanflow.train.data.DataException;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.optim.Ema;
import org.meanflow.train.recipe.Recipe;

/** A trainer on files that are read while it trains. */
class TrainerDataTest {
  @TempDir Path folder;

  private Path picture(String name, int grey) throws IOException {
    BufferedImage image = new BufferedImage(8, 8, BufferedImage.TYPE_3BYTE_BGR);
    for (int i = 0; i < 64; i++) {
      image.setRGB(i % 8, i / 8, grey * 0x10101);
    }
    Path file = folder.resolve(name);
    Files.createDirectories(file.getParent());
    ImageIO.write(image, "png", file.toFile());
    return file;
  }

  private Recipe recipe() throws IOException {
    return Recipe.load("cifar10")
        .with(
            List.of(
                "data={format: image-folder, images: ., flip: true}",
                "data.folder='" + folder + "'",
                "model.imageSize=8",
                "model.patch=4",
                "model.width=16",
                "model.depth=1",
                "model.heads=2",
                "model.classes=2",
                "model.timeFeatures=8",
                "run.batch=2"));
  }

  private static Trainer trainer(Engine engine, Recipe recipe, ImageDataset data) {
    return new Trainer(
        engine,
        new DiT(recipe.dit()),
        data,
        new Trainer.Settings(
            recipe::objective,
            recipe.adamW(),
            recipe.learningRate(),
            new Ema(0.9, false),
            recipe.run().batch(),
            recipe.run().seed()));
  }

  @Test
  void aStepThatCannotBeReadChangesNothingAndCanBeTakenAgain() throws IOException {
    picture("a/1.png", 10);
    Path broken = picture("b/1.png", 200);
    byte[] whole = Files.readAllBytes(broken);
    Files.write(broken, Arrays.copyOf(whole, whole.length - 20));
    Recipe recipe = recipe();
    try (Engine engine = Engines.create("nd4j", Precision.FP32);
        ImageDataset data = recipe.dataset();
        Trainer trainer = trainer(engine, recipe, data)) {
      assertThatThrownBy(trainer::step)
          .isInstanceOf(DataException.class)
          .hasMessageContaining("1.png: byte 33: the file breaks off in a chunk after 'IHDR'");
      assertThat(trainer.stepsTaken()).isZero();
      Files.write(broken, whole);
      StepReport report = trainer.step();
      assertThat(trainer.stepsTaken()).isEqualTo(1);
      // The first step waits for two small files to be read.
      assertThat(report.dataWait()).isGreaterThan(0).isLessThan(30);
    }
  }
}
