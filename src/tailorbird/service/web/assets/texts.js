/** The page's texts, in its language; `site.js` is made by the server. */

import { site } from "./site.js";

const locale = site.language === "en" ? "en-GB" : site.language;

/** Whether the page is for sellers: it names no model, shows no message of the server, asks for no
 * token. */
export const forSellers = document.documentElement.dataset.readers === "sellers";

/** Whether the server's messages, which are English, may be shown. */
export const showsMessages = !forSellers && site.language === "en";

const plural = new Intl.PluralRules(locale);
const whole = new Intl.NumberFormat(locale, { style: "percent" });
const fine = new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: 1 });

/** @param {string} key a path such as "card.unsure" @returns {string | undefined} */
function found(key) {
  const text = key.split(".").reduce((node, part) => node?.[part], site.texts);
  return typeof text === "string" ? text : undefined;
}

/** Whether there is a text for a key. @param {string} key */
export const hasText = (key) => found(key) !== undefined;

/**
 * Returns a text with values in place of its {names}.
 * @param {string} key
 * @param {Record<string, unknown>} [values]
 */
export function t(key, values = {}) {
  return parts(key, values).join("");
}

/**
 * Returns a text in parts, with values, such as elements, in place of its {names}.
 * @param {string} key
 * @param {Record<string, any>} values
 * @returns {any[]}
 */
export function parts(key, values) {
  const text = found(key);
  if (text === undefined) throw new Error(`the page has no text ${key}`);
  return text
    .split(/\{(\w+)\}/)
    .map((part, index) => (index % 2 ? values[part] ?? `{${part}}` : part));
}

/** @param {number} n */
export const number = (n) => n.toLocaleString(locale);

/** Returns "3 photos". @param {string} what a key of `count` @param {number} n */
export const counted = (what, n) => t(`count.${what}.${plural.select(n)}`, { n: number(n) });

/**
 * Whether an interval of an accuracy is so wide that its photos are too few to state one figure.
 * @param {[number, number]} interval
 */
export const tooFew = ([low, high]) => high - low > 0.1;

/** 0.934 -> "93%"; a probability below 1 is never shown as 100%. @param {number} p 0 to 1 */
export function percent(p) {
  if (p > 0.99 && p < 1) return fine.format(Math.min(0.999, Math.round(p * 1000) / 1000));
  if (p > 0 && p < 0.01) return t("number.under", { share: whole.format(0.01) });
  return whole.format(p);
}

/** Returns a probability for screen readers. @param {number} p 0 to 1 */
export const spoken = (p) => percent(p).replace(/\s?%/, ` ${t("number.percent")}`);

/** @param {Date} date @param {Intl.DateTimeFormatOptions} options */
export const dated = (date, options) => date.toLocaleString(locale, options);
