package org.meanflow.train.recipe;

import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;

/** Finds the word that was meant. */
final class Spelling {

  private Spelling() {}

  /**
   * The known word with the fewest edits from {@code word}, whatever the case of the letters.
   *
   * @return that word; {@code null} if none is within a third of the letters and one edit
   */
  static @Nullable String nearest(String word, List<String> known) {
    String nearest = null;
    int fewest = 2 + word.length() / 3;
    for (String candidate : known) {
      int edits = edits(word.toLowerCase(Locale.ROOT), candidate.toLowerCase(Locale.ROOT));
      if (edits < fewest && edits < candidate.length()) {
        nearest = candidate;
        fewest = edits;
      }
    }
    return nearest;
  }

  /** Letters to insert, delete or replace (Levenshtein distance). */
  static int edits(String a, String b) {
    int[] row = new int[b.length() + 1]; // edits from the prefix of a seen so far to each of b
    for (int j = 0; j <= b.length(); j++) {
      row[j] = j;
    }
    for (int i = 1; i <= a.length(); i++) {
      int diagonal = row[0];
      row[0] = i;
      for (int j = 1; j <= b.length(); j++) {
        int replaced = diagonal + (a.charAt(i - 1) == b.charAt(j - 1) ? 0 : 1);
        diagonal = row[j];
        row[j] = Math.min(replaced, 1 + Math.min(row[j], row[j - 1]));
      }
    }
    return row[b.length()];
  }
}
