/**
 * Accepts photos and folders: chosen, taken, pasted, or dropped anywhere on the page.
 */

import { byId } from "./dom.js";
import { t } from "./texts.js";

/**
 * @param {(files: File[]) => void} onFiles
 * @param {(message: string) => void} onNothing called for pasted or dropped content without a file
 */
export function listen(onFiles, onNothing) {
  for (const id of ["choose", "camera"]) {
    const input = /** @type {HTMLInputElement} */ (byId(id));
    input.addEventListener("change", () => {
      onFiles([...(input.files ?? [])]);
      input.value = ""; // the same file can be chosen again
    });
  }
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    const typing = event.target instanceof HTMLInputElement;
    if (files.length) {
      event.preventDefault();
      onFiles(files);
    } else if (!typing) onNothing(t("upload.clipboard"));
  });
  listenForDrops(onFiles, onNothing);
}

function listenForDrops(onFiles, onNothing) {
  let depth = 0; // dragenter and dragleave fire for every element the pointer crosses
  const over = (on) => document.body.classList.toggle("dropping", on);
  // Other drags, such as text into a field, are left to the browser.
  const carriesFiles = (event) =>
    ["Files", "text/uri-list"].some((type) => event.dataTransfer?.types.includes(type));
  document.addEventListener("dragenter", (event) => {
    if (!carriesFiles(event)) return;
    depth += 1;
    over(true);
  });
  document.addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    over(depth > 0);
  });
  document.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  document.addEventListener("drop", async (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    depth = 0;
    over(false);
    const files = await dropped(event.dataTransfer);
    if (files.length) onFiles(files);
    else onNothing(t("upload.no_photo"));
  });
}

/**
 * Returns the files of a drop, also from folders. The transfer is readable only until the first
 * await.
 * @param {DataTransfer | null} transfer
 */
async function dropped(transfer) {
  if (!transfer) return [];
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const found = items.map((item) => ({ entry: item.webkitGetAsEntry?.(), file: item.getAsFile() }));
  if (!items.length) return [...transfer.files];
  const lists = await Promise.all(
    found.map(({ entry, file }) => (entry?.isDirectory ? inFolder(entry) : file ? [file] : [])),
  );
  return lists.flat();
}

async function inFolder(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
    return file?.type.startsWith("image/") ? [file] : []; // ignore other files of a folder
  }
  const reader = entry.createReader();
  const files = [];
  for (;;) {
    const batch = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!batch.length) return files;
    for (const child of batch) files.push(...(await inFolder(child)));
  }
}
