// "Flash": the boards that are there, what is put on them, how far it is, and their settings.
import { addTips, ask, at, guarded, json, post, rows, save, show } from "/page.js";

const [choices, firmware, fields, kinds] = await Promise.all(["/try/choices", "/firmware", "/settings", "/kinds"].map(path => json(path)));
const cards = new Map();   // key → the board's <li>
let wasFlashing = new Set(), planned = "", known = [];

/** What is to be put on boards. */
export const order = () => ({
  network: at("flash-network").value, size: at("flash-size").value, mount: Number(at("flash-mount").value),
  firmware: at("flash-firmware").value, board: at("flash-board").value,
});

const chosen = () => known.filter(board => cards.get(board.key)?.querySelector(".chosen").checked);

// -- boards ---------------------------------------------------------------------------------------------------

function card(board) {
  const made = at("board").content.cloneNode(true).firstElementChild;
  const press = (name, work) => made.querySelector(name).addEventListener("click", () => guarded(async () => { await work(); await refresh(); }));
  made.querySelector(".title").textContent = board.title;
  made.querySelector(".detail").textContent = board.detail;
  made.querySelector(".chosen").checked = true;
  press(".look", () => post("/boards/look", { key: board.key }));
  press(".undo", () => post("/boards/restore", { key: board.key }));
  press(".remove", () => post("/boards/remove", { key: board.key }));
  press(".watch-it", () => watch(board.key));
  addTips(made);
  at("boards").append(made);
  cards.set(board.key, made);
  return made;
}

async function watch(key) {
  const view = await show("watch");
  view.choose(key);
}

function update(made, board) {
  const find = name => made.querySelector(name), busy = board.state === "working";
  made.className = `board ${board.state}`;
  made.dataset.state = board.state;
  const set = (name, text) => { if (find(name).textContent !== text) find(name).textContent = text; };
  set(".step", board.state === "failed" ? "" : board.state === "idle" ? "" : board.step);
  set(".failed", board.error);
  const bar = find("progress");
  bar.hidden = !busy;
  if (board.bar) bar.value = 100 * board.bar[1] / Math.max(board.bar[2], 1); else bar.removeAttribute("value");
  bar.setAttribute("aria-label", board.bar ? board.bar[0] : "working");
  find(".look").disabled = find(".undo").disabled = find(".remove").disabled = busy;
  find(".watch-it").hidden = !board.live;
  find(".remove").hidden = board.kind === "port" && board.state === "idle";
  find(".log").hidden = !board.log.length;
  set(".log pre", board.log.join("\n"));
  const facts = Object.entries(board.facts ?? {}).map(([name, value]) => [name.replaceAll("_", " "), Array.isArray(value) ? value.join(" ") : String(value)]);
  if (find(".facts").dataset.shown !== JSON.stringify(facts)) {
    find(".facts").dataset.shown = JSON.stringify(facts);
    rows(find(".facts"), facts);
  }
}

async function refresh() {
  const { boards, why_none } = await json("/boards");
  known = boards;
  for (const board of boards) update(cards.get(board.key) ?? card(board), board);
  for (const [key, made] of cards) {
    if (boards.some(board => board.key === key)) continue;
    made.remove();
    cards.delete(key);
  }
  at("no-board").hidden = boards.length > 0;
  at("no-board").textContent = why_none || "No board is connected. Plug one in with a USB cable that carries data: it appears here. Or add a simulated one.";
  const flashing = new Set(boards.filter(board => board.state === "working" && board.doing === "flashing").map(board => board.key));
  const ended = [...wasFlashing].filter(key => !flashing.has(key));
  // One board alone: its LCD is what its owner wants to see now.
  if (ended.length === 1 && wasFlashing.size === 1 && boards.find(board => board.key === ended[0])?.live) await watch(ended[0]);
  if (!flashing.size || [...flashing].some(key => !wasFlashing.has(key))) wasFlashing = flashing;
  fillSettings();
}

// -- what is put on them --------------------------------------------------------------------------------------

function sizes() {
  const usual = choices.networks.find(one => one.name === at("flash-network").value).size;
  at("flash-size").replaceChildren(...[...new Set([usual, ...choices.sizes])].map(size => new Option(size)));
}

async function plan() {
  const wanted = JSON.stringify(order());
  if (wanted === planned) return;
  planned = wanted;
  at("flash-package").disabled = true;
  while (planned === wanted) {
    const made = await json("/boards/plan", { method: "POST", body: wanted });
    if (planned !== wanted) return;
    at("plan").textContent = made.wait ? `Getting it ready: ${made.wait} …` : "Will be written if it differs: "
      + made.parts.map(part => `${part.name}, ${Math.round(part.bytes / 1024)} KiB at ${part.address}`).join("; ")
      + `; ${made.files} scripts, ${Math.round(made.bytes / 1024)} KiB.`;
    at("flash-package").disabled = Boolean(made.wait);
    if (!made.wait) return;
    await new Promise(done => setTimeout(done, 500));
  }
}

// -- settings.json --------------------------------------------------------------------------------------------

let settingsOf = null;

function control(field) {
  const { key, kind, choices: options, may_be_null: nullable } = field;
  let made;
  if (options || kind === "switch") {
    made = document.createElement("select");
    made.append(new Option(`as usual (${JSON.stringify(field.default)})`, ""));
    if (nullable) made.append(new Option("null", "null"));
    for (const value of options ?? [true, false]) made.append(new Option(options ? value : value ? "on" : "off", JSON.stringify(value)));
  } else {
    made = Object.assign(document.createElement("input"), { type: kind === "number" ? "number" : "text", placeholder: JSON.stringify(field.default) });
    if (kind === "number") made.min = 0;
  }
  made.name = key;
  return made;
}

function valueOf(field, text) {
  if (text === "") return undefined;
  if (field.kind === "text" && !field.choices && text !== "null") return text;
  try {
    return JSON.parse(text);
  } catch {
    throw new Error(`${field.key}: ${text} is no JSON`);
  }
}

function fillSettings() {
  const boards = chosen(), board = boards.length === 1 ? boards[0] : null;
  at("settings-board").textContent = board ? `Of ${board.title}.${board.settings === null ? " Press Read to see what it has." : ""}` : "Choose one board above.";
  at("settings-read").disabled = at("settings-write").disabled = !board || board.state === "working";
  const stamp = board && board.settings !== null ? board.key + board.settings : null;
  if (stamp === settingsOf || stamp === null) return;
  settingsOf = stamp;
  let values = {};
  try { values = JSON.parse(board.settings || "{}"); } catch { /* the board says so itself */ }
  for (const field of fields) {
    const value = values[field.key], element = at("settings-form").elements[field.key];
    element.value = value === undefined ? "" : field.kind === "text" && !field.choices && value !== null ? value : JSON.stringify(value);
  }
}

for (const field of fields) {
  const label = document.createElement("label"), name = document.createElement("span"), words = document.createElement("small");
  name.textContent = field.key;
  words.textContent = field.words;
  label.append(name, control(field), words);
  at("settings-form").append(label);
}
const foot = Object.assign(document.createElement("div"), { className: "row" });
foot.append(
  Object.assign(document.createElement("button"), { type: "button", id: "settings-read", textContent: "Read from the board" }),
  Object.assign(document.createElement("button"), { id: "settings-write", textContent: "Write to the board" }),
  Object.assign(document.createElement("span"), { id: "settings-board", className: "dim" }));
at("settings-form").append(foot);
at("settings-read").addEventListener("click", () => guarded(async () => { settingsOf = null; await post("/boards/look", { key: chosen()[0].key }); await refresh(); }));
at("settings-form").addEventListener("submit", event => {
  event.preventDefault();
  guarded(async () => {
    const settings = {};
    for (const field of fields) {
      const value = valueOf(field, at("settings-form").elements[field.key].value);
      if (value !== undefined) settings[field.key] = value;
    }
    await post("/boards/settings", { key: chosen()[0].key, settings });
    await refresh();
  });
});

// -- start ----------------------------------------------------------------------------------------------------

for (const { name, what, here, megabytes } of choices.networks) {
  at("flash-network").append(Object.assign(new Option(here ? name : `${name} (fetched first, ${megabytes} MB)`, name), { title: what }));
}
at("flash-network").value = choices.chosen;
at("flash-mount").append(...choices.mounts.map(mount => new Option(mount ? `turned ${mount}°` : "upright", mount)));
at("flash-firmware").append(...firmware.map(([name, what]) => Object.assign(new Option(name, name), { title: what })));
sizes();
at("flash-network").addEventListener("change", sizes);
at("flash-board").append(...kinds.map(([name, title]) => new Option(title, name)));
for (const id of ["network", "size", "mount", "firmware", "board"]) at("flash-" + id).addEventListener("change", () => guarded(plan));
at("flash-go").addEventListener("click", () => guarded(async () => {
  await post("/boards/flash", { keys: chosen().map(board => board.key), ...order() });
  await refresh();
}));
at("flash-package").addEventListener("click", () => guarded(async () => {
  const answer = await ask("/boards/package", { method: "POST", body: JSON.stringify(order()) });
  if (!answer.ok) throw new Error(await answer.text());
  save(await answer.blob(), "poses.kfpkg");
}));
at("add-sim").addEventListener("click", () => guarded(async () => { await post("/boards/add", { kind: "sim" }); await refresh(); }));
at("add-port").addEventListener("submit", event => {
  event.preventDefault();
  guarded(async () => { await post("/boards/add", { port: at("port").value }); at("port").value = ""; await refresh(); });
});

async function poll() {
  const busy = known.some(board => board.state === "working");
  if (!at("flash").hidden || busy) await refresh().catch(() => {});
  setTimeout(poll, busy ? 250 : 1000);
}

/** Called whenever the view is opened. */
export function shown() {
  guarded(async () => { await refresh(); await plan(); });
}
poll();
