/** Writes an operation as a curl command against this server. */

import { example, resolved } from "./schema.js";

/** Quotes text for a POSIX shell. @param {string} text */
const quoted = (text) => (/^[\w./:@=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** Returns the service's address: the folder of this page, perhaps with a proxy's prefix. */
const base = () => location.href.replace(/[?#].*$/, "").replace(/\/[^/]*$/, "");

/**
 * @param {Record<string, any>} document
 * @param {string} method in lower case
 * @param {string} path
 * @param {Record<string, any>} operation
 * @param {Record<string, any>[]} parameters resolved
 * @returns {string}
 */
export function curl(document, method, path, operation, parameters) {
  const value = (parameter) => parameter.example ?? example(document, parameter.schema ?? {});
  let place = path;
  const query = new URLSearchParams();
  for (const parameter of parameters) {
    if (parameter.in === "path") {
      const given = value(parameter);
      place = place.replace(
        `{${parameter.name}}`,
        given === "…" ? parameter.name.toUpperCase() : encodeURIComponent(given),
      );
    } else if (parameter.in === "query") query.set(parameter.name, String(value(parameter)));
  }
  const address = `${base()}${place}${query.size ? `?${query}` : ""}`;
  const parts = [`curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}${quoted(address)}`];
  const security = operation.security ?? document.security ?? [];
  if (security.some((each) => Object.keys(each).length))
    parts.push('-H "Authorization: Bearer $TOKEN"');
  return [...parts, ...body(document, operation)].join(" \\\n  ");
}

function body(document, operation) {
  const content = resolved(document, operation.requestBody).content ?? {};
  const types = Object.keys(content);
  const json = types.find((type) => type.endsWith("json"));
  const image = types.find((type) => type.startsWith("image/"));
  const raw = types.find((type) => type === "application/octet-stream");
  if (image)
    return [
      `-H "Content-Type: ${image.includes("*") ? "image/jpeg" : image}"`,
      "--data-binary @photo.jpg",
    ];
  if (json) {
    const media = content[json];
    const text = JSON.stringify(
      media.example ??
        Object.values(media.examples ?? {})[0]?.value ??
        example(document, media.schema),
    );
    return [`-H "Content-Type: ${json}"`, `-d ${quoted(text)}`];
  }
  if (types.includes("multipart/form-data")) {
    const properties = resolved(document, content["multipart/form-data"].schema).properties ?? {};
    return Object.entries(properties).map(([name, child]) => {
      const schema = resolved(document, child);
      const file =
        JSON.stringify([schema, resolved(document, schema.items)]).includes('"binary"') ||
        schema.contentMediaType;
      return `-F ${quoted(`${name}=${file ? "@photo.jpg" : example(document, child)}`)}`;
    });
  }
  return raw ? ['-H "Content-Type: application/octet-stream"', "--data-binary @body.bin"] : [];
}
