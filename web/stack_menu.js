// The menu of a stack: copy and paste rows, presets of the workflow, text and rows.
import { app } from "../../scripts/app.js";
import { el, openMenu, openPanel } from "./dom.js";
import { readRows } from "./rows_model.js";
import { asTags, asText, fromText } from "./rows_text.js";
import { t } from "./strings.js";

// Where a node keeps its presets: name -> rows text. They are saved, copied and pasted with it.
const PRESETS = "loom_presets";

export function openStackMenu(editor) {
  const { state, parts } = editor;
  const none = state.rows.length === 0;
  const presets = presetsOf(editor.host.node);
  const items = [
    { label: t("paste"), icon: "paste", run: () => openPaste(editor) },
    { label: t("copyText"), icon: "copy", disabled: none, run: () => copy(editor, asText(state.rows, state.locks)) },
    { label: t("copyTags"), icon: "copy", disabled: none, run: () => copyTags(editor) },
    null,
    ...(presets.length ? [{ title: t("presets") }] : []),
    ...presets.map((preset) => ({ label: presetLabel(preset), icon: "star", run: () => usePreset(editor, preset) })),
    { label: t("savePreset"), icon: "plus", disabled: none, run: () => openSave(editor) },
    ...presets.filter((preset) => preset.own).map(({ name }) => ({ label: t("deletePreset", { name }), icon: "trash", run: () => dropPreset(editor, name) })),
    null,
    { label: t(state.asText || state.fault !== null ? "asRows" : "asText"), icon: "text", disabled: state.fault !== null, run: () => editor.showText(!state.asText) },
    { label: t("removeAll"), icon: "trash", danger: true, disabled: none, run: () => editor.write([], { states: [] }) },
  ];
  openMenu(parts.menu, items, t("moreActions"));
}

async function copy(editor, text, also = []) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // A page that is served without https has no clipboard to write to: the text is shown, to be copied by hand.
    return openText(editor, text);
  }
  editor.say([t("copied"), ...also].join(" "));
}

function copyTags(editor) {
  const { text, left } = asTags(editor.state.rows);
  copy(editor, text, left.length ? [t("notRead", { what: left.join(", ") })] : []);
}

function openText(editor, text) {
  const box = el("textarea", { class: "loom-input loom-text", readonly: true, rows: "9", "aria-label": t("rows") });
  box.value = text;
  openPanel(editor.parts.menu, el("div", { class: "loom-form" }, box), { label: t("rows"), width: 440 });
  box.focus({ preventScroll: true });
  box.select();
}

function openPaste(editor) {
  const box = el("textarea", { class: "loom-input loom-text", spellcheck: "false", rows: "9", "aria-label": t("paste"), placeholder: t("pasteHelp") });
  const take = () => {
    close();
    pasted(editor, box.value);
  };
  const button = el("button", { type: "button", class: "loom-button", on: { click: take } }, t("pasteAdd"));
  const close = openPanel(editor.parts.menu, el("div", { class: "loom-form" }, el("p", { class: "loom-dim", text: t("pasteHelp") }), box, button), { label: t("paste"), width: 440 });
  box.focus({ preventScroll: true });
}

// Adds the rows of a text behind those that are there.
export function pasted(editor, text) {
  if (editor.host.isLinked()) return;
  const { rows, locks, unread } = fromText(text);
  if (rows.length) editor.insert(rows, undefined, locks);
  const left = unread.length ? t("notRead", { what: unread.slice(0, 5).join(", ").slice(0, 300) }) : "";
  editor.say([rows.length ? t("addedSome", { n: rows.length }) : t("nothingRead"), left].join(" ").trim());
}

// Of this node first, then those of other stacks in the same graph.
function presetsOf(node) {
  const of = (other) => Object.entries(other.properties?.[PRESETS] ?? {}).filter(([, text]) => typeof text === "string" && readRows(text).rows);
  const own = of(node).map(([name, text]) => ({ name, text, own: true }));
  const others = (node.graph?.nodes ?? app.graph?.nodes ?? []).filter((other) => other !== node && other.comfyClass === node.comfyClass);
  return [...own, ...others.flatMap((other) => of(other).map(([name, text]) => ({ name, text, from: other.title ?? "" })))];
}

function presetLabel({ name, own, from }) {
  return own ? t("loadPreset", { name }) : `${t("loadPreset", { name })}, ${t("otherStack", { node: from })}`;
}

function usePreset(editor, { text }) {
  const { rows, locks } = readRows(text);
  editor.write(rows, { locks, states: rows.map(() => ({ open: false })) });
}

function keepPresets(editor, presets) {
  editor.host.node.properties[PRESETS] = presets;
  editor.host.wrote(editor.state.text, true);
}

function dropPreset(editor, name) {
  const { [name]: dropped, ...others } = editor.host.node.properties[PRESETS];
  keepPresets(editor, others);
}

function openSave(editor) {
  const box = el("input", { class: "loom-input", type: "text", maxlength: "80", placeholder: t("presetName"), "aria-label": t("presetName") });
  const save = () => {
    const name = box.value.trim();
    if (!name) return box.focus();
    close();
    keepPresets(editor, Object.fromEntries([...Object.entries(editor.host.node.properties[PRESETS] ?? {}), [name, asText(editor.state.rows, editor.state.locks)]]));
  };
  box.addEventListener("keydown", (raised) => {
    if (raised.key !== "Enter") return;
    // The focus goes back to a button, which must not take this key for its own.
    raised.preventDefault();
    save();
  });
  const button = el("button", { type: "button", class: "loom-button", on: { click: save } }, t("save"));
  const close = openPanel(editor.parts.menu, el("div", { class: "loom-form loom-side" }, box, button), { label: t("savePreset"), width: 320 });
  box.focus({ preventScroll: true });
}
