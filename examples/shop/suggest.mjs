// node suggest.mjs PHOTO [RIGHT CATEGORY]; TAILORBIRD_URL and TAILORBIRD_TOKEN say where and who
import { readFile } from "node:fs/promises";

const { TAILORBIRD_URL: url = "http://127.0.0.1:8000", TAILORBIRD_TOKEN: token = "" } = process.env;
const [photo, answer] = process.argv.slice(2);
const call = async (path, body, kind) => {
  const headers = { "Content-Type": kind, Authorization: `Bearer ${token}` };
  return (await fetch(url + path, { method: "POST", headers, body })).json();
};
const said = await call("/v1/predict?top=3", await readFile(photo), "application/octet-stream");
const { label, unsure, receipt } = said.results[0];
console.log(unsure ? `not sure: ${label}?` : label);
if (answer) await call("/v1/corrections", JSON.stringify({ receipt, answer }), "application/json");
