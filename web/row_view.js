// One row of a stack as it is seen: a line, and below it the details that a person opens.
import { el, hueOf, icon, iconButton } from "./dom.js";
import { bareName, blocksFault, folderOf, loraFacts, previewAddress, listedName, slashed } from "./loras.js";
import { clipOf, isOn, modelOf, ROLES } from "./rows_model.js";
import { strengthField } from "./strength.js";
import { t } from "./strings.js";

// owner: what a row asks of its stack: row() -> the row as it stands, change(fields, done), choose, info, marks() -> list,
// showMarks, duplicate, remove, state ({open}), resized. Returns {element, update, grip, name}.
export function rowView(owner) {
  const parts = makeLine(owner);
  const more = el("div", { class: "loom-more" });
  const element = el("div", { class: "loom-row", role: "listitem" }, parts.line, more);
  let details = null;
  let shown = null;
  const update = () => {
    const row = owner.row();
    element.classList.toggle("loom-off", !isOn(row));
    element.classList.toggle("loom-open", owner.state.open);
    // A name is looked up anew once the list of names has come.
    const key = `${listedName(row.lora) ?? ""}\n${row.lora}`;
    if (key !== shown) showName(parts, row.lora);
    shown = key;
    showState(parts, row, owner);
    if (owner.state.open && !details) more.append(...(details = makeDetails(owner)).elements);
    if (!owner.state.open && details) {
      more.replaceChildren();
      details = null;
    }
    details?.update(row);
  };
  parts.more.addEventListener("click", () => {
    owner.state.open = !owner.state.open;
    update();
    owner.resized();
  });
  return { element, update, grip: parts.grip, name: parts.name };
}

function makeLine(owner) {
  const grip = iconButton("grip", "", () => {}, { class: "loom-icon-button loom-grip" });
  const on = el("input", { type: "checkbox", role: "switch", class: "loom-switch", on: { change: () => owner.change({ on: on.checked ? undefined : false }) } });
  const picture = el("span", { class: "loom-thumb", "aria-hidden": "true" });
  const info = el("button", { type: "button", class: "loom-picture", "aria-haspopup": "dialog", on: { click: () => owner.info(info) } }, picture);
  const [folder, file] = [el("bdi", { class: "loom-folder" }), el("bdi", { class: "loom-file" })];
  const base = el("span", { class: "loom-base" });
  const name = el("button", { type: "button", class: "loom-name", "aria-haspopup": "dialog", on: { click: () => owner.choose() } }, el("span", { class: "loom-names" }, file, folder), base);
  const mark = iconButton("warning", "", () => owner.showMarks(mark), { class: "loom-icon-button loom-mark" });
  const help = t("strengthHelp");
  const model = strengthField({ label: t("model"), help, get: () => modelOf(owner.row()), set: (value, done) => owner.change({ model: value }, done) });
  const clip = strengthField({ label: t("clip"), help, get: () => clipOf(owner.row()), set: (value, done) => owner.change({ clip: value }, done) });
  const link = iconButton("link", t("apart"), () => owner.change({ clip: "clip" in owner.row() ? undefined : modelOf(owner.row()) }), { class: "loom-icon-button loom-link" });
  const more = iconButton("down", "", () => {}, { class: "loom-icon-button loom-chevron", "aria-expanded": "false" });
  const line = el("div", { class: "loom-line" }, grip, on, info, name, mark, model.element, link, clip.element, more);
  return { line, grip, on, name, picture, folder, file, base, mark, model, clip, link, info, more };
}

function showName(parts, lora) {
  const bare = bareName(lora);
  parts.file.textContent = bare;
  parts.folder.textContent = folderOf(lora);
  parts.name.title = slashed(lora);
  parts.name.setAttribute("aria-label", t("choose", { name: bare }));
  label(parts.grip, t("move", { name: bare }));
  label(parts.more, t("details", { name: bare }));
  label(parts.info, t("infoOf", { name: bare }));
  label(parts.mark, t("marks", { name: bare }));
  parts.on.setAttribute("aria-label", t("rowOn", { name: bare }));
  parts.base.textContent = "";
  showPicture(parts.picture, lora);
  const listed = listedName(lora);
  if (listed === null) return;
  loraFacts(listed).then((facts) => {
    if (parts.file.textContent !== bare) return;
    showPicture(parts.picture, lora, facts);
    parts.base.textContent = facts?.made_for ?? "";
    if (facts?.made_for) parts.base.title = t("baseOf", { base: facts.made_for });
  });
}

function label(button, text) {
  button.setAttribute("aria-label", text);
  button.title = text;
}

// The picture of a LoRA, or the first sign of its name on a colour of its own.
export function showPicture(place, lora, facts = null) {
  const address = previewAddress(facts);
  const letter = [...bareName(lora)][0] ?? "?";
  place.style.setProperty("--loom-hue", hueOf(lora));
  place.replaceChildren(letter.toUpperCase());
  if (!address) return;
  const image = el("img", { alt: "", draggable: "false", decoding: "async", on: { load: () => place.replaceChildren(image), error: () => image.remove() } });
  image.src = address;
}

function showState(parts, row, owner) {
  parts.on.checked = isOn(row);
  parts.model.update();
  parts.clip.update();
  const apart = "clip" in row;
  parts.clip.element.hidden = !apart;
  parts.line.classList.toggle("loom-apart", apart);
  parts.link.setAttribute("aria-pressed", String(!apart));
  label(parts.link, t(apart ? "link" : "apart"));
  parts.link.replaceChildren(icon(apart ? "apart" : "link"));
  parts.model.element.setAttribute("aria-label", t(apart ? "model" : "strength"));
  parts.more.setAttribute("aria-expanded", String(owner.state.open));
  parts.more.classList.toggle("loom-told", Boolean(row.blocks || row.schedule || (row.role ?? "free") !== "free" || row.words));
  const marks = owner.marks();
  parts.mark.hidden = marks.length === 0;
  parts.mark.classList.toggle("loom-bad", marks.some((mark) => mark.bad));
  parts.mark.title = marks.map((mark) => mark.text).join("\n");
}

function field(text, input) {
  return el("label", { class: "loom-field" }, el("span", { text }), input);
}

function makeDetails(owner) {
  const role = el("select", { class: "loom-input", "aria-label": t("role"), on: { change: () => owner.change({ role: role.value === "free" ? undefined : role.value }) } });
  role.append(...ROLES.map((name) => el("option", { value: name, text: t(name) })));
  const blocks = blocksInput(owner);
  const schedule = el("div", { class: "loom-field loom-said" });
  const words = el("div", { class: "loom-words", role: "group", "aria-label": t("words") });
  const buttons = el(
    "div",
    { class: "loom-buttons" },
    ...[["copy", "duplicate", owner.duplicate], ["trash", "remove", owner.remove]].map(([name, key, run]) =>
      el("button", { type: "button", class: "loom-button", on: { click: () => run() } }, icon(name), t(key)),
    ),
  );
  let wordsOf = null;
  const update = (row) => {
    role.value = row.role ?? "free";
    blocks.update(row);
    schedule.replaceChildren(...(row.schedule ? [el("span", { text: t("schedule") }), el("bdi", { text: row.schedule })] : []));
    schedule.hidden = !row.schedule;
    const key = JSON.stringify([row.lora, row.words ?? null]);
    if (key !== wordsOf) showWords(words, owner, row);
    wordsOf = key;
  };
  const roleAndBlocks = el("div", { class: "loom-pair" }, field(t("role"), role), field(t("blocks"), blocks.input));
  return { elements: [roleAndBlocks, blocks.fault, schedule, words, buttons], update };
}

// Block strengths are taken when the server reads them; until then they stay in the box, with what is wrong below.
function blocksInput(owner) {
  const input = el("input", { class: "loom-input", type: "text", spellcheck: "false", "aria-label": t("blocks"), placeholder: t("blocksHint") });
  const fault = el("div", { class: "loom-fault", role: "status", hidden: true });
  const say = (text) => {
    fault.textContent = text ?? "";
    fault.hidden = !text;
    input.setAttribute("aria-invalid", String(Boolean(text)));
    owner.resized();
  };
  const take = async () => {
    const text = input.value.trim();
    const row = owner.row();
    if (text === (row.blocks ?? "")) return say(null);
    const listed = listedName(row.lora);
    const wrong = listed === null ? null : await blocksFault(listed, text);
    say(wrong);
    if (!wrong && owner.row().lora === row.lora) owner.change({ blocks: text || undefined });
  };
  input.addEventListener("change", take);
  let shown = null;
  const update = (row) => {
    if (row.lora !== shown) say(null);
    if (row.lora !== shown || (document.activeElement !== input && !fault.textContent)) input.value = row.blocks ?? "";
    shown = row.lora;
  };
  return { input, fault, update };
}

// Chips to switch: no choice stands for all that the file names, as long as nothing is switched off or added.
async function showWords(place, owner, row) {
  const listed = listedName(row.lora);
  const facts = listed === null ? null : await loraFacts(listed);
  if (owner.row().lora !== row.lora || JSON.stringify(owner.row().words) !== JSON.stringify(row.words)) return;
  const named = (facts?.words ?? []).map((word) => word.value);
  const chosen = row.words ?? named;
  const folded = (list) => new Set(list.map((word) => word.toLowerCase()));
  const own = chosen.filter((word) => !folded(named).has(word.toLowerCase()));
  const choose = (words) => owner.change({ words: String(words) === String(named) ? undefined : words });
  const toggle = (word) => choose(folded(chosen).has(word.toLowerCase()) ? chosen.filter((other) => other.toLowerCase() !== word.toLowerCase()) : [...named, ...own].filter((other) => other === word || folded(chosen).has(other.toLowerCase())));
  const chips = [...named, ...own].map((word) => {
    const on = folded(chosen).has(word.toLowerCase());
    return el("button", { type: "button", class: "loom-chip", "aria-pressed": String(on), on: { click: () => toggle(word) } }, el("bdi", { text: word }));
  });
  const box = el("input", { class: "loom-input loom-add-word", type: "text", placeholder: t("addWord"), "aria-label": t("addWord") });
  box.addEventListener("change", () => {
    const words = box.value.split(",").map((word) => word.trim()).filter((word) => word && !folded(chosen).has(word.toLowerCase()));
    if (words.length) choose([...chosen, ...words]);
  });
  const focused = [...place.querySelectorAll("button, input")].indexOf(document.activeElement);
  place.replaceChildren(el("span", { class: "loom-words-label", text: named.length ? t("words") : `${t("words")}: ${t("noWords")}` }), ...chips, box);
  if (focused >= 0) [...place.querySelectorAll("button, input")][focused]?.focus({ preventScroll: true });
  owner.resized();
}
