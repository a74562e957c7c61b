/**
 * The API page: reads /openapi.json and shows each operation with its parameters, bodies, answers
 * and a curl command.
 */

import { byId, el, icon } from "./dom.js";
import { getOpenApi } from "./calls.js";
import { curl } from "./curl.js";
import { fields, prose, resolved, typeOf } from "./schema.js";
import { sentence } from "./messages.js";

const METHODS = ["get", "post", "put", "patch", "delete", "head"];

/**
 * @typedef {{id: string, method: string, path: string, operation: Record<string, any>, parameters:
 *   Record<string, any>[]}} Entry
 */

/**
 * @param {Record<string, any>} document
 * @returns {Map<string, Entry[]>} by tag, in the document's order
 */
function byTag(document) {
  /** @type {Map<string, Entry[]>} */
  const groups = new Map((document.tags ?? []).map(({ name }) => [name, []]));
  for (const [path, item] of Object.entries(document.paths ?? {})) {
    for (const method of METHODS.filter((name) => item[name])) {
      const operation = item[method];
      const parameters = [...(item.parameters ?? []), ...(operation.parameters ?? [])].map((each) =>
        resolved(document, each),
      );
      const tag = operation.tags?.[0] ?? "Operations";
      const id = `${method}${path}`.replaceAll(/[^a-z0-9]+/gi, "-").toLowerCase();
      groups.set(tag, [...(groups.get(tag) ?? []), { id, method, path, operation, parameters }]);
    }
  }
  return new Map([...groups].filter(([, entries]) => entries.length));
}

/** @param {Record<string, any>} document @param {Entry} entry */
function shown(document, { id, method, path, operation, parameters }) {
  const body = operation.requestBody ? resolved(document, operation.requestBody) : null;
  const responses = Object.entries(operation.responses ?? {});
  return el(
    "article",
    { id, class: "operation", "aria-labelledby": `${id}-title` },
    el(
      "h3",
      { id: `${id}-title` },
      el("span", { class: `method ${method}` }, method.toUpperCase()),
      " ",
      el("code", {}, path),
    ),
    operation.summary ? el("p", { class: "summary" }, operation.summary) : null,
    operation.description && operation.description !== operation.summary
      ? el("p", { class: "long" }, ...prose(operation.description))
      : null,
    part(
      "Example",
      command(
        curl(document, method, path, operation, parameters),
        `curl command for ${method.toUpperCase()} ${path}`,
      ),
      ...exampleAnswer(responses, `Example answer of ${method.toUpperCase()} ${path}`),
    ),
    parameters.length
      ? part(
          "Parameters",
          el("ul", { class: "fields" }, ...parameters.map((each) => parameter(document, each))),
        )
      : null,
    body
      ? part(
          "Body",
          body.description ? el("p", { class: "quiet" }, body.description) : null,
          ...contents(document, body.content, true),
        )
      : null,
    responses.length
      ? part(
          "Answers",
          ...responses.map(([status, raw]) => answer(document, status, resolved(document, raw))),
        )
      : null,
  );
}

/** Returns the JSON of the first answer that has an example. @param {string} name for people */
function exampleAnswer(responses, name) {
  const value = responses
    .map(([, each]) => each.content?.["application/json"]?.example)
    .find((each) => each !== undefined);
  return value === undefined
    ? []
    : [
        el("p", { class: "quiet" }, "Example answer"),
        el(
          "pre",
          { class: "json", tabindex: "0", role: "region", "aria-label": name },
          el("code", {}, JSON.stringify(value, null, 2)),
        ),
      ];
}

function part(title, ...children) {
  return el("section", { class: "part" }, el("h4", {}, title), ...children);
}

function parameter(document, { name, in: place, required, description, schema }) {
  const { default: usual, description: inherited } = resolved(document, schema);
  return el(
    "li",
    {},
    el(
      "p",
      {},
      el("code", { class: "name" }, name),
      " ",
      el(
        "span",
        { class: "type" },
        `${typeOf(document, schema)}, in ${place}` +
          (usual === undefined ? "" : `, default ${JSON.stringify(usual)}`),
      ),
      required ? el("span", { class: "must" }, "required") : null,
    ),
    (description ?? inherited)
      ? el("p", { class: "quiet" }, ...prose(description ?? inherited))
      : null,
  );
}

function contents(document, content, sent) {
  return Object.entries(content ?? {}).map(([type, { schema }]) =>
    el(
      "div",
      { class: "content" },
      el(
        "p",
        {},
        el("code", {}, type),
        " ",
        el("span", { class: "type" }, schema ? typeOf(document, schema) : ""),
      ),
      schema ? fields(document, schema, sent) : null,
    ),
  );
}

function answer(document, status, { description, content, headers }) {
  const inside = [
    ...Object.entries(headers ?? {}).map(([name, header]) =>
      el(
        "p",
        { class: "quiet" },
        el("code", {}, name),
        ` ${resolved(document, header).description ?? ""}`,
      ),
    ),
    ...contents(document, content, false),
  ];
  const line = [
    el("span", { class: `status ${status[0] === "2" ? "fine" : ""}` }, status),
    " ",
    ...prose(description ?? ""),
  ];
  return inside.length
    ? el(
        "details",
        { class: "one", open: status[0] === "2" },
        el("summary", {}, ...line),
        ...inside,
      )
    : el("p", { class: "one" }, ...line);
}

/**
 * Creates a block with a command and a button that copies it.
 * @param {string} text
 * @param {string} name for screen readers
 */
function command(text, name) {
  const copy = el("button", { type: "button" }, "Copy");
  copy.addEventListener("click", async () => {
    const done = await navigator.clipboard.writeText(text).then(
      () => true,
      () => false,
    );
    copy.textContent = done ? "Copied" : "Select it and copy";
    setTimeout(() => (copy.textContent = "Copy"), 2000);
  });
  // Browsers offer the clipboard to secure pages only.
  return el(
    "div",
    { class: "command" },
    el("pre", { tabindex: "0", role: "region", "aria-label": name }, el("code", {}, text)),
    navigator.clipboard ? copy : null,
  );
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function heading(document, tag) {
  const description = document.tags?.find(({ name }) => name === tag)?.description;
  return [
    el("h2", {}, capital(tag)),
    description ? el("p", { class: "quiet" }, ...prose(description)) : null,
  ];
}

/** Whether the operations of a tag are folded: few readers need them. */
const folded = (document, tag) =>
  document.tags?.find(({ name }) => name === tag)?.["x-folded"] === true;

function contentsList(document, groups) {
  return [...groups].flatMap(([tag, entries]) => {
    const list = contentsOf(entries);
    return folded(document, tag)
      ? [el("details", {}, el("summary", {}, capital(tag)), list)]
      : [el("p", {}, capital(tag)), list];
  });
}

function contentsOf(entries) {
  return el(
    "ul",
    {},
    ...entries.map(({ id, method, path }) =>
      el(
        "li",
        {},
        el(
          "a",
          { href: `#${id}` },
          el("span", { class: `method ${method}` }, method.toUpperCase()),
          el("span", {}, path),
        ),
      ),
    ),
  );
}

/** Opens the folded group of the operation that the address names, and scrolls to it. */
function showTarget() {
  const target = window.document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  const group = target.closest("details.group");
  if (group instanceof HTMLDetailsElement) group.open = true;
  target.scrollIntoView();
}

function group(document, tag, entries) {
  const operations = entries.map((entry) => shown(document, entry));
  const count = `${entries.length} operations`;
  return folded(document, tag)
    ? el(
        "details",
        { class: "group" },
        el("summary", {}, ...heading(document, tag), el("span", { class: "quiet" }, count)),
        ...operations,
      )
    : el("section", { class: "group" }, ...heading(document, tag), ...operations);
}

async function start() {
  try {
    const document = await getOpenApi();
    const groups = byTag(document);
    const { title, version, description } = document.info ?? {};
    byId("title").textContent = `${title ?? "API"} ${version ?? ""}`.trim();
    byId("about").replaceChildren(...prose(description ?? ""));
    byId("contents").replaceChildren(...contentsList(document, groups));
    const shownGroups = [...groups].map(([tag, entries]) => group(document, tag, entries));
    byId("operations").replaceChildren(...shownGroups);
    showTarget();
    window.addEventListener("hashchange", showTarget);
  } catch (error) {
    byId("about").textContent = "";
    byId("notice").replaceChildren(
      el(
        "div",
        { class: "trouble" },
        icon("alert"),
        el("p", {}, `${sentence(error.message)} Reload the page to try again.`),
      ),
    );
    if (!error.code) console.error(error);
  }
}

start();
