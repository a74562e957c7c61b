/**
 * Shrinks a photo before it is sent: a 12-megapixel photo becomes about 150 KB, which is enough for
 * the model and quick to send from a phone.
 */

const LONGEST = 1024; // pixels; models use 128 to 384
const SHORTEST = 448; // pixels of the shorter side, of which a model may cut out a square
const SMALL = 1024 * 1024; // bytes
const QUALITY = 0.9;

/**
 * @typedef {{blob: Blob, width: number, height: number}} Prepared width and height are 0 when the
 *   browser cannot decode the photo
 */

/**
 * Returns the photo to send: unchanged if it is small or cannot be decoded here, else upright, over
 * white, at most LONGEST pixels per side unless the other would be below SHORTEST, as JPEG.
 * @param {Blob} file
 * @param {string[]} accepts the server's formats, such as "JPEG"
 * @returns {Promise<Prepared>}
 */
export async function prepare(file, accepts) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    return { blob: file, width: 0, height: 0 }; // the server will report the error
  }
  try {
    const { width, height } = bitmap;
    const known = accepts.some((format) => file.type === `image/${format.toLowerCase()}`);
    const scale = Math.min(
      1,
      Math.max(LONGEST / Math.max(width, height), SHORTEST / Math.min(width, height)),
    );
    if (known && scale === 1 && file.size <= SMALL) return { blob: file, width, height };
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    const context = canvas.getContext("2d", { alpha: false });
    if (!context) return { blob: file, width, height };
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
    return blob
      ? { blob, width: canvas.width, height: canvas.height }
      : { blob: file, width, height };
  } finally {
    bitmap.close();
  }
}
