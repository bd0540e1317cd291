// The training panel of Loom Train: curves, step, time left, pictures as they come, and a button that stops and keeps.
// What it shows comes from loom.train events, and after a reload from GET /loom/train; see docs/LoomTrain.md.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { el, loadCss } from "./dom.js";
import { mount, widgetOf } from "./mirror.js";
import { showLarge, viewOf } from "./pictures.js";
import { t } from "./strings.js";
import { lossChart, short } from "./train_chart.js";

const FETCH_EVERY = 2000;
const WIDE = 420;

// The panels of the open graph, and the curves that are known by graph and node, so that they outlive an undo.
const panels = new Set();
const curves = new Map();
const curveKey = (node) => `${node.graph?.id}:${node.id}`;

// The ids by which a run names this node: its own, after those of the subgraphs that it stands in.
function executionIds(node) {
  const root = node.graph?.rootGraph ?? node.graph;
  const ids = [];
  const look = (graph, prefix, deep) => {
    if (graph === node.graph) ids.push(`${prefix}${node.id}`);
    if (deep > 8) return;
    for (const each of graph?.nodes ?? []) if (each.subgraph) look(each.subgraph, `${prefix}${each.id}:`, deep + 1);
  };
  look(root, "", 0);
  return ids;
}

function timeLeft(seconds) {
  if (typeof seconds !== "number") return "";
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  return hours ? t("hoursLeft", { hours, minutes }) : minutes ? t("minutesLeft", { minutes, seconds: whole % 60 }) : t("secondsLeft", { seconds: whole });
}

class TrainPanel {
  constructor(node) {
    this.node = node;
    this.bar = el("div", { class: "loom-progress-done" });
    this.progress = el("div", { class: "loom-progress", role: "progressbar", "aria-label": t("training"), "aria-valuemin": 0 }, this.bar);
    this.said = el("div", { class: "loom-train-said", role: "status" });
    this.stop = el("button", { type: "button", class: "loom-button loom-stop", text: t("stopAndKeep"), title: t("stopAndKeepHelp"), on: { click: () => this.askToStop() } });
    this.chart = lossChart();
    this.legend = el("div", { class: "loom-legend" }, el("span", { class: "loom-key-loss", text: t("lossMean") }), el("span", { class: "loom-key-validation", text: t("heldOutPictures") }));
    this.samples = el("div", { class: "loom-samples", role: "list", "aria-label": t("samples") });
    this.note = el("div", { class: "loom-hint" });
    this.frame = el("div", { class: "loom-train", hidden: true }, el("div", { class: "loom-tools" }, this.said, el("span", { class: "loom-spring" }), this.stop), this.progress, this.chart.element, this.legend, this.samples, this.note);
    this.content = el("div", {}, this.frame);
    this.show = mount(node, "training", "LOOM_TRAIN_PANEL", this.content, { names: ["resume"], show: () => this.draw(), wide: WIDE, most: 640 });
    panels.add(this);
    const removed = node.onRemoved;
    node.onRemoved = () => {
      panels.delete(this);
      removed?.call(node);
    };
  }

  get curve() {
    return curves.get(curveKey(this.node));
  }

  adopt(curve) {
    if (!curve || typeof curve !== "object") return;
    curves.set(curveKey(this.node), { loss: [], validation: [], samples: [], ...curve });
    this.draw();
  }

  // The curve of a node that has run. It may lack what only a page that watched has seen.
  end(told) {
    const seen = this.curve;
    if (!told || seen?.step !== told.step || seen.steps !== told.steps) return this.adopt(told);
    const samples = told.samples?.length ? told.samples : seen.samples;
    return this.adopt({ ...told, samples, stopping: told.stopping || seen.stopping, note: told.note || seen.note });
  }

  // One loom.train event onto what is known.
  tell(event) {
    const before = this.curve?.running ? this.curve : { loss: [], validation: [], samples: [] };
    const known = event.running === false ? this.curve ?? before : before;
    const now = { ...known, step: event.step, steps: event.steps, running: event.running !== false, seconds_left: event.seconds_left ?? null };
    // A run that went back forgets what came after.
    now.loss = now.loss.filter((point) => point[0] < event.step || event.loss === undefined);
    if (typeof event.loss === "number") now.loss = [...now.loss, [event.step, event.loss]];
    if (typeof event.validation === "number") now.validation = [...now.validation.filter((point) => point[0] < event.step), [event.step, event.validation]];
    if (event.sample) now.samples = [...now.samples, event.sample];
    if (event.note) now.note = event.note;
    curves.set(curveKey(this.node), now);
    this.draw();
  }

  async askToStop() {
    this.stop.disabled = true;
    const body = JSON.stringify({ node: executionIds(this.node)[0] ?? String(this.node.id) });
    try {
      const answer = await api.fetchApi("/loom/stop", { method: "POST", body, headers: { "Content-Type": "application/json" } });
      const { stopping } = answer.ok ? await answer.json() : {};
      if (this.curve) this.curve.stopping = Boolean(stopping);
      if (!stopping && this.curve) this.curve.note = t("notTraining");
    } catch {
      if (this.curve) this.curve.note = t("noAnswer");
    }
    this.draw();
  }

  hint(curve) {
    const said = typeof curve.note === "string" && curve.note ? [curve.note] : [];
    if (curve.running && curve.stopping) said.unshift(t("stopping"));
    if (!curve.running && curve.stopping) {
      said.unshift(t("stoppedAt", curve));
    } else if (!curve.running && curve.step < curve.steps) {
      const goes = widgetOf(this.node, "resume")?.value !== false;
      said.unshift(t(goes ? "endedGoesOn" : "endedAnew", curve));
    }
    return said.join(" ").slice(0, 600);
  }

  draw() {
    const curve = this.curve;
    this.frame.hidden = !curve;
    if (!curve) return;
    const { step = 0, steps = 0 } = curve;
    const [loss, held] = [curve.loss.at(-1), curve.validation.at(-1)];
    const parts = [t("stepOf", { step, steps }), curve.running ? timeLeft(curve.seconds_left) : t(step >= steps ? "done" : "ended"), loss ? t("lossIs", { loss: short(loss[1]) }) : "", held ? t("heldOutIs", { loss: short(held[1]) }) : ""];
    this.said.textContent = parts.filter(Boolean).join(" \u00b7 ");
    this.bar.style.width = `${steps ? Math.min(100, (100 * step) / steps) : 0}%`;
    this.progress.setAttribute("aria-valuemax", String(steps));
    this.progress.setAttribute("aria-valuenow", String(step));
    this.stop.hidden = !curve.running;
    this.stop.disabled = Boolean(curve.stopping);
    this.chart.draw(curve);
    this.legend.lastElementChild.hidden = !curve.validation.length;
    this.note.textContent = this.hint(curve);
    this.drawSamples(curve.samples);
  }

  drawSamples(samples) {
    const pictures = samples.map((sample) => ({ file: sample, said: sample.step ? t("atStep", { step: sample.step }) : t("withoutLora") }));
    // Pictures that already stand there stay, so that nothing flickers.
    while (this.samples.children.length > pictures.length) this.samples.lastChild.remove();
    pictures.forEach(({ file, said }, number) => {
      const address = viewOf(file);
      const old = this.samples.children[number];
      if (old?.dataset.address === address) return;
      const picture = el("button", { type: "button", class: "loom-sample", "aria-label": t("sampleLarger", { said }), on: { click: () => showLarge(picture, this.shown, number) } }, el("img", { src: address, alt: "", loading: "lazy" }), el("span", { text: said }));
      const item = el("div", { role: "listitem", dataset: { address } }, picture);
      if (old) old.replaceWith(item);
      else this.samples.append(item);
      if (number === pictures.length - 1) this.samples.scrollLeft = this.samples.scrollWidth;
    });
    this.shown = pictures;
  }
}

let [fetched, asked] = [0, undefined];

// The curves of all trainings since ComfyUI was started, to those panels that want them now: a graph that is opened while
// the answer is under way may have a node of the same id.
async function fetchCurves(wanted) {
  fetched = Date.now();
  const asking = [...panels].filter(wanted);
  if (!asking.length) return;
  let told = {};
  try {
    const answer = await api.fetchApi("/loom/train");
    if (answer.ok) told = await answer.json();
  } catch {
    return;
  }
  for (const panel of asking) {
    const id = executionIds(panel.node).find((each) => told[each]);
    if (id && panels.has(panel)) panel.adopt(told[id]);
  }
}

function hear({ detail }) {
  for (const panel of panels) {
    if (executionIds(panel.node).includes(String(detail?.node))) panel.tell(detail);
  }
  const due = detail?.running === false ? 0 : FETCH_EVERY - (Date.now() - fetched);
  clearTimeout(asked);
  asked = setTimeout(() => fetchCurves((panel) => panel.curve), Math.max(0, due));
}

let opened = false;

app.registerExtension({
  name: "loraloom.train",
  setup: () => api.addEventListener("loom.train", hear),
  // Once: the graph that a reload brings back. Another graph's node may have the same id.
  afterConfigureGraph: () => {
    if (!opened) fetchCurves((panel) => !panel.curve);
    opened = true;
  },
  nodeCreated: (node) => {
    if (node.comfyClass !== "LoomTrain") return;
    for (const sheet of ["./dom.css", "./editors.css"]) loadCss(new URL(sheet, import.meta.url));
    const panel = new TrainPanel(node);
    const executed = node.onExecuted;
    node.onExecuted = (output) => {
      executed?.call(node, output);
      panel.end(output?.train?.[0]);
    };
  },
});
