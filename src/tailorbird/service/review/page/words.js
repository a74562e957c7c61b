/** Texts of the review for kinds of findings, probabilities and decisions. */

/** @type {Record<string, [string, string]>} the name of one finding, of several */
const KINDS = {
  unsure: ["Not sure", "Not sure"],
  "suspect-label": ["Suspect label", "Suspect labels"],
  unfamiliar: ["Unlike all others", "Unlike all others"],
  "conflicting-label": ["Conflicting labels", "Conflicting labels"],
  leak: ["Leak between splits", "Leaks between splits"],
  duplicate: ["Duplicate", "Duplicates"],
  "near-duplicate": ["Near duplicate", "Near duplicates"],
};

/** Returns "3 photos". @param {number} n @param {string} one */
export const count = (n, one) => `${n.toLocaleString("en")} ${n === 1 ? one : `${one}s`}`;

/** @param {string} kind */
export const kindName = (kind) => KINDS[kind]?.[0] ?? kind;

/** @param {string} kind */
export const kindNames = (kind) => KINDS[kind]?.[1] ?? kind;

export const KIND_ORDER = Object.keys(KINDS);

/**
 * A probability in words. None is "certain": of the first 20 suspects among real photos, six had
 * the right label.
 * @param {number} p 0 to 1
 */
export function likely(p) {
  if (p >= 0.75) return "very likely";
  if (p >= 0.5) return "likely";
  if (p >= 0.25) return "possible";
  if (p >= 0.05) return "unlikely";
  return "very unlikely";
}

/** @param {import("./store.js").Photo} photo */
export function decisionWords(photo) {
  if (photo.decision === "keep") return `Kept as ${photo.label}`;
  if (photo.decision === "exclude") return "Excluded";
  return photo.decision === "relabel" ? `Relabelled ${photo.now}` : "";
}

/** The keys and what they do. @type {[string[], string][]} */
export const KEYS = [
  [["K"], "Keep the label"],
  [["⏎", "R"], "Accept the suggested label or answer. Not sure: ⏎ the first class, R the second"],
  [["X"], "Exclude the photo from training"],
  [["1", "9"], "One photo: relabel it as that class. Several: select that photo"],
  [["L"], "Choose another class by name"],
  [["O"], "Several photos: keep only the selected one"],
  [["A"], "Several photos: keep all"],
  [["Z"], "Undo"],
  [["←", "→"], "Previous finding, next finding"],
  [["F"], "Show the photo as large as the window"],
  [["?"], "Show this list"],
];
