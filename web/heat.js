// The heat map of Loom Interference: blocks down, pairs of rows across; a cell's figures on hover and by keyboard.
import { app } from "../../scripts/app.js";
import { el, loadCss } from "./dom.js";
import { FIGURES, columnsOf, wordsOf } from "./heat_values.js";
import { mount } from "./mirror.js";
import { roving } from "./roving.js";
import { t } from "./strings.js";

const WIDE = 440;

// What the last run told, by graph and node, so that it outlives an undo.
const runs = new Map();
const runKey = (node) => `${node.graph?.id}:${node.id}`;

class HeatMap {
  constructor(node) {
    this.node = node;
    this.figure = el("select", { class: "loom-input", "aria-label": t("figure"), on: { change: () => this.draw() } }, Object.entries(FIGURES).map(([name, { title }]) => el("option", { value: name, text: t(title) })));
    this.copied = el("button", { type: "button", class: "loom-button", on: { click: () => this.copy() } });
    this.scale = el("div", { class: "loom-scale" });
    this.table = el("div", { class: "loom-heat-scroll" });
    this.words = el("div", { class: "loom-cell-words", role: "status", "aria-live": "polite" });
    this.frame = el("div", { class: "loom-heat", hidden: true }, el("div", { class: "loom-tools" }, this.figure, this.scale, el("span", { class: "loom-spring" }), this.copied), this.table, this.words);
    mount(node, "interference map", "LOOM_HEAT_MAP", el("div", {}, this.frame), { show: () => this.draw(), wide: WIDE, most: 640 });
  }

  ran(data) {
    runs.set(runKey(this.node), data);
    this.draw();
  }

  // Puts the proposed block strengths on the clipboard, for the text of Loom Blocks.
  async copy() {
    const text = runs.get(runKey(this.node))?.blocks_text?.text;
    if (!text) return;
    try {
      await navigator.clipboard.writeText(text);
      this.words.textContent = t("copiedText", { text });
    } catch {
      this.words.textContent = text;
    }
  }

  draw() {
    const data = runs.get(runKey(this.node));
    this.frame.hidden = !data;
    if (!data) return;
    const { scale, low, high, title } = FIGURES[this.figure.value];
    const advice = data.blocks_text;
    this.copied.hidden = !advice;
    if (advice) {
      this.copied.textContent = t("copyForBlocks");
      this.copied.title = t("forRow", { text: advice.text, row: advice.row + 1 });
    }
    this.scale.replaceChildren(el("span", { text: t(low) }), el("span", { class: `loom-scale-bar loom-scale-${scale}` }), el("span", { text: t(high) }));
    const columns = columnsOf(data, this.figure.value);
    const head = el("tr", {}, el("th", { class: "loom-corner", text: t("block") }), columns.map((column) => el("th", { scope: "col", title: column.words, text: column.title })));
    const rows = [];
    const line = (block, cellOf) => {
      const cells = columns.map((column) => this.cell(cellOf(column.pair), column, data, block));
      rows.push(cells);
      return el("tr", { class: block === "all" ? "loom-whole" : "" }, el("th", { scope: "row", text: block === "all" ? t("wholeLora") : block }), cells);
    };
    const body = [line("all", (pair) => pair.whole), ...data.blocks.map((block, place) => line(block, (pair) => pair.cells[place]))];
    const table = el("table", { class: "loom-heat-table", role: "grid", "aria-label": t(title) }, el("thead", {}, head), el("tbody", {}, body));
    this.table.replaceChildren(table);
    this.words.textContent = "";
    roving(table, rows, (row, column) => this.tell(rows[row][column]));
    // A pointer that rests while the table moves under it says nothing.
    table.addEventListener("pointermove", (raised) => {
      if (raised.movementX || raised.movementY) this.tell(raised.target.closest?.("td"));
    });
  }

  tell(cell) {
    if (cell?.loomWords) this.words.replaceChildren(...cell.loomWords.map((text) => el("div", { text })));
  }

  cell(cell, column, data, block) {
    const { value, colour, said } = FIGURES[this.figure.value];
    const number = cell ? value(cell, column.side) : undefined;
    const measured = typeof number === "number";
    const words = wordsOf(cell, column, data, block);
    const [hue, strength] = measured ? colour(number) : ["none", 0];
    const shown = el("td", { role: "gridcell", tabindex: "-1", class: `loom-heat-cell loom-${hue}`, title: words.join("\n"), "aria-label": words.slice(0, 2).join("; "), text: measured ? said(number) : "\u2013" });
    shown.style.setProperty("--loom-heat", `${Math.round(100 * strength)}%`);
    shown.loomWords = words;
    return shown;
  }
}

app.registerExtension({
  name: "loraloom.heat",
  nodeCreated: (node) => {
    if (node.comfyClass !== "LoomInterference") return;
    for (const sheet of ["./dom.css", "./editors.css"]) loadCss(new URL(sheet, import.meta.url));
    const map = new HeatMap(node);
    const executed = node.onExecuted;
    node.onExecuted = (output) => {
      executed?.call(node, output);
      const data = output?.loom_interference?.[0];
      if (data?.pairs && data.blocks && data.rows) map.ran(data);
    };
  },
});
