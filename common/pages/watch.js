// "Watch": a board's LCD, poses, figures and console, and what measures it. Which board: the page's list, or the only one.
import { ask, at, guarded, json, post as postJson, rows, save } from "/page.js";

let from = 0, shown = -1, text = "", known = "", source = null;
let board = null;        // {key, title …} where the page has several
let boards = null;       // null: this server shows one board only
let reportShown = "";

const query = (path, more = {}) => path + "?" + new URLSearchParams({ board: board?.key ?? "", ...more });

async function post(path, value) {
  const answer = await ask(query(path), { method: "POST", body: JSON.stringify(value) });
  at("error").textContent = answer.ok ? "" : await answer.text();
}

async function showPicture() {
  const answer = await ask(query("/lcd.png"));
  if (!answer.ok) return;
  const before = at("lcd").src;
  at("lcd").src = URL.createObjectURL(await answer.blob());
  URL.revokeObjectURL(before);
}

function showFigures(figures) {
  at("figures").textContent = figures.heading;
  at("fps").textContent = figures.fps;
  at("unit").textContent = figures.fps_unit;
  rows(at("stages"), figures.rows, figures.columns);
  at("notes").replaceChildren(...figures.notes.map(note =>
    Object.assign(document.createElement("p"), { className: "dim", textContent: note })));
}

/** Another board is shown from now on. */
export function choose(key) {
  board = boards?.find(one => one.key === key) ?? null;
  from = 0;
  shown = -1;
  text = known = "";
  source = null;
  at("console").textContent = at("error").textContent = "";
  if (board) at("which").value = board.key;
  at("report").hidden = true;
  reportShown = "";
}

async function refreshBoards() {
  boards = (await json("/boards")).boards;
  const names = boards.map(one => one.key).join();
  if (at("which").dataset.names !== names) {
    at("which").dataset.names = names;
    at("which").replaceChildren(...boards.map(one => new Option(one.title, one.key)));
  }
  at("which-label").hidden = boards.length < 2;
  at("measure").hidden = !boards.length;
  if (!boards.some(one => one.key === board?.key)) choose((boards.find(one => one.live) ?? boards[0])?.key);
  board = boards.find(one => one.key === board?.key) ?? null;
  if (!board) return;
  at("which").value = board.key;
  const busy = board.state === "working";
  at("diff").disabled = at("certify").disabled = busy;
  at("measuring").textContent = busy ? `${board.doing}: ${board.step}` : board.live ? board.step : board.error;
  const stamp = board.has_report && !busy ? board.key + board.step : "";
  if (stamp && stamp !== reportShown) {
    reportShown = stamp;
    at("report").srcdoc = await (await ask(query("/boards/report"))).text();
  }
  at("report").hidden = at("save-report").hidden = !stamp;
}

async function poll() {
  try {
    if (boards) await refreshBoards();
    if (boards && !board?.live) {
      at("title").textContent = board ? board.title : "No board yet";
      at("mode").textContent = board ? (board.state === "working" ? board.doing : board.error || "not looked at yet") : "add one under Flash";
      return;
    }
    const answer = await ask(query("/state", { from }));
    if (!answer.ok) {
      at("mode").textContent = boards ? "busy" : "not let in";
      at("error").textContent = boards ? "" : await answer.text();
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
    at("title").textContent = board?.title ?? state.title;
    at("watch").classList.toggle("watching", Boolean(state.watching));
    at("mode").textContent = state.mode;
    at("baud").textContent = state.baud;
    showFigures(state.figures);
    rows(at("poses"), state.poses.length
      ? state.poses.map((pose, i) => ["person " + (pose.id ?? i + 1), pose.score + " %"]) : [["none", ""]]);
    at("camera").hidden = !state.sources?.length;
    if (state.source !== source && state.sources) {
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
  } finally {
    setTimeout(poll, at("watch").hidden ? 1000 : 120);
  }
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
at("which").addEventListener("change", () => choose(at("which").value));
at("certify").addEventListener("click", () => guarded(() => postJson("/boards/certify", { key: board.key })));
at("diff").addEventListener("click", () => guarded(async () => {
  const { order } = await import("/flash.js");
  await postJson("/boards/diff", { key: board.key, ...order() });
}));
at("save-report").addEventListener("click", () => save(new Blob([at("report").srcdoc], { type: "text/html" }), "report.html"));
if ((await json("/views")).views.includes("flash")) boards = [];
poll();
