// The picture of a schedule: axes, the curve, a dot a step, and keyframes to take hold of.
import { el } from "./dom.js";
import { firstStep, plain, strengthAt, valueAt } from "./schedule_text.js";
import { t } from "./strings.js";
import { pathOf, svg, ticks } from "./svg.js";

const [WIDTH, HEIGHT] = [360, 150];
const BOX = { left: 30, top: 8, right: 352, bottom: 130 };
const SNAP = 0.05;
const FINE = 0.01;

// on: {grab(number), drag({position, value}), drop(), add({position, value}), key(event, number), choose(number)}.
export function plotOf(on, tell) {
  const root = svg("svg", { class: "loom-plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": t("overSteps"), "aria-description": tell });
  const plot = { element: el("div", { class: "loom-plot-frame" }, root), root, on, handles: [], low: 0, high: 1.5, right: 1, held: undefined };
  const at = (raised) => {
    const box = root.getBoundingClientRect();
    const [x, y] = [((raised.clientX - box.left) / box.width) * WIDTH, ((raised.clientY - box.top) / box.height) * HEIGHT];
    const share = Math.min(1, Math.max(0, (x - BOX.left) / (BOX.right - BOX.left)));
    const up = Math.min(1, Math.max(0, (BOX.bottom - y) / (BOX.bottom - BOX.top)));
    const step = raised.shiftKey ? FINE : SNAP;
    const value = Math.round((plot.low + up * (plot.high - plot.low)) / step) * step;
    const position = share * plot.right;
    return { value, position: plot.inSteps ? Math.round(position) : Math.round(position / FINE) * FINE };
  };
  root.addEventListener("pointerdown", (raised) => {
    const number = plot.handles.indexOf(raised.target);
    if (raised.button !== 0 || plot.locked || number < 0) return;
    root.setPointerCapture(raised.pointerId);
    raised.preventDefault();
    plot.held = number;
    on.grab(number);
    plot.focus(number);
  });
  root.addEventListener("pointermove", (raised) => {
    if (plot.held !== undefined) on.drag(at(raised));
  });
  const drop = () => {
    if (plot.held === undefined) return;
    plot.held = undefined;
    on.drop();
  };
  root.addEventListener("pointerup", drop);
  root.addEventListener("pointercancel", drop);
  root.addEventListener("dblclick", (raised) => {
    if (!plot.locked && plot.handles.indexOf(raised.target) < 0) on.add(at(raised));
  });
  root.addEventListener("keydown", (raised) => {
    const number = plot.handles.indexOf(raised.target);
    if (number >= 0 && !plot.locked) on.key(raised, number);
  });
  root.addEventListener("focusin", (raised) => {
    const number = plot.handles.indexOf(raised.target);
    if (number >= 0 && plot.held === undefined) on.choose(number);
  });
  plot.focus = (number) => plot.handles[number]?.focus({ preventScroll: true });
  return plot;
}

// Draws a schedule for a row of strength 1: shares and strengths then stand on one scale.
export function drawPlot(plot, schedule, steps, chosen, locked) {
  const values = schedule.frames.map((frame) => frame.value);
  // While a keyframe is held the scale stands still under it.
  if (plot.held === undefined) {
    plot.low = Math.min(0, Math.floor(Math.min(0, ...values) * 2) / 2);
    plot.high = Math.max(1.25, Math.ceil(Math.max(1, ...values) * 2 - 1e-9) / 2 + (Math.max(1, ...values) > 1 ? 0.25 : 0.25));
    plot.right = schedule.inSteps ? Math.max(steps, schedule.frames.at(-1)?.position ?? 0) : 1;
  }
  Object.assign(plot, { inSteps: schedule.inSteps, locked });
  const x = (position) => BOX.left + (position / plot.right) * (BOX.right - BOX.left);
  const y = (value) => BOX.bottom - ((value - plot.low) / (plot.high - plot.low)) * (BOX.bottom - BOX.top);
  const shown = grid(plot, x, y, steps);
  shown.push(...curve(plot, schedule, steps, x, y));
  // The keyframes stay the same elements, so that a drag and the focus outlive the drawing.
  while (plot.handles.length > schedule.frames.length) plot.handles.pop().remove();
  while (plot.handles.length < schedule.frames.length) plot.handles.push(svg("circle", { role: "slider" }));
  schedule.frames.forEach((frame, number) => {
    const handle = plot.handles[number];
    const strength = `${plain(frame.value * (frame.relative ? 100 : 1))}${frame.relative ? " %" : ""}`;
    const said = schedule.inSteps ? t("frameAtStep", { strength, step: plain(frame.position) }) : t("frameAtShare", { strength, percent: plain(frame.position * 100) });
    const attrs = { class: `loom-keyframe${number === chosen ? " loom-chosen" : ""}`, cx: x(frame.position), cy: y(frame.value), r: number === chosen ? 6 : 5, tabindex: locked ? -1 : 0, "aria-label": t("frameOf", { n: number + 1, all: schedule.frames.length }), "aria-valuenow": frame.value, "aria-valuemin": plot.low, "aria-valuemax": plot.high, "aria-valuetext": said };
    for (const [name, value] of Object.entries(attrs)) handle.setAttribute(name, String(value));
    handle.replaceChildren(svg("title", { text: said }));
  });
  for (const old of [...plot.root.children]) if (!plot.handles.includes(old)) old.remove();
  plot.root.prepend(...shown);
  for (const handle of plot.handles) if (!handle.isConnected) plot.root.append(handle);
}

function grid(plot, x, y, steps) {
  const lines = ticks(plot.low, plot.high, 5).map((value) => svg("g", {},
    svg("path", { class: value === 0 ? "loom-axis" : "loom-grid", d: `M${BOX.left} ${y(value)}H${BOX.right}` }),
    svg("text", { class: "loom-tick", x: BOX.left - 4, y: y(value) + 3, "text-anchor": "end", text: plain(value, 2) })));
  const stops = plot.inSteps ? ticks(0, plot.right, 5).filter(Number.isInteger) : [0, 0.25, 0.5, 0.75, 1];
  const marks = stops.map((at) => svg("text", { class: "loom-tick", x: x(at), y: BOX.bottom + 13, "text-anchor": at ? (at === plot.right ? "end" : "middle") : "start", text: plot.inSteps ? (at ? String(at) : t("stepZero")) : `${at * 100} %` }));
  return [...lines, ...marks];
}

function curve(plot, schedule, steps, x, y) {
  const unit = plot.inSteps ? steps : 1;
  const drawn = [];
  const dots = [];
  for (let number = 0; number <= 240; number += 1) {
    const at = (number / 240) * plot.right;
    drawn.push([x(at), y(valueAt(schedule, 1, at))]);
  }
  // A step has one strength, that of its beginning.
  for (let step = 0; step < Math.min(steps, 200); step += 1) {
    const at = plot.inSteps ? step : step / steps;
    if (at <= plot.right) dots.push(svg("circle", { class: "loom-dot", cx: x(at), cy: y(strengthAt(schedule, 1, step, steps)), r: 1.8 }));
  }
  const off = [];
  const from = schedule.start === null ? 0 : (firstStep(schedule.start, steps) / steps) * unit;
  const to = schedule.stop === null ? plot.right : (firstStep(schedule.stop, steps) / steps) * unit;
  const shade = (left, right) => {
    const [low, high] = [Math.min(left, plot.right), Math.min(right, plot.right)];
    if (high > low) off.push(svg("rect", { class: "loom-shut", x: x(low), y: BOX.top, width: x(high) - x(low), height: BOX.bottom - BOX.top }));
  };
  shade(0, from);
  shade(Math.max(from, to), plot.right);
  return [...off, svg("path", { class: "loom-curve", d: pathOf(drawn) }), ...dots];
}
