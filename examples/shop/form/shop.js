/** Suggests the category of a photo in a form for sellers; the seller decides. */

const byId = (id) => document.getElementById(id);
const select = byId("category");
const names = new Map(); // the model's label -> the name for people
let receipt = ""; // of the last suggestion; with it the seller's choice can be reported
let chosen = false; // whether the seller has chosen since the photo was added
let newest = 0; // number of the last photo; an answer about an earlier one comes too late

async function api(path, body) {
  const answer = await fetch(path, body === undefined ? {} : { method: "POST", body });
  if (!answer.ok) throw new Error(String(answer.status));
  return answer.json();
}

/** Lists the categories, the likely ones first. */
function offer(likely) {
  const rest = [...names.keys()].filter((label) => !likely.includes(label));
  const options = [...likely, ...rest].map((label) => new Option(names.get(label) ?? label, label));
  const none = new Option("None of these", "none");
  select.replaceChildren(new Option("Please choose", ""), ...options, none);
}

function show(found) {
  const [first, second] = found.top.map(({ label }) => names.get(label) ?? label);
  receipt = found.receipt ?? ""; // null when the service stores no corrections
  if (chosen) return;
  offer(found.top.map(({ label }) => label));
  if (!found.unsure) select.value = found.label;
  byId("hint").textContent = found.unsure
    ? `Not sure: perhaps ${first}${second ? ` or ${second}` : ""}? Please choose.`
    : `We think this is “${first}”. Change it if not.`;
}

byId("photo").addEventListener("change", async () => {
  const [photo] = byId("photo").files;
  if (!photo) return;
  URL.revokeObjectURL(byId("preview").src);
  byId("preview").src = URL.createObjectURL(photo);
  byId("preview").hidden = false;
  const number = (newest += 1);
  receipt = "";
  chosen = false;
  offer([]);
  byId("hint").textContent = "Looking at the photo…";
  try {
    const found = await api("suggest", photo);
    if (number === newest) show(found);
  } catch {
    if (number === newest) byId("hint").textContent = "No suggestion this time. Please choose.";
  }
});

select.addEventListener("change", () => (chosen = true));

byId("listing").addEventListener("submit", async (event) => {
  event.preventDefault();
  const listing = { title: byId("title").value, category: select.value, receipt };
  try {
    const { number } = await api("listings", JSON.stringify(listing));
    byId("done").textContent = `On sale as number ${number}.`;
  } catch {
    byId("done").textContent = "That did not work. Please try again.";
  }
});

api("categories").then(
  (all) => {
    for (const { label, name } of all) names.set(label, name);
    offer([]);
  },
  () => (byId("hint").textContent = "The categories could not be loaded. Please reload the page."),
);
