"use strict";
const at = id => document.getElementById(id);
// This run's key stands behind the # of the address: the browser gives it to this script only (common/page_server.py).
const key = location.hash.slice(1);
let from = 0, shown = -1, text = "", known = "", source = null;

function ask(path, more = {}) {
  return fetch(path, { ...more, headers: { "X-Key": key } });
}
async function post(path, value) {
  const answer = await ask(path, { method: "POST", body: JSON.stringify(value) });
  at("error").textContent = answer.ok ? "" : await answer.text();
}
async function showPicture() {
  const answer = await ask("/lcd.png");
  if (!answer.ok) return;
  const before = at("lcd").src;
  at("lcd").src = URL.createObjectURL(await answer.blob());
  URL.revokeObjectURL(before);
}
function rows(table, lines, columns = []) {
  const row = (kind, values) => {
    const made = document.createElement("tr");
    for (const value of values) made.append(Object.assign(document.createElement(kind), { textContent: value }));
    return made;
  };
  table.replaceChildren(...(columns.length && lines.length ? [row("th", columns)] : []),
    ...lines.map(line => row("td", line)));
}
function showFigures(figures) {
  at("figures").textContent = figures.heading;
  at("fps").textContent = figures.fps;
  at("unit").textContent = figures.fps_unit;
  rows(at("stages"), figures.rows, figures.columns);
  at("notes").replaceChildren(...figures.notes.map(note =>
    Object.assign(document.createElement("p"), { className: "dim", textContent: note })));
}
async function poll() {
  try {
    const answer = await ask("/state?from=" + from);
    if (!answer.ok) {
      at("mode").textContent = "not let in";
      at("error").textContent = await answer.text();
      return;
    }
    const state = await answer.json();
    from = state.end;
    if (state.console || state.prompt !== known) {
      const log = at("console"), stick = log.scrollTop + log.clientHeight > log.scrollHeight - 20;
      text = (text + state.console).slice(-100000);
      known = state.prompt;
      log.textContent = text + (known.startsWith("{") ? "" : known);
      if (stick) log.scrollTop = log.scrollHeight;
    }
    at("title").textContent = state.title;
    document.body.classList.toggle("watching", Boolean(state.watching));
    at("mode").textContent = state.mode;
    at("baud").textContent = state.baud;
    showFigures(state.figures);
    rows(at("poses"), state.poses.length
      ? state.poses.map((pose, i) => ["person " + (pose.id ?? i + 1), pose.score + " %"]) : [["none", ""]]);
    if (state.source !== source) {
      source = state.source;
      const names = state.sources.includes(source) ? state.sources : [source, ...state.sources];
      at("choices").replaceChildren(...names.map(name => new Option(name)));
      at("source").value = at("choices").value = source;
    }
    document.body.dataset.frames = state.lcd;
    if (state.lcd !== shown) {
      shown = state.lcd;
      await showPicture();
    }
  } catch (gone) {
    at("mode").textContent = "it has ended";
  }
  setTimeout(poll, 120);
}
document.querySelectorAll("[data-reset]").forEach(button =>
  button.addEventListener("click", () => post("/reset", { boot: button.dataset.reset === "boot" })));
document.querySelectorAll("[data-keys]").forEach(button =>
  button.addEventListener("click", () => post("/keys", { text: button.dataset.keys })));
at("keys").addEventListener("keydown", event => {
  if (event.key !== "Enter") return;
  post("/keys", { text: event.target.value + "\r" });
  event.target.value = "";
});
at("choices").addEventListener("change", () => { at("source").value = at("choices").value; });
at("camera").addEventListener("submit", event => {
  event.preventDefault();
  post("/camera", { source: at("source").value });
});
window.addEventListener("hashchange", () => location.reload());
poll();
