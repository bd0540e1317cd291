// A panel to choose one LoRA out of thousands: search as you type, folders, pictures. Only what is seen is drawn.
import { el, openPanel } from "./dom.js";
import { bareName, folderOf, loraFacts, loraNames, previewAddress, slashed } from "./loras.js";
import { showPicture } from "./row_view.js";
import { t } from "./strings.js";

const LINE = 44; // pixels of one name
const SPARE = 4; // lines drawn above and below what is seen
const HOVER = 120; // ms after which the large picture follows

// Names that hold all words of the query, best first: file names that begin with it, then those with a word that does.
export function searched(entries, query, folder) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const within = folder ? entries.filter((entry) => entry.folder === folder || entry.folder.startsWith(`${folder}/`)) : entries;
  if (!words.length) return within;
  const scored = [];
  for (const entry of within) {
    let score = 0;
    for (const word of words) {
      const at = entry.file.indexOf(word);
      if (at < 0 && !entry.path.includes(word)) {
        score = -1;
        break;
      }
      score += at === 0 ? 4 : at > 0 && /[\s_.-]/.test(entry.file[at - 1]) ? 3 : at > 0 ? 2 : 1;
    }
    if (score > 0) scored.push([score, entry]);
  }
  return scored.sort((one, other) => other[0] - one[0] || one[1].file.length - other[1].file.length).map(([, entry]) => entry);
}

export function entriesOf(names) {
  const entries = names.map((name) => ({ name, path: slashed(name).toLowerCase(), file: bareName(name).toLowerCase(), folder: folderOf(name) }));
  return entries.sort((one, other) => (one.path < other.path ? -1 : one.path > other.path ? 1 : 0));
}

// Opens beside the anchor; chosen(name) is called with what a person takes. query: what is searched for at first.
export function openChooser(anchor, { current = "", query = "", chosen }) {
  const id = `loom-choices-${Math.random().toString(36).slice(2)}`;
  const box = el("input", { class: "loom-input loom-search", type: "text", role: "combobox", "aria-expanded": "true", "aria-controls": id, "aria-autocomplete": "list", autocomplete: "off", spellcheck: "false" });
  const folders = el("select", { class: "loom-input loom-folders", "aria-label": t("allFolders") });
  const sizer = el("div", { class: "loom-sizer" });
  const list = el("div", { class: "loom-choices", id, role: "listbox", "aria-label": t("chooseOne"), tabindex: "-1" }, sizer);
  const status = el("div", { class: "loom-status", role: "status" });
  const large = el("span", { class: "loom-thumb loom-large", "aria-hidden": "true" });
  const about = el("div", { class: "loom-about" }, large, el("bdi", { class: "loom-about-name" }), el("div", { class: "loom-dim" }));
  const content = el("div", { class: "loom-chooser" }, el("div", { class: "loom-bar" }, box, folders), el("div", { class: "loom-both" }, list, about), status);
  box.value = query;
  // top and high: what of the list is in sight. Asking the element at every key would lay the whole page out each time.
  const state = { entries: [], shown: [], active: 0, drawn: new Map(), top: 0, high: 0 };
  const sized = new ResizeObserver(() => {
    state.high = list.clientHeight;
    activate(state.active);
  });
  const close = openPanel(anchor, content, { label: t("chooseOne"), width: 560, className: "loom-chooser-panel", onClose: () => sized.disconnect() });
  box.focus({ preventScroll: true });
  box.select();

  const take = (entry) => {
    if (!entry) return;
    close();
    chosen(entry.name);
  };
  const scrollTo = (top) => {
    if (top !== state.top) list.scrollTop = top;
    state.top = top;
  };
  const activate = (place, scroll = true) => {
    state.active = Math.max(0, Math.min(state.shown.length - 1, place));
    const top = state.active * LINE;
    if (scroll && top < state.top) scrollTo(top);
    if (scroll && state.high && top + LINE > state.top + state.high) scrollTo(top + LINE - state.high);
    draw();
    preview();
  };
  const draw = () => drawLines(state, { sizer, box, id, current, take, activate });
  let hover;
  const preview = () => {
    clearTimeout(hover);
    hover = setTimeout(() => showAbout(about, state.shown[state.active]), HOVER);
  };
  const search = () => {
    state.shown = searched(state.entries, box.value, folders.value);
    sizer.style.height = `${state.shown.length * LINE}px`;
    scrollTo(0);
    status.textContent = state.entries.length === 0 ? t("noLoras") : state.shown.length ? t("found", { n: state.shown.length }) : t("noMatch");
    const at = box.value ? 0 : state.shown.findIndex((entry) => entry.name === current);
    activate(Math.max(0, at));
  };
  box.addEventListener("input", search);
  folders.addEventListener("change", () => {
    search();
    box.focus({ preventScroll: true });
  });
  const scrolled = () => {
    state.top = list.scrollTop;
    draw();
  };
  list.addEventListener("scroll", scrolled, { passive: true });
  sized.observe(list);
  content.addEventListener("keydown", (raised) => {
    const page = Math.max(1, Math.floor(state.high / LINE) - 1);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page }[raised.key];
    if (raised.target === folders) return;
    if (step !== undefined) activate(state.active + step);
    else if (raised.key === "Enter") take(state.shown[state.active]);
    else return;
    raised.preventDefault();
  });
  loraNames().then((names) => {
    state.entries = entriesOf(names);
    box.placeholder = t("search", { n: names.length });
    box.setAttribute("aria-label", box.placeholder);
    folders.append(...folderOptions(state.entries));
    search();
  });
  return close;
}

function folderOptions(entries) {
  const counts = new Map();
  for (const { folder } of entries) {
    const parts = folder.split("/");
    for (let depth = 1; folder && depth <= parts.length; depth += 1) {
      const above = parts.slice(0, depth).join("/");
      counts.set(above, (counts.get(above) ?? 0) + 1);
    }
  }
  const listed = [...counts].sort(([one], [other]) => (one < other ? -1 : 1));
  return [["", entries.length], ...listed].map(([folder, count]) => el("option", { value: folder, text: `${folder || t("allFolders")} (${count})` }));
}

// Draws the lines that are in sight; those that still are stay as they are.
function drawLines(state, { sizer, box, id, current, take, activate }) {
  const first = Math.max(0, Math.floor(state.top / LINE) - SPARE);
  const last = Math.min(state.shown.length, Math.ceil((state.top + state.high) / LINE) + SPARE);
  const wanted = new Map();
  for (let place = first; place < last; place += 1) wanted.set(state.shown[place].name, place);
  for (const [name, line] of state.drawn) {
    if (!wanted.has(name)) {
      line.remove();
      state.drawn.delete(name);
    }
  }
  for (const [name, place] of wanted) {
    const line = state.drawn.get(name) ?? makeLine(state.shown[place]);
    if (!state.drawn.has(name)) sizer.append(line);
    state.drawn.set(name, line);
    line.id = `${id}-${place}`;
    line.style.top = `${place * LINE}px`;
    line.setAttribute("aria-posinset", place + 1);
    line.setAttribute("aria-setsize", state.shown.length);
    line.setAttribute("aria-selected", String(place === state.active));
    line.classList.toggle("loom-current", name === current);
    line.onclick = () => take(state.shown[place]);
    line.onpointermove = () => place !== state.active && activate(place, false);
  }
  box.setAttribute("aria-activedescendant", state.shown.length ? `${id}-${state.active}` : "");
}

function makeLine(entry) {
  const picture = el("span", { class: "loom-thumb loom-medium", "aria-hidden": "true" });
  const base = el("span", { class: "loom-base" });
  showPicture(picture, entry.name);
  const names = el("span", { class: "loom-names" }, el("bdi", { class: "loom-file", text: bareName(entry.name) }), el("bdi", { class: "loom-folder", text: entry.folder }));
  const line = el("div", { class: "loom-choice", role: "option" }, picture, names, base);
  // What only flies past while scrolling or typing is not asked for.
  setTimeout(async () => {
    const facts = line.isConnected ? await loraFacts(entry.name) : null;
    if (!facts || !line.isConnected) return;
    if (previewAddress(facts)) showPicture(picture, entry.name, facts);
    base.textContent = facts.made_for ?? "";
  }, HOVER);
  return line;
}

async function showAbout(about, entry) {
  const [large, name, words] = about.children;
  about.hidden = !entry;
  if (!entry || !about.isConnected) return;
  const facts = await loraFacts(entry.name);
  showPicture(large, entry.name, facts);
  name.textContent = facts?.title?.value.slice(0, 200) ?? bareName(entry.name);
  const told = [facts?.kind, (facts?.words ?? []).map((word) => word.value).join(", ")].filter(Boolean);
  words.replaceChildren(...told.map((text) => el("bdi", { class: "loom-told-line", text: text.slice(0, 300) })));
}
