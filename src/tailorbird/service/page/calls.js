/** Calls of the service's API. */

import {
  ANSWER_WITHIN,
  ApiError,
  bearer,
  failure,
  json,
  NO_ANSWER,
  parsed,
  withToken,
} from "./api.js";
import { t } from "./texts.js";

/**
 * @typedef {{label: string, probability: number}} Ranked
 * @typedef {{label: string, width: number, height: number, values: number[][]}} Heatmap rows of
 *   values 0 to 1
 * @typedef {{label: string, probability: number, unsure: boolean, unfamiliar?: boolean, top:
 *   Ranked[], threshold: number, receipt: string | null, heatmaps?: Heatmap[]}} Result
 * @typedef {{model: {name: string, sha256: string}, results: Result[]}} Answer
 * @typedef {{size: number, keep_aspect?: boolean, share?: number}} ResizeRule
 * @typedef {{name: string, sha256: string, classes: string[], resize: ResizeRule, display: {label:
 *   string, name: string}[], scores: Record<string, any>, created:
 *   string, heatmaps: boolean, corrections: boolean,
 *   new_classes: boolean, keep_photos: boolean, accepts: string[],
 *   limits: {body_bytes: number, pixels: number, photos:
 *   number}}} Model
 */

/** @returns {Promise<Model>} */
export const getModel = () => json("v1/model");

/**
 * Returns the function that gives a class its name for people.
 * @param {Model | null} model
 * @returns {(label: string) => string}
 */
export function naming(model) {
  const names = new Map((model?.display ?? []).map(({ label, name }) => [label, name]));
  return (label) => names.get(label) ?? label;
}

/** @returns {Promise<import("./dashboard.js").Stats>} */
export const getStats = () => json("v1/corrections/stats");

/** @returns {Promise<Record<string, any>>} */
export const getOpenApi = () => json("openapi.json");

/**
 * Stores the correct class of a photo.
 * @param {string} receipt @param {string | null} answer a class, or what the person typed; null:
 *   none of these
 * @param {Blob | null} photo the bytes that were predicted, if the server keeps photos
 * @returns {Promise<{id: number, right: boolean, answer: string | null, new_class: boolean,
 *   stored_photo: boolean, note: string | null}>}
 */
export function correct(receipt, answer, photo) {
  const said = answer === null ? { none_of_these: true } : { answer };
  if (!photo) {
    const body = JSON.stringify({ receipt, ...said });
    return json("v1/corrections", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body,
    });
  }
  const body = new FormData();
  body.append("receipt", receipt);
  for (const [name, value] of Object.entries(said)) body.append(name, String(value));
  body.append("photo", photo, "photo");
  return json("v1/corrections", { method: "POST", body });
}

/**
 * Classifies one photo. Uses XMLHttpRequest, because fetch does not report upload progress.
 * @param {Blob} photo
 * @param {{heatmaps: boolean, signal: AbortSignal, onProgress: (share: number) => void}} options
 *   share: 0 to 1 of the bytes sent
 * @returns {Promise<Answer>}
 */
export function predict(photo, { heatmaps, signal, onProgress }) {
  return withToken(
    () =>
      new Promise((resolve, reject) => {
        signal.throwIfAborted();
        const request = new XMLHttpRequest();
        const stop = () => request.abort();
        signal.addEventListener("abort", stop);
        request.open("POST", `v1/predict?top=3&heatmap=${heatmaps ? 1 : 0}`);
        request.timeout = ANSWER_WITHIN;
        // Only image types are sent; in other cases the server identifies the format by the bytes.
        request.setRequestHeader(
          "Content-Type",
          photo.type.startsWith("image/") ? photo.type : "application/octet-stream",
        );
        for (const [name, value] of Object.entries(bearer())) request.setRequestHeader(name, value);
        request.upload.onprogress = (event) =>
          event.lengthComputable && onProgress(event.loaded / event.total);
        request.onloadend = () => signal.removeEventListener("abort", stop);
        request.onabort = () => reject(signal.reason);
        request.onerror = () => reject(NO_ANSWER);
        request.ontimeout = () =>
          reject(new ApiError(0, "timeout", t("error.timeout.what")));
        request.onload = () => {
          const body = parsed(request.responseText);
          if (request.status === 200 && body?.results?.[0]?.top) resolve(body);
          else reject(failure(request.status, body, request.getResponseHeader("Retry-After")));
        };
        request.send(photo);
      }),
  );
}
