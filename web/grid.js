// The viewer of Loom Sweep Grid: every picture of the sweep under its labels, one seen large on a press.
import { app } from "../../scripts/app.js";
import { el, iconButton, loadCss } from "./dom.js";
import { mount } from "./mirror.js";
import { showLarge, viewOf } from "./pictures.js";
import { roving } from "./roving.js";
import { t } from "./strings.js";

const WIDE = 480;
const [SMALLEST, LARGEST, FIRST] = [48, 320, 96];

// What the last run told, by graph and node, so that it outlives an undo.
const runs = new Map();
const runKey = (node) => `${node.graph?.id}:${node.id}`;

class GridViewer {
  constructor(node) {
    this.node = node;
    this.size = FIRST;
    this.batch = 0;
    this.title = el("div", { class: "loom-grid-title" });
    this.batches = el("select", { class: "loom-input", "aria-label": t("batchPicture"), on: { change: () => this.choose(Number(this.batches.value)) } });
    this.tools = el("div", { class: "loom-tools" }, this.title, el("span", { class: "loom-spring" }), this.batches,
      el("button", { type: "button", class: "loom-button", text: "\u2212", "aria-label": t("smaller"), title: t("smaller"), on: { click: () => this.resize(1 / 1.3) } }),
      iconButton("plus", t("larger"), () => this.resize(1.3)));
    this.table = el("div", { class: "loom-grid-scroll" });
    this.frame = el("div", { class: "loom-sweep", hidden: true }, this.tools, this.table);
    this.show = mount(node, "sweep pictures", "LOOM_GRID_VIEWER", el("div", {}, this.frame), { show: () => this.draw(), wide: WIDE, most: 620 });
  }

  resize(by) {
    this.size = Math.round(Math.min(LARGEST, Math.max(SMALLEST, this.size * by)));
    this.table.style.setProperty("--loom-cell", `${this.size}px`);
  }

  choose(batch) {
    this.batch = batch;
    this.draw();
  }

  ran(grid, sweep) {
    runs.set(runKey(this.node), { grid, sweep });
    this.batch = 0;
    this.draw();
  }

  draw() {
    const run = runs.get(runKey(this.node));
    this.frame.hidden = !run;
    if (!run) return;
    const { grid, sweep } = run;
    const [x, y] = [sweep?.x ?? { title: "", labels: [] }, sweep?.y ?? { title: "", labels: [""] }];
    const many = 1 + Math.max(0, ...grid.map((entry) => entry.batch ?? 0));
    this.batches.hidden = many < 2;
    this.batches.replaceChildren(...Array.from({ length: many }, (_, number) => el("option", { value: number, text: t("pictureOf", { n: number + 1, all: many }) })));
    this.batches.value = String(this.batch);
    const told = [x.title, y.title].filter(Boolean).join(" \u00d7 ");
    this.title.textContent = `${told}${typeof sweep?.seed === "number" ? `${told ? " \u00b7 " : ""}${t("seedIs", { seed: sweep.seed })}` : ""}`;
    this.title.title = String(sweep?.prompt ?? sweep?.text ?? "");
    const entries = grid.filter((entry) => (entry.batch ?? 0) === this.batch);
    const [wide, tall] = [Math.max(1, x.labels.length, ...entries.map((entry) => entry.col + 1)), Math.max(1, y.labels.length, ...entries.map((entry) => entry.row + 1))];
    const large = entries.map((entry) => ({ file: entry.file, said: this.said(entry, x, y) }));
    const head = el("tr", {}, tall > 1 || y.title ? el("th", { class: "loom-corner", text: y.title }) : null, Array.from({ length: wide }, (_, col) => el("th", { scope: "col", text: x.labels[col] ?? "" })));
    const rows = [];
    const body = Array.from({ length: tall }, (_, row) => {
      const cells = Array.from({ length: wide }, (__, col) => {
        const number = entries.findIndex((entry) => entry.col === col && entry.row === row);
        return number < 0 ? undefined : this.picture(entries[number], large, number);
      });
      rows.push(cells);
      return el("tr", {}, tall > 1 || y.title ? el("th", { scope: "row", text: y.labels[row] ?? "" }) : null, cells.map((cell) => el("td", {}, cell)));
    });
    const table = el("table", { class: "loom-sweep-table", "aria-label": told || t("sweepPictures") }, el("thead", {}, head), el("tbody", {}, body));
    this.table.replaceChildren(table);
    this.resize(1);
    roving(table, rows, () => {});
  }

  said(entry, x, y) {
    const part = (axis, label) => (axis.title || label ? `${axis.title || ""} ${label}`.trim() : "");
    const words = [part(x, entry.x), part(y, entry.y), entry.reference ? t("reference") : ""];
    return words.filter(Boolean).join(", ");
  }

  picture(entry, large, number) {
    const { said } = large[number];
    const button = el("button", { type: "button", class: `loom-cell${entry.reference ? " loom-reference" : ""}`, title: said, "aria-label": t("seenLarger", { said }), on: { click: () => showLarge(button, large, number) } }, el("img", { src: viewOf(entry.file), alt: "", loading: "lazy", decoding: "async" }));
    return button;
  }
}

app.registerExtension({
  name: "loraloom.grid",
  nodeCreated: (node) => {
    if (node.comfyClass !== "LoomSweepGrid") return;
    for (const sheet of ["./dom.css", "./editors.css"]) loadCss(new URL(sheet, import.meta.url));
    const viewer = new GridViewer(node);
    const executed = node.onExecuted;
    node.onExecuted = (output) => {
      executed?.call(node, output);
      if (output?.loom_grid?.length) viewer.ran(output.loom_grid, output.loom_sweep?.[0]);
    };
  },
});
