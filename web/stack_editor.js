// The list of rows with its head and foot: what a person does to rows becomes the text that the node keeps.
import { openChooser } from "./chooser.js";
import { el, icon, iconButton, keepEvents, openMenu } from "./dom.js";
import { dragRow } from "./drag_row.js";
import { openInfo } from "./info.js";
import { listedName, loraFacts, loraNames } from "./loras.js";
import { marksOf } from "./marks.js";
import { isOn, readRows, rowsText, withFields } from "./rows_model.js";
import { rowView } from "./row_view.js";
import { openStackMenu, pasted } from "./stack_menu.js";
import { t } from "./strings.js";

const EMPTY = '{"version": 1, "rows": []}';
const MESSAGE = 6000; // ms that a message stands
const FIRST_HEIGHT = 74;
const LINE_HEIGHT = 36;

// host: node, isLinked(), wrote(text, done), resized(). Returns {element, text, setText, height, ran, failed, refresh, removed}.
export function stackEditor(host) {
  const parts = makeParts();
  const state = { text: EMPTY, rows: [], locks: {}, fault: null, asText: false, states: [], views: [], told: new Map(), failed: "", facts: new Map(), high: FIRST_HEIGHT };
  const editor = { host, state, parts };

  // Each change makes new rows; equal text is not written again. done: false while a gesture goes on.
  editor.write = (rows, { locks = state.locks, states = state.states, done = true } = {}) => {
    Object.assign(state, { rows, locks, states, fault: null });
    state.text = rowsText(rows, locks);
    host.wrote(state.text, done);
    editor.draw();
  };
  editor.change = (place, fields, done = true) => {
    const rows = [...state.rows];
    rows[place] = withFields(rows[place], fields);
    if ("lora" in fields) state.failed = "";
    editor.write(rows, { done });
  };
  editor.insert = (rows, at = state.rows.length, locks = {}) => {
    const states = [...state.states];
    states.splice(at, 0, ...rows.map(() => ({ open: false })));
    editor.write([...state.rows.slice(0, at), ...rows, ...state.rows.slice(at)], { states, locks: { ...locks, ...state.locks } });
  };
  editor.remove = (place) => {
    const without = (list) => list.filter((_, index) => index !== place);
    editor.write(without(state.rows), { states: without(state.states) });
    (state.views[Math.min(place, state.views.length - 1)]?.name ?? parts.add).focus({ preventScroll: true });
  };
  editor.move = (from, to, done = true) => {
    if (to < 0 || to >= state.rows.length) return;
    // Rows move by one place; it is the neighbour that is taken out and put back, so that this one keeps its focus.
    if (to > from) state.views[from].element.before(state.views[to].element);
    if (to < from) state.views[from].element.after(state.views[to].element);
    for (const list of [state.rows, state.states, state.views]) list.splice(to, 0, ...list.splice(from, 1));
    editor.write([...state.rows], { states: [...state.states], done });
  };
  editor.choose = (anchor, place, query = "") => {
    const current = state.rows[place]?.lora ?? "";
    openChooser(anchor, { current: listedName(current) ?? "", query, chosen: (lora) => choose(editor, place, lora) });
  };
  editor.say = (text) => say(editor, text);
  editor.draw = () => draw(editor);
  editor.showText = (shown) => {
    state.asText = shown;
    if (!shown) read(editor, state.text);
    editor.draw();
    if (shown) parts.box.focus({ preventScroll: true });
  };
  listen(editor);
  const watch = new ResizeObserver(() => measure(editor));
  watch.observe(parts.inner);
  loraNames().then(() => editor.draw());
  editor.draw();
  return {
    element: parts.element,
    text: () => state.text,
    setText: (text) => {
      if (text === state.text) return;
      read(editor, String(text ?? ""));
      editor.draw();
    },
    height: () => state.high,
    ran: (told) => {
      Object.assign(state, { told: new Map(told.map((item) => [item.lora, item])), failed: "" });
      state.facts.clear();
      editor.draw();
    },
    failed: (message) => {
      state.failed = message;
      editor.draw();
    },
    refresh: (anew = false) => {
      if (anew) for (const list of [state.views, state.facts]) list.length === undefined ? list.clear() : (list.length = 0);
      if (anew) parts.list.replaceChildren();
      editor.draw();
    },
    removed: () => watch.disconnect(),
  };
}

function makeParts() {
  const all = el("input", { type: "checkbox", role: "switch", class: "loom-switch", "aria-label": t("allOn"), title: t("allOn") });
  const count = el("span", { class: "loom-count" });
  const menu = iconButton("more", t("moreActions"), () => {}, { "aria-haspopup": "menu" });
  const back = el("button", { type: "button", class: "loom-button", hidden: true }, icon("check"), t("asRows"));
  const head = el("div", { class: "loom-head" }, all, count, back, menu);
  const list = el("div", { class: "loom-list", role: "list", "aria-label": t("rows") });
  const box = el("textarea", { class: "loom-input loom-text", spellcheck: "false", "aria-label": t("rows"), rows: "9", hidden: true });
  const add = el("button", { type: "button", class: "loom-add", "aria-haspopup": "dialog" }, icon("plus"), t("add"));
  const message = el("div", { class: "loom-message", role: "status", hidden: true });
  const inner = el("div", { class: "loom-stack-inner" }, head, list, box, message, add);
  const element = keepEvents(el("div", { class: "loom-ui loom-stack", role: "group", "aria-label": t("rows") }, inner));
  return { element, inner, head, all, count, back, menu, list, box, message, add };
}

function read(editor, text) {
  const { state } = editor;
  const known = readRows(text);
  state.text = text;
  state.fault = known.fault ?? null;
  state.rows = known.rows ?? [];
  state.locks = known.locks ?? {};
  state.states = state.rows.map((_, place) => state.states[place] ?? { open: false });
}

function choose(editor, place, lora) {
  if (place === undefined) editor.insert([{ lora, model: 1 }]);
  // What was chosen for the other file does not fit this one.
  else editor.change(place, { lora, words: undefined, sha256: undefined, autov3: undefined, size: undefined, accept: undefined });
  editor.state.views[place ?? editor.state.rows.length - 1]?.name.focus({ preventScroll: true });
}

function draw(editor) {
  const { host, state, parts } = editor;
  const linked = host.isLinked();
  const asText = !linked && (state.asText || state.fault !== null);
  parts.element.classList.toggle("loom-linked", linked);
  parts.list.hidden = linked || asText || state.rows.length === 0;
  parts.add.hidden = linked || asText;
  parts.box.hidden = !asText;
  parts.back.hidden = !asText;
  parts.back.disabled = state.fault !== null;
  parts.all.hidden = linked || asText || state.rows.length === 0;
  parts.menu.hidden = linked;
  const on = state.rows.filter(isOn).length;
  parts.all.checked = on > 0 && on === state.rows.length;
  parts.all.indeterminate = on > 0 && on < state.rows.length;
  parts.count.textContent = linked ? t("linked") : asText ? (state.fault ? t("cannotRead", { why: state.fault }) : "") : state.rows.length ? t("someOn", { on, all: state.rows.length }) : t("noRows");
  if (asText && parts.box.value !== state.text) parts.box.value = state.text;
  if (!asText && !linked) drawRows(editor);
  measure(editor);
}

function drawRows(editor) {
  const { state, parts } = editor;
  while (state.views.length > state.rows.length) state.views.pop().element.remove();
  while (state.views.length < state.rows.length) {
    const view = makeView(editor);
    state.views.push(view);
    parts.list.append(view.element);
  }
  for (const view of state.views) view.update();
}

function makeView(editor) {
  const { state } = editor;
  // A view keeps its row when rows change places, so it asks where it stands.
  let view = null;
  const place = () => (view === null ? state.views.length : state.views.indexOf(view));
  const owner = {
    row: () => state.rows[place()],
    get state() {
      return state.states[place()];
    },
    change: (fields, done) => editor.change(place(), fields, done),
    choose: () => editor.choose(view.name, place()),
    info: (anchor) => openInfo(anchor, state.rows[place()].lora),
    marks: () => rowMarks(editor, state.rows[place()]),
    showMarks: (anchor) => showMarks(editor, anchor, view),
    duplicate: () => editor.insert([state.rows[place()]], place() + 1),
    remove: () => editor.remove(place()),
    resized: () => measure(editor),
  };
  view = rowView(owner);
  dragRow(view, { place, count: () => state.rows.length, views: state.views, list: editor.parts.list, move: editor.move });
  return view;
}

function rowMarks(editor, row) {
  const { state } = editor;
  const listed = listedName(row.lora);
  if (listed !== null && !state.facts.has(listed)) {
    state.facts.set(listed, null);
    loraFacts(listed).then((facts) => {
      state.facts.set(listed, facts);
      editor.draw();
    });
  }
  const failed = state.failed.includes(row.lora) && isOn(row) ? state.failed : "";
  return marksOf(row, { locks: state.locks, facts: state.facts.get(listed), told: state.told.get(row.lora.trim()), failed });
}

function showMarks(editor, anchor, view) {
  const place = editor.state.views.indexOf(view);
  const row = editor.state.rows[place];
  const out = (way) => () => {
    if (way.choose) return editor.choose(view.name, place, way.choose === true ? "" : way.choose);
    const { [row.lora.trim()]: dropped, ...others } = editor.state.locks;
    const rows = editor.state.rows.map((other, index) => (index === place ? withFields(other, way.fields) : other));
    editor.write(rows, { locks: way.dropLock ? others : editor.state.locks });
    view.name.focus({ preventScroll: true });
  };
  const items = rowMarks(editor, row).flatMap((mark) => [{ title: mark.text }, ...mark.ways.map((way) => ({ label: way.label, run: out(way) }))]);
  openMenu(anchor, items, anchor.title);
}

// The node is as high as its rows. The first guess serves until the page has laid them out.
function measure(editor) {
  const { state, parts } = editor;
  const rows = parts.list.hidden ? 0 : Math.min(state.rows.length, 20);
  const high = Math.ceil(parts.inner.offsetHeight) || FIRST_HEIGHT + rows * LINE_HEIGHT;
  if (high === state.high) return;
  state.high = high;
  parts.element.style.minHeight = `${high}px`;
  editor.host.resized();
}

let silence;

function say(editor, text) {
  const { message } = editor.parts;
  message.textContent = text;
  message.hidden = !text;
  measure(editor);
  clearTimeout(silence);
  if (text) silence = setTimeout(() => say(editor, ""), MESSAGE);
}

function listen(editor) {
  const { state, parts } = editor;
  parts.add.addEventListener("click", () => editor.choose(parts.add));
  parts.menu.addEventListener("click", () => openStackMenu(editor));
  parts.back.addEventListener("click", () => editor.showText(false));
  parts.all.addEventListener("change", () => {
    const on = parts.all.checked ? undefined : false;
    editor.write(state.rows.map((row) => withFields(row, { on })));
  });
  // The box writes what stands in it, whatever it is: it is the text.
  parts.box.addEventListener("input", () => {
    state.asText = true;
    read(editor, parts.box.value);
    editor.host.wrote(state.text, false);
    editor.draw();
  });
  parts.box.addEventListener("change", () => editor.host.wrote(state.text, true));
  parts.element.addEventListener("paste", (raised) => {
    if (raised.target.closest("input, textarea")) return;
    raised.preventDefault();
    pasted(editor, raised.clipboardData?.getData("text/plain") ?? "");
  });
  parts.element.addEventListener("copy", (raised) => {
    if (raised.target.closest("input, textarea") || String(getSelection()) || !state.rows.length) return;
    raised.preventDefault();
    const place = state.views.findIndex((view) => view.element.contains(raised.target));
    raised.clipboardData.setData("text/plain", rowsText(place < 0 ? state.rows : [state.rows[place]], state.locks));
    editor.say(t("copied"));
  });
  parts.list.addEventListener("keydown", (raised) => rowKeys(editor, raised));
}

function rowKeys(editor, raised) {
  const { state } = editor;
  if (raised.target.closest("select, textarea, input:not([type=checkbox])")) return;
  const place = state.views.findIndex((view) => view.element.contains(raised.target));
  const way = { ArrowUp: -1, ArrowDown: 1 }[raised.key];
  const view = state.views[place];
  const modified = raised.ctrlKey || raised.metaKey;
  if (place < 0) return;
  if (way && raised.altKey) {
    editor.move(place, place + way);
    raised.target.focus({ preventScroll: true });
  } else if (way && !modified && raised.target !== view.element) {
    const own = [...view.element.firstElementChild.children].indexOf(raised.target);
    const next = state.views[place + way]?.element.firstElementChild.children[own];
    (next && !next.hidden ? next : state.views[place + way]?.name)?.focus();
  } else if (raised.key === "Delete" || raised.key === "Backspace") editor.remove(place);
  else if (modified && raised.key.toLowerCase() === "d") {
    editor.insert([state.rows[place]], place + 1);
    state.views[place + 1].name.focus({ preventScroll: true });
  } else if (!modified && !raised.altKey && raised.key.toLowerCase() === "i") openInfo(view.name, state.rows[place].lora);
  else return;
  raised.preventDefault();
}
