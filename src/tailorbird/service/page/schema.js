/**
 * Shows a JSON Schema (2020-12, as OpenAPI 3.1 uses it) as nested lists, and generates an example
 * of it.
 */

import { el } from "./dom.js";

/** @typedef {Record<string, any>} Schema */

const DEEPEST = 8; // nested levels; a schema may contain itself

/**
 * Returns the target of a `$ref` within the document; other values are returned unchanged.
 * @param {Schema} document @param {any} value @returns {any}
 */
export function resolved(document, value) {
  let seen = 0;
  while (value && typeof value.$ref === "string" && seen < DEEPEST) {
    const { $ref, ...rest } = value;
    if (!$ref.startsWith("#/")) return { ...rest, description: rest.description ?? $ref };
    const steps = $ref
      .slice(2)
      .split("/")
      .map((step) => decodeURIComponent(step).replaceAll("~1", "/").replaceAll("~0", "~"));
    const target = steps.reduce((node, step) => node?.[step], document);
    if (target === undefined) return { ...rest, description: `${$ref} is missing` };
    value = { ...target, ...rest };
    seen += 1;
  }
  return value ?? {};
}

/** Returns the name of a referenced schema, "" for an inline one. @param {any} value */
const named = (value) => (typeof value?.$ref === "string" ? value.$ref.split("/").pop() : "");

/**
 * Returns a schema's type in words, such as "array of Result" or "integer, 1 to 100".
 * @param {Schema} document
 * @param {any} raw
 * @returns {string}
 */
export function typeOf(document, raw, depth = 0) {
  const name = named(raw);
  const schema = resolved(document, raw);
  if (depth > DEEPEST) return name || "…";
  const several = schema.oneOf ?? schema.anyOf;
  if (several)
    return [...new Set(several.map((each) => typeOf(document, each, depth + 1)))].join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((each) => JSON.stringify(each)).join(" | ");
  const types = [schema.type ?? (schema.properties ? "object" : "any")].flat();
  const words = types.map((type) => {
    if (type === "array")
      return schema.items ? `array of ${typeOf(document, schema.items, depth + 1)}` : "array";
    if (type === "object" && name) return name;
    if (type === "object" && schema.additionalProperties?.type)
      return `object of ${typeOf(document, schema.additionalProperties, depth + 1)}`;
    return schema.format === "binary" || schema.contentMediaType ? "bytes" : type;
  });
  return `${words.join(" or ")}${limits(schema)}`;
}

function limits(schema) {
  const low = schema.minimum ?? schema.minItems ?? schema.minLength;
  const high = schema.maximum ?? schema.maxItems ?? schema.maxLength;
  const unit =
    schema.maxItems !== undefined || schema.minItems !== undefined
      ? " items"
      : schema.maxLength !== undefined || schema.minLength !== undefined
        ? " characters"
        : "";
  const range =
    low !== undefined && high !== undefined
      ? `${low} to ${high}${unit}`
      : low !== undefined
        ? `at least ${low}${unit}`
        : high !== undefined
          ? `at most ${high}${unit}`
          : "";
  return range ? `, ${range}` : "";
}

/**
 * Lists the fields of an object, or of the objects in an array; returns null if there are none.
 * @param {Schema} document @param {any} raw
 * @param {boolean} sent true for request bodies, whose required fields are marked; false for
 *   responses, in which fields that may be absent are marked
 * @param {string[]} [above] names of the enclosing schemas, to stop at circular references
 * @returns {HTMLElement | null}
 */
export function fields(document, raw, sent, above = []) {
  const schema = resolved(document, raw);
  const open = named(raw) ? [...above, named(raw)] : above;
  if (open.length > DEEPEST || (named(raw) && above.includes(named(raw)))) return null;
  const several = schema.oneOf ?? schema.anyOf ?? schema.allOf;
  if (several) {
    const lists = several
      .map((each) => [named(each), fields(document, each, sent, open)])
      .filter(([, list]) => list);
    if (!lists.length) return null;
    return el(
      "div",
      { class: "either" },
      ...lists.map(([name, list]) =>
        el("div", {}, name ? el("p", { class: "quiet" }, name) : null, list),
      ),
    );
  }
  if (schema.items) return fields(document, schema.items, sent, open);
  if (!schema.properties) return null;
  const required = new Set(schema.required ?? []);
  return el(
    "ul",
    { class: "fields" },
    ...Object.entries(schema.properties).map(([name, child]) =>
      field(document, name, child, sent, required.has(name), open),
    ),
  );
}

/**
 * Returns text with its `code` as code elements.
 * @param {string} text
 * @returns {(string | HTMLElement)[]}
 */
export function prose(text) {
  return text.split("`").map((piece, index) => (index % 2 ? el("code", {}, piece) : piece));
}

function field(document, name, child, sent, required, open) {
  const note =
    sent && required
      ? el("span", { class: "must" }, "required")
      : !sent && !required
        ? el("span", { class: "type" }, ", may be absent")
        : null;
  const schema = resolved(document, child);
  return el(
    "li",
    {},
    el(
      "p",
      {},
      el("code", { class: "name" }, name),
      " ",
      el("span", { class: "type" }, typeOf(document, child)),
      note,
      schema.default === undefined
        ? null
        : el("span", { class: "type" }, `, default ${JSON.stringify(schema.default)}`),
    ),
    schema.description ? el("p", { class: "quiet" }, ...prose(schema.description)) : null,
    fields(document, child, sent, open),
  );
}

/**
 * Returns a valid value: the schema's own example, if it has one.
 * @param {Schema} document
 * @param {any} raw
 * @returns {any}
 */
export function example(document, raw, depth = 0) {
  const schema = resolved(document, raw);
  const given =
    schema.example ?? schema.examples?.[0] ?? schema.default ?? schema.const ?? schema.enum?.[0];
  if (given !== undefined || depth > DEEPEST) return given ?? null;
  const several = schema.oneOf ?? schema.anyOf ?? schema.allOf;
  if (several?.length) return example(document, several[0], depth + 1);
  const type = [schema.type ?? (schema.properties ? "object" : "string")].flat()[0];
  if (type === "object")
    return Object.fromEntries(
      Object.entries(schema.properties ?? {}).map(([name, child]) => [
        name,
        example(document, child, depth + 1),
      ]),
    );
  if (type === "array") return schema.items ? [example(document, schema.items, depth + 1)] : [];
  return (
    { integer: schema.minimum ?? 1, number: schema.minimum ?? 0.5, boolean: true, null: null }[
      type
    ] ?? "…"
  );
}
