// The block editor of Loom Blocks: a slider a block over the text of its widget "blocks", with the energy that the last
// run found behind each.
import { app } from "../../scripts/app.js";
import { evaluate, selected, slidersOf } from "./blocks_text.js";
import { withGroup, withValue, written } from "./blocks_edit.js";
import { el, loadCss } from "./dom.js";
import { beginStep, change, endStep, isLinked, mount, widgetOf } from "./mirror.js";
import { sliderOf } from "./slider.js";
import { t } from "./strings.js";

const PROPERTY = "loom_blocks";
// What a group of blocks is called; keys of strings.js.
const TITLES = { "": "outsideBlocks", IN: "inputBlocks", M: "middleBlock", OUT: "outputBlocks", D: "doubleBlocks", S: "singleBlocks", J: "jointBlocks", B: "plainBlocks", T: "transformerBlocks", L: "layers" };
const titled = (group) => `${group}  ${group in TITLES ? t(TITLES[group]) : ""}`.trim();
const WIDE = 460;

// What the Python side tells before a run: families, layouts, presets.
let known = { families: {}, layouts: {}, presets: {} };
// What the last run told, by graph and node, so that it outlives an undo.
const runs = new Map();
const runKey = (node) => `${node.graph?.id}:${node.id}`;

function namesOf(node) {
  const names = node.properties?.[PROPERTY];
  return typeof names === "string" && names.trim() ? names : Object.values(known.families)[0] ?? "";
}

function grouped(sliders) {
  const groups = new Map();
  for (const slider of sliders) groups.set(slider.group, [...(groups.get(slider.group) ?? []), slider]);
  return [...groups];
}

// What names a whole group: IN*, or a range where the pattern would mean other blocks too.
function selectorOf(group, members, sliders) {
  const pattern = `${group}*`;
  return selected(sliders, pattern).whole.length === members.length ? pattern : `${members[0].name}-${members.at(-1).name}`;
}

class BlockEditor {
  constructor(node) {
    this.node = node;
    this.names = undefined;
    this.family = el("select", { class: "loom-input loom-family", "aria-label": t("whichModel"), on: { change: () => this.choose() } });
    this.head = el("div", { class: "loom-tools" }, this.family,
      el("span", { class: "loom-spring" }),
      el("button", { type: "button", class: "loom-button", text: t("allOne"), title: t("allOneHelp"), on: { click: () => change(node, { blocks: "", preset: "none" }) } }),
      el("button", { type: "button", class: "loom-button", text: t("allZero"), title: t("allZeroHelp"), on: { click: () => change(node, { blocks: "*=0", preset: "none" }) } }));
    this.body = el("div", { class: "loom-blocks-body", role: "group", "aria-label": t("blockStrengths"), "aria-description": t("slidersHelp") });
    this.note = el("div", { class: "loom-note", role: "status" });
    this.content = el("div", { class: "loom-blocks" }, this.head, this.body, this.note);
    this.show = mount(node, "block sliders", "LOOM_BLOCK_EDITOR", this.content, { names: ["blocks", "preset"], show: () => this.draw(), wide: WIDE });
  }

  get context() {
    const preset = widgetOf(this.node, "preset")?.value;
    return { sliders: this.sliders, known, presetText: known.presets[preset] ?? "" };
  }

  get text() {
    return String(widgetOf(this.node, "blocks")?.value ?? "");
  }

  choose() {
    beginStep();
    this.node.properties[PROPERTY] = this.family.value;
    endStep();
    this.draw();
  }

  // The sliders anew where the model's blocks are others than before.
  build(names) {
    this.names = names;
    this.sliders = slidersOf(names);
    this.controls = new Map();
    this.groups = [];
    this.body.replaceChildren();
    for (const [group, members] of grouped(this.sliders)) {
      const list = el("div", { class: "loom-block-grid" });
      for (const { name } of members) list.append(this.control(name, (text, value) => withValue(text, name, value, this.context)).element);
      if (group && members.length > 1) {
        const selector = selectorOf(group, members, this.sliders);
        const all = this.control(selector, (text, value) => withGroup(text, selector, value, this.context));
        all.element.classList.add("loom-group-slider");
        this.groups.push({ selector, members, all });
        this.body.append(el("div", { class: "loom-group" }, el("span", { class: "loom-group-name", text: titled(group) }), all.element), list);
      } else {
        this.body.append(el("div", { class: "loom-group" }, el("span", { class: "loom-group-name", text: titled(group) })), list);
      }
    }
    this.tracks = [...this.body.querySelectorAll(".loom-track")];
    this.rove(this.tracks[0]);
    this.families(names);
  }

  control(name, edit) {
    let before;
    const set = (text, value) => {
      if (!isLinked(this.node, "blocks")) change(this.node, { blocks: edit(text, value) });
      this.show();
    };
    const slider = sliderOf(name, {
      begin: () => {
        before = this.text;
        beginStep();
      },
      move: (value) => set(before, value),
      end: endStep,
      set: (value) => set(this.text, value),
      step: (by) => this.tracks[this.tracks.indexOf(slider.track) + by]?.focus(),
    });
    slider.track.addEventListener("focus", () => this.rove(slider.track));
    this.controls.set(name, slider);
    return slider;
  }

  // One stop of the Tab key for all sliders; up and down go from one to the next.
  rove(track) {
    for (const other of this.tracks) other.tabIndex = other === track ? 0 : -1;
  }

  families(names) {
    const options = Object.entries(known.families).map(([title, list]) => el("option", { value: list, text: title }));
    if (!Object.values(known.families).includes(names)) options.unshift(el("option", { value: names, text: t("lastRunsModel") }));
    this.family.replaceChildren(...options);
    this.family.value = names;
  }

  draw() {
    const names = namesOf(this.node);
    if (names !== this.names) this.build(names);
    const run = runs.get(runKey(this.node));
    const linked = isLinked(this.node, "blocks");
    const { state, unseen } = evaluate(this.text, this.sliders, known, this.context.presetText);
    const shares = this.shares(run);
    const most = Math.max(...shares.values(), 1e-9);
    for (const { name } of this.sliders) this.drawOne(name, state.get(name), shares, most, run);
    for (const { selector, members, all } of this.groups) {
      const values = members.map((slider) => state.get(slider.name).value);
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      const alike = values.every((value) => value === values[0]);
      all.show({ value: alike ? values[0] : Number(written(mean)), text: alike ? written(values[0]) : "", title: alike ? `${selector}: ${written(values[0])}` : `${selector}: ${t("severalValues")}` });
      all.field.placeholder = t("mixed");
    }
    for (const slider of this.controls.values()) slider.enable(!linked);
    this.content.classList.toggle("loom-linked", linked);
    const said = linked ? [t("slidersLinked")] : [];
    if (unseen.length) said.push(t("onNoSlider", { names: `${unseen.slice(0, 6).join(", ").slice(0, 300)}${unseen.length > 6 ? ", ..." : ""}` }));
    this.note.textContent = said.join(" ");
  }

  drawOne(name, { value, part, drawn }, shares, most, run) {
    const share = shares.get(name) ?? 0;
    const said = [`${name}: ${drawn ? t("drawnAnew") : written(value)}${part ? `, ${t("partOther")}` : ""}`];
    if (run) said.push(share ? t("energyShare", { percent: (100 * share).toPrecision(3) }) : t("noWeights"));
    this.controls.get(name).show({ value, text: `${drawn ? "?" : written(value)}${part ? "*" : ""}`, title: said.join("; "), muted: run && !share }, share / most);
  }

  // Slider's name -> share of the energy, the mean of the rows that the node speaks of.
  shares(run) {
    const shares = new Map();
    for (const row of run?.rows ?? []) {
      for (const [name, share] of Object.entries(row.share ?? {})) shares.set(name, (shares.get(name) ?? 0) + share / run.rows.length);
    }
    return shares;
  }

  ran(told) {
    runs.set(runKey(this.node), told);
    this.node.properties[PROPERTY] = told.blocks;
    this.draw();
  }
}

app.registerExtension({
  name: "loraloom.blocks",
  setup: () => loadCss(new URL("./dom.css", import.meta.url)),
  beforeRegisterNodeDef: (type, definition) => {
    if (definition.name === "LoomBlocks") known = definition.input?.required?.blocks?.[1]?.loom_blocks ?? known;
  },
  nodeCreated: (node) => {
    if (node.comfyClass !== "LoomBlocks") return;
    loadCss(new URL("./editors.css", import.meta.url));
    const editor = new BlockEditor(node);
    const executed = node.onExecuted;
    node.onExecuted = (output) => {
      executed?.call(node, output);
      const told = output?.loom_blocks?.[0];
      if (told) editor.ran(told);
    };
  },
});
