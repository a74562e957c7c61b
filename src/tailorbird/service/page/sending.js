/** Sends one photo, and waits and tries again by itself when the server says that it is busy. */

import { ApiError } from "./api.js";
import { predict } from "./calls.js";

const TRIES = 3; // beyond the first
const UNTOLD = 3; // seconds, where a 503 names none
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
      const seconds = Math.min(LONGEST_WAIT, Math.max(1, Math.ceil(error.retryAfter ?? UNTOLD)));
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
