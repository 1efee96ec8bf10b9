// The page's frame: this run's key, tabs, tooltips. Each view is a module of its own, loaded when it is first shown.
export const at = id => document.getElementById(id);
// The key stands behind the # of the address: the browser gives it to this script only (common/page_server.py).
const key = location.hash.slice(1);

export function ask(path, more = {}) {
  return fetch(path, { ...more, headers: { "X-Key": key } });
}

/** The answer's JSON; an Error with the server's words when it refuses. */
export async function json(path, more = {}) {
  const answer = await ask(path, more);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

export const post = (path, value) => json(path, { method: "POST", body: JSON.stringify(value) });

/** One line for everybody, screen readers too; none takes it away. */
export function alertLine(text = "") {
  if (at("alert").textContent !== text) at("alert").textContent = text;
}

/** Runs what may fail and says why it did. */
export async function guarded(work) {
  try {
    const value = await work();
    alertLine();
    return value;
  } catch (error) {
    alertLine(error.message || String(error));
    return null;
  }
}

/** A file of the page's own making, into the browser's downloads. */
export function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** A "?" beside everything that has data-tip: words for a term, by mouse, finger, keyboard and screen reader. */
export function addTips(root) {
  for (const owner of root.querySelectorAll("[data-tip]")) {
    const text = Object.assign(document.createElement("span"), { textContent: owner.dataset.tip });
    text.setAttribute("role", "tooltip");
    const mark = Object.assign(document.createElement("button"), { type: "button", className: "tip", textContent: "?" });
    mark.setAttribute("aria-label", "What is this? " + owner.dataset.tip);
    mark.append(text);
    mark.addEventListener("click", event => { event.preventDefault(); mark.focus(); });
    // Behind the control: a label belongs to the first control in it. Beside a button: a button holds no other.
    if (owner.tagName === "BUTTON") owner.after(mark); else owner.append(mark);
    delete owner.dataset.tip;
  }
}

/** A table's rows as text, with a heading where `columns` has one. */
export function rows(table, lines, columns = []) {
  const row = (kind, values) => {
    const made = document.createElement("tr");
    for (const value of values) made.append(Object.assign(document.createElement(kind), { textContent: value }));
    return made;
  };
  table.replaceChildren(...(columns.length && lines.length ? [row("th", columns)] : []),
    ...lines.map(line => row("td", line)));
}

const loaders = { try: () => import("/try.js"), flash: () => import("/flash.js"), watch: () => import("/watch.js") };
const loaded = {};

export async function show(name) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const chosen = tab.getAttribute("aria-controls") === name;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    const panel = at(tab.getAttribute("aria-controls"));
    if (panel) panel.hidden = !chosen;
  }
  loaded[name] ??= loaders[name]();
  const view = await loaded[name];
  at(name).dataset.ready = "yes";
  view.shown?.();
  return view;
}

async function start() {
  const { views } = await json("/views");
  const tabs = [...document.querySelectorAll("[role=tab]")];
  for (const tab of tabs) {
    tab.hidden = !views.includes(tab.getAttribute("aria-controls"));
    tab.addEventListener("click", () => guarded(() => show(tab.getAttribute("aria-controls"))));
    tab.addEventListener("keydown", event => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const there = tabs.filter(one => !one.hidden);
      const next = there[(there.indexOf(tab) + step + there.length) % there.length];
      next.focus();
      next.click();
    });
  }
  addTips(document);
  await show(views[0]);
  document.body.dataset.ready = "yes";
}
window.addEventListener("hashchange", () => location.reload());
guarded(start);
