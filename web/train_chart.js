// The loss of a training over its steps, with the validation loss; values of the nearest point under the pointer.
import { el } from "./dom.js";
import { t } from "./strings.js";
import { pathOf, svg, ticks } from "./svg.js";

const [WIDTH, HEIGHT] = [400, 150];
const BOX = { left: 44, top: 8, right: 392, bottom: 130 };

export const short = (value) => (Math.abs(value) >= 0.001 || value === 0 ? String(Number(value.toPrecision(3))) : value.toExponential(1));

const nearest = (points, step) => points.reduce((best, point) => (Math.abs(point[0] - step) < Math.abs((best?.[0] ?? Infinity) - step) ? point : best), undefined);

// The least and the greatest loss; the first tenth of a long run, high above the rest, may leave the frame.
function range(loss, validation) {
  const late = loss.length > 40 ? loss.slice(Math.floor(loss.length / 20)) : loss;
  const values = [...late, ...validation].map((point) => point[1]).filter(Number.isFinite);
  if (!values.length) return [0, 1];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  return [Math.max(0, low - room), high + room];
}

export function lossChart() {
  const root = svg("svg", { class: "loom-plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  const told = el("div", { class: "loom-hover" });
  const element = el("div", { class: "loom-plot-frame loom-chart" }, root, told);
  const cursor = svg("path", { class: "loom-cursor" });
  let [curve, x] = [{ loss: [], validation: [] }, () => 0];

  function draw(now) {
    curve = now;
    const { loss = [], validation = [], steps = 1 } = curve;
    const [low, high] = range(loss, validation);
    const end = Math.max(steps, 1);
    x = (step) => BOX.left + (step / end) * (BOX.right - BOX.left);
    const y = (value) => Math.max(BOX.top, BOX.bottom - ((value - low) / (high - low)) * (BOX.bottom - BOX.top));
    const lines = ticks(low, high, 4).map((value) => svg("g", {},
      svg("path", { class: "loom-grid", d: `M${BOX.left} ${y(value)}H${BOX.right}` }),
      svg("text", { class: "loom-tick", x: BOX.left - 4, y: y(value) + 3, "text-anchor": "end", text: short(value) })));
    const marks = ticks(0, end, 5).filter((step) => Number.isInteger(step)).map((step) => svg("text", { class: "loom-tick", x: x(step), y: BOX.bottom + 13, "text-anchor": step ? (x(step) > BOX.right - 12 ? "end" : "middle") : "start", text: step ? String(step) : t("stepZero") }));
    const line = (points, name) => (points.length > 1 ? svg("path", { class: name, d: pathOf(points.map(([step, value]) => [x(step), y(value)])) }) : null);
    const dots = validation.map(([step, value]) => svg("circle", { class: "loom-validation-dot", cx: x(step), cy: y(value), r: 2.6 }));
    root.replaceChildren(...[...lines, ...marks, line(loss, "loom-loss"), line(validation, "loom-validation"), ...dots, cursor].filter(Boolean));
    const last = loss.at(-1);
    const held = validation.at(-1);
    root.setAttribute("aria-label", [t("lossOver", { steps }), last ? t("lossAt", { step: last[0], loss: short(last[1]) }) : "", held ? t("heldOutAt", { step: held[0], loss: short(held[1]) }) : ""].filter(Boolean).join("; "));
  }

  root.addEventListener("pointermove", (raised) => {
    const box = root.getBoundingClientRect();
    const step = (((raised.clientX - box.left) / box.width) * WIDTH - BOX.left) / (BOX.right - BOX.left) * Math.max(curve.steps ?? 1, 1);
    const [at, held] = [nearest(curve.loss ?? [], step), nearest(curve.validation ?? [], step)];
    if (!at) return;
    cursor.setAttribute("d", `M${x(at[0])} ${BOX.top}V${BOX.bottom}`);
    told.textContent = [t("lossAt", { step: at[0], loss: short(at[1]) }), held ? t("heldOutAt", { step: held[0], loss: short(held[1]) }) : ""].filter(Boolean).join("; ");
  });
  root.addEventListener("pointerleave", () => {
    cursor.removeAttribute("d");
    told.textContent = "";
  });
  return { element, draw };
}
