/** Sends one photo, and retries after a wait when the server answers that it is busy. */

import { ApiError } from "./api.js";
import { predict } from "./calls.js";

const TRIES = 3; // after the first
const DEFAULT_WAIT = 3; // seconds, for a 503 without Retry-After
const LONGEST_WAIT = 60; // seconds

/**
 * @typedef {{onProgress: (share: number) => void, onWait: (seconds: number, tryNumber: number,
 *   tries: number) => void}} Listener
 * @param {Blob} photo
 * @param {boolean} heatmaps
 * @param {AbortSignal} signal
 * @param {Listener} listener
 * @returns {Promise<import("./calls.js").Answer>}
 */
export async function send(photo, heatmaps, signal, { onProgress, onWait }) {
  for (let tried = 0; ; tried += 1) {
    try {
      return await predict(photo, { heatmaps, signal, onProgress });
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 503 || tried === TRIES) throw error;
      const wanted = Math.ceil(error.retryAfter ?? DEFAULT_WAIT);
      const seconds = Math.min(LONGEST_WAIT, Math.max(1, wanted));
      for (let left = seconds; left > 0; left -= 1) {
        onWait(left, tried + 1, TRIES);
        await pause(1000, signal);
      }
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}
