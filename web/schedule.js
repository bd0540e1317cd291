// The schedule editor of Loom Schedule: its curve with keyframes to drag, over the text of its widget "schedule".
import { app } from "../../scripts/app.js";
import { el, iconButton, loadCss } from "./dom.js";
import { beginStep, change, endStep, isLinked, mount, widgetOf } from "./mirror.js";
import { drawPlot, plotOf } from "./schedule_plot.js";
import { curveNames, plain, readSchedule, valueAt, writeSchedule } from "./schedule_text.js";
import { t } from "./strings.js";

const WIDE = 440;
const CLOSEST = 0.01;
const START = "0%@0,100%@1";

let known = { presets: {} };

// In words how the row shares the sampling with others, which the text alone can change.
function sharing({ turn, every, composite }) {
  if (turn) return t("inTurn", { ...turn, every });
  return composite ? t("averaged", composite) : "";
}

class ScheduleEditor {
  constructor(node) {
    this.node = node;
    this.chosen = 0;
    this.plot = plotOf({ grab: (number) => this.grab(number), drag: (at) => this.drag(at), drop: () => this.drop(), add: (at) => this.add(at), key: (raised, number) => this.key(raised, number), choose: (number) => this.choose(number) }, t("keyframesHelp"));
    const preset = el("select", { class: "loom-input", "aria-label": t("beginPreset"), on: { change: () => this.begin(preset.value) } }, el("option", { value: "", text: t("presetList") }));
    this.preset = preset;
    this.curve = el("select", { class: "loom-input", "aria-label": t("betweenFrames"), on: { change: () => this.edit((schedule) => ({ ...schedule, curve: this.curve.value })) } }, curveNames.map((name) => el("option", { value: name, text: name })));
    this.value = this.number(t("frameStrength"), (typed) => this.move({ value: typed / (this.frame?.relative ? 100 : 1) }));
    this.position = this.number(t("framePosition"), (typed) => this.move({ position: typed }));
    this.unit = el("button", { type: "button", class: "loom-button loom-unit", on: { click: () => this.turnUnit() } });
    this.start = this.number(t("actsFrom"), (typed) => this.edit((schedule) => ({ ...schedule, start: typed })), null);
    this.stop = this.number(t("actsTo"), (typed) => this.edit((schedule) => ({ ...schedule, stop: typed })), null);
    this.addButton = iconButton("plus", t("addFrame"), () => this.add());
    this.removeButton = iconButton("trash", t("removeFrame"), () => this.remove());
    this.note = el("div", { class: "loom-note", role: "status" });
    const field = (text, ...inputs) => el("label", { class: "loom-labelled" }, el("span", { text }), ...inputs);
    this.content = el("div", { class: "loom-schedule" },
      el("div", { class: "loom-tools" }, preset, this.curve, el("span", { class: "loom-spring" }), this.addButton, this.removeButton),
      this.plot.element,
      el("div", { class: "loom-tools" }, field(t("keyframe"), this.value), this.unit, field(t("at"), this.position), el("span", { class: "loom-spring" }), field(t("onFrom"), this.start), field(t("to"), this.stop)),
      this.note);
    this.show = mount(node, "schedule curve", "LOOM_SCHEDULE_EDITOR", this.content, { names: ["schedule", "preset_curve", "steps"], show: () => this.draw(), wide: WIDE });
  }

  // A field for a number. none: what an emptied field stands for; undefined: it then shows its number again.
  number(label, set, none) {
    const input = el("input", { class: "loom-input loom-short", type: "text", inputmode: "decimal", "aria-label": label, title: label, autocomplete: "off" });
    input.addEventListener("change", () => {
      const text = input.value.trim().replace("%", "").replace(",", ".");
      const typed = text === "" ? none : Number(text);
      if (typed !== undefined && (typed === null || Number.isFinite(typed)) && !isLinked(this.node, "schedule")) set(typed);
      this.draw();
    });
    return input;
  }

  get steps() {
    return Number(widgetOf(this.node, "steps")?.value) || 20;
  }

  // The text that acts: a preset of the node's list stands in for an empty one.
  get text() {
    const text = String(widgetOf(this.node, "schedule")?.value ?? "");
    const preset = widgetOf(this.node, "preset_curve")?.value;
    return text.trim() ? text : known.presets[preset] ?? "";
  }

  get frame() {
    return this.schedule?.frames[this.chosen];
  }

  // Writes what make() gives for a schedule, where the Python side reads it back the same.
  edit(make) {
    if (isLinked(this.node, "schedule") || !this.schedule) return;
    const text = writeSchedule(make(this.schedule));
    if (readSchedule(text)) change(this.node, { preset_curve: "none", schedule: text });
    this.show();
  }

  begin(text) {
    this.preset.value = "";
    this.chosen = 0;
    if (text && !isLinked(this.node, "schedule")) change(this.node, { preset_curve: "none", schedule: text });
    this.show();
  }

  choose(number) {
    this.chosen = number;
    this.draw();
  }

  grab(number) {
    beginStep();
    this.choose(number);
  }

  drop() {
    endStep();
  }

  drag({ position, value }) {
    this.move({ position, value });
  }

  // The chosen keyframe elsewhere, between its neighbours and, where positions count steps, so that they still do.
  move({ position, value }) {
    this.edit((schedule) => {
      const frames = schedule.frames.map((frame) => ({ ...frame }));
      const frame = frames[this.chosen];
      if (!frame) return schedule;
      if (value !== undefined) frame.value = Math.min(100, Math.max(-100, value));
      if (position !== undefined) frame.position = this.between(schedule, position);
      return { ...schedule, frames };
    });
  }

  between({ frames, inSteps }, position) {
    const gap = inSteps ? 1 : CLOSEST;
    const last = this.chosen === frames.length - 1;
    const low = this.chosen ? frames[this.chosen - 1].position + gap : 0;
    const floor = last && inSteps ? Math.max(low, 2) : low;
    const high = last ? (inSteps ? Infinity : 1) : frames[this.chosen + 1].position - gap;
    const tidy = inSteps ? Math.round(position) : Math.round(position * 1000) / 1000;
    return floor > high ? frames[this.chosen].position : Math.min(high, Math.max(floor, tidy));
  }

  // One more keyframe, where it was asked for or in the widest gap, at the curve's own height.
  add(at) {
    this.edit((schedule) => {
      const frames = schedule.frames.length ? schedule.frames : readSchedule(START).frames;
      const end = schedule.inSteps ? this.plot.right : 1;
      const edges = [0, ...frames.map((frame) => frame.position), end];
      const gaps = edges.slice(1).map((edge, number) => edge - edges[number]);
      const widest = gaps.indexOf(Math.max(...gaps));
      const wanted = at?.position ?? (edges[widest] + edges[widest + 1]) / 2;
      const position = schedule.inSteps ? Math.round(wanted) : Math.round(wanted * 1000) / 1000;
      const gap = schedule.inSteps ? 1 : CLOSEST;
      if (frames.some((frame) => Math.abs(frame.position - position) < gap - 1e-9)) return { ...schedule, frames };
      const { relative } = frames[0];
      const frame = { position, value: at?.value ?? valueAt({ ...schedule, frames }, 1, position), relative };
      const more = [...frames, frame].sort((one, other) => one.position - other.position);
      this.chosen = more.indexOf(frame);
      return { ...schedule, frames: more };
    });
    this.plot.focus(this.chosen);
  }

  remove() {
    this.edit((schedule) => {
      const frames = schedule.frames.filter((_, number) => number !== this.chosen);
      // Step numbers would be read as shares once none is above 1.
      const inSteps = frames.some((frame) => frame.position > 1);
      if (schedule.inSteps && !inSteps) return { ...schedule, frames: [] };
      return { ...schedule, frames };
    });
    this.choose(Math.max(0, this.chosen - 1));
    this.plot.focus(this.chosen);
  }

  turnUnit() {
    this.edit((schedule) => ({ ...schedule, frames: schedule.frames.map((frame) => ({ ...frame, relative: !this.frame?.relative })) }));
  }

  key(raised, number) {
    if (raised.ctrlKey || raised.metaKey || raised.altKey || !this.schedule?.frames[number]) return;
    this.chosen = number;
    const { frames, inSteps } = this.schedule;
    const frame = frames[number];
    const [along, up] = [inSteps ? 1 : raised.shiftKey ? 0.01 : 0.05, raised.shiftKey ? 0.01 : 0.05];
    const tidy = (value, step) => Math.round(value / step) * step;
    const moves = { ArrowLeft: { position: tidy(frame.position - along, inSteps ? 1 : 0.01) }, ArrowRight: { position: tidy(frame.position + along, inSteps ? 1 : 0.01) }, ArrowUp: { value: tidy(frame.value + up, 0.01) }, ArrowDown: { value: tidy(frame.value - up, 0.01) } };
    if (moves[raised.key]) this.move(moves[raised.key]);
    else if (raised.key === "Delete" || raised.key === "Backspace") this.remove();
    else if (raised.key === "+") this.add();
    else return;
    raised.preventDefault();
    this.plot.focus(this.chosen);
  }

  draw() {
    const read = readSchedule(this.text);
    const linked = isLinked(this.node, "schedule");
    this.schedule = read;
    this.chosen = Math.min(this.chosen, Math.max(0, (read?.frames.length ?? 0) - 1));
    const presets = Object.entries(known.presets);
    if (this.preset.options.length !== presets.length + 1) {
      this.preset.replaceChildren(el("option", { value: "", text: t("presetList") }), ...presets.map(([title, text]) => el("option", { value: text, text: title })));
    }
    drawPlot(this.plot, read ?? readSchedule(""), this.steps, this.chosen, linked);
    const frame = this.frame;
    this.curve.value = read?.curve ?? "linear";
    this.value.value = frame ? plain(frame.value * (frame.relative ? 100 : 1)) : "";
    this.unit.textContent = frame?.relative ? t("unitShare") : t("unitStrength");
    this.unit.title = frame?.relative ? t("unitShareHelp") : t("unitStrengthHelp");
    this.position.value = frame ? plain(frame.position) : "";
    this.start.value = read && read.start !== null ? plain(read.start) : "";
    this.stop.value = read && read.stop !== null ? plain(read.stop) : "";
    for (const input of [this.value, this.position, this.unit, this.removeButton]) input.disabled = linked || !frame;
    for (const input of [this.preset, this.curve, this.start, this.stop, this.addButton]) input.disabled = linked || !read;
    this.content.classList.toggle("loom-linked", linked);
    this.note.textContent = linked ? t("curveLinked") : read ? sharing(read) : t("noSchedule");
  }
}

app.registerExtension({
  name: "loraloom.schedule",
  beforeRegisterNodeDef: (type, definition) => {
    if (definition.name === "LoomSchedule") known = definition.input?.required?.schedule?.[1]?.loom_schedule ?? known;
  },
  nodeCreated: (node) => {
    if (node.comfyClass !== "LoomSchedule") return;
    for (const sheet of ["./dom.css", "./editors.css"]) loadCss(new URL(sheet, import.meta.url));
    new ScheduleEditor(node);
  },
});
