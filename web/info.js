// What is known of one LoRA, as a panel: picture, words, base, ranks, size, hashes, training, notes.
import { el, iconButton, openPanel } from "./dom.js";
import { bareName, folderOf, listedName, loraFacts } from "./loras.js";
import { showPicture } from "./row_view.js";
import { t } from "./strings.js";

const LONGEST = 4000; // characters of one fact that are shown

// Opens beside the anchor. Returns a function that closes it.
export function openInfo(anchor, lora) {
  const body = el("div", { class: "loom-info-body", tabindex: "0" });
  const picture = el("span", { class: "loom-thumb loom-large", "aria-hidden": "true" });
  const title = el("bdi", { class: "loom-info-title", text: bareName(lora) });
  const under = el("bdi", { class: "loom-dim", text: folderOf(lora) });
  const closing = iconButton("close", t("close"), () => close());
  const head = el("div", { class: "loom-info-head" }, picture, el("div", { class: "loom-info-titles" }, title, under), closing);
  showPicture(picture, lora);
  const close = openPanel(anchor, [head, body], { label: t("infoOf", { name: bareName(lora) }), width: 420, className: "loom-info" });
  closing.focus({ preventScroll: true });
  const listed = listedName(lora);
  (listed === null ? Promise.resolve(null) : loraFacts(listed)).then((facts) => {
    if (facts === null) body.replaceChildren(el("p", { class: "loom-dim", text: t(listed === null ? "missing" : "noInfo") }));
    else showFacts({ body, picture, title, under }, facts);
  });
  return close;
}

function showFacts(parts, facts) {
  showPicture(parts.picture, facts.name, facts);
  if (facts.title) parts.title.textContent = cut(facts.title.value);
  parts.under.textContent = facts.name;
  const known = factRows(facts).filter(([, value]) => value);
  parts.body.replaceChildren(
    facts.words.length ? wordList(facts.words) : "",
    el("dl", { class: "loom-facts" }, ...known.flatMap(([name, value, source]) => [el("dt", { text: name }), el("dd", { title: source ?? "" }, value)])),
    facts.description ? el("section", {}, el("h4", { text: t("description") }), el("p", { class: "loom-prose", title: facts.description.source }, el("bdi", { text: cut(facts.description.value) }))) : "",
    facts.notes.length ? el("section", {}, el("h4", { text: t("notes") }), el("ul", {}, ...facts.notes.map((note) => el("li", {}, el("bdi", { text: cut(note) }))))) : "",
  );
}

function cut(text) {
  return text.length > LONGEST ? `${text.slice(0, LONGEST)} ...` : text;
}

function text(value) {
  return el("bdi", { text: cut(String(value)) });
}

// A said fact, and where it was read.
function said(name, fact) {
  return [name, fact && text(fact.value), fact?.source];
}

function factRows(facts) {
  const { hashes } = facts;
  const training = Object.entries(facts.training);
  return [
    [t("madeFor"), (facts.kind ?? facts.fault) && text(facts.kind ?? facts.fault)],
    said(t("base"), facts.base),
    [t("size"), text(`${sizeText(facts.size)}, ${new Date(facts.modified).toLocaleDateString()}`)],
    [t("suggested"), strengthText(facts), facts.strength?.source ?? facts.strength_range?.source],
    said(t("usage"), facts.usage),
    said(t("author"), facts.author),
    said(t("licence"), facts.licence),
    [t("tags"), facts.tags && text(facts.tags.value.join(", ")), facts.tags?.source],
    said(t("mergedFrom"), facts.merged_from),
    [t("training"), training.length && el("div", {}, ...training.map(([name, fact]) => el("div", { title: fact.source }, el("span", { class: "loom-dim", text: `${name} ` }), text(fact.value))))],
    [t("hashes"), hashes ? el("div", {}, ...[["SHA256", hashes.sha256], ["AutoV2", hashes.autov2], ["AutoV3", hashes.autov3]].filter(([, value]) => value).map(hashLine)) : text(t("notHashed"))],
  ];
}

function hashLine([name, value]) {
  const copy = iconButton("copy", t("copyThis", { what: name }), () => navigator.clipboard?.writeText(value));
  return el("div", { class: "loom-hash" }, el("span", { class: "loom-dim", text: name }), el("code", { text: value }), copy);
}

function strengthText(facts) {
  const [low, high] = facts.strength_range?.value ?? [];
  const parts = [facts.strength && String(facts.strength.value), low !== undefined && `${low} - ${high}`].filter(Boolean);
  return parts.length ? text(parts.join(", ")) : null;
}

export function sizeText(bytes) {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.ceil(bytes / 1e3)} kB`;
}

function wordList(words) {
  const chips = words.map((word) => {
    const copy = () => navigator.clipboard?.writeText(word.value);
    return el("button", { type: "button", class: "loom-chip", title: `${t("copyThis", { what: word.value })}\n${word.source}`, on: { click: copy } }, el("bdi", { text: word.value }));
  });
  return el("div", { class: "loom-words", role: "group", "aria-label": t("words") }, ...chips);
}
