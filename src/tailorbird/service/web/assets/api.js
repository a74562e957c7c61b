/** Calls the server that served the page. Every failure becomes an ApiError. */

import { forSellers, t } from "./texts.js";
import { askToken, token } from "./token.js";

export class ApiError extends Error {
  /**
   * @param {number} status HTTP status, 0 when there was no answer
   * @param {string} code as in the API's error table; "network", "timeout" or "unexpected"
   *   otherwise
   * @param {string} message the server's message, if it sent one
   * @param {number | null} retryAfter seconds
   */
  constructor(status, code, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

export const NO_ANSWER = new ApiError(0, "network", t("error.network.what"));
export const ANSWER_WITHIN = 60_000; // milliseconds; the server's own deadline is shorter

export function failure(status, body, retryAfter) {
  const seconds = Number.parseFloat(retryAfter ?? "");
  const wait = Number.isFinite(seconds) && seconds >= 0 ? seconds : null;
  const problem = body?.error;
  if (problem && typeof problem.message === "string")
    return new ApiError(status, String(problem.code), problem.message, wait);
  return new ApiError(status, "unexpected", t("error.status.what", { status }), wait);
}

export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

export function bearer() {
  return token() ? { Authorization: `Bearer ${token()}` } : {};
}

/**
 * Runs a call. If the server requires a token, asks for one and runs the call again. A page for
 * sellers asks nobody: the shop's own server adds the token.
 * @template T
 * @param {() => Promise<T>} call
 * @returns {Promise<T>}
 */
export async function withToken(call) {
  for (;;) {
    const used = token();
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 401) throw error;
      if (forSellers) throw new ApiError(401, "signed_out", t("error.signed_out.what"));
      if (token() !== used) continue; // another call has asked meanwhile
      try {
        await askToken(used !== "");
      } catch {
        throw error;
      }
    }
  }
}

/**
 * Requests JSON; `options` as for `fetch`, such as the method.
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<any>}
 */
export async function json(path, options = {}) {
  return withToken(async () => {
    let response;
    try {
      response = await fetch(path, {
        ...options,
        headers: { ...options.headers, ...bearer() },
        signal: AbortSignal.timeout(ANSWER_WITHIN),
      });
    } catch {
      throw NO_ANSWER;
    }
    const body = parsed(await response.text().catch(() => ""));
    if (!response.ok || body === null)
      throw failure(response.status, body, response.headers.get("Retry-After"));
    return body;
  });
}
