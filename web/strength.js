// A number to drag, wheel, step by keys or type: the strength of a LoRA.
import { el } from "./dom.js";
import { MOST, strengthOf } from "./rows_model.js";

const STEP = 0.1;
const FINE = 0.01;
const SLACK = 3; // pixels that a click may wander
const REST = 400; // ms after which a turned wheel is taken to rest
const SHOWN = 2; // the strength at which the bar is full

// get() -> number; set(number, done): done is false while a gesture goes on. Returns {element, update}.
export function strengthField({ label, help, get, set }) {
  const number = el("span", { class: "loom-number" });
  const field = el("div", { class: "loom-strength", role: "spinbutton", tabindex: "0", "data-capture-wheel": "true", "aria-label": label, title: `${label}: ${help}` }, number);
  field.setAttribute("aria-valuemin", -MOST);
  field.setAttribute("aria-valuemax", MOST);
  const update = () => {
    const value = get();
    const text = Number.isInteger(value * 100) ? value.toFixed(2) : String(value);
    if (number.textContent !== text) number.textContent = text;
    field.setAttribute("aria-valuenow", value);
    field.style.setProperty("--loom-fill", `${Math.min(1, Math.abs(value) / SHOWN) * 100}%`);
    field.classList.toggle("loom-negative", value < 0);
  };
  const change = (value, done = true) => {
    set(strengthOf(value), done);
    update();
  };
  const step = (by, done) => change(strengthOf(get() + by, 2), done);
  addDrag(field, get, change, () => type(field, get, change));
  addWheel(field, step);
  addKeys(field, step, (first) => type(field, get, change, first));
  update();
  return { element: field, update };
}

function addDrag(field, get, change, clicked) {
  let drag = null;
  field.addEventListener("pointerdown", (raised) => {
    if (raised.button !== 0 || field.querySelector("input")) return;
    field.setPointerCapture(raised.pointerId);
    drag = { x: raised.clientX, from: get(), moved: false };
  });
  field.addEventListener("pointermove", (raised) => {
    if (!drag) return;
    const way = raised.clientX - drag.x;
    drag.moved ||= Math.abs(way) > SLACK;
    if (drag.moved) change(strengthOf(drag.from + way * (raised.shiftKey ? FINE / 4 : FINE), 2), false);
  });
  const end = (raised) => {
    if (!drag) return;
    const { moved } = drag;
    drag = null;
    if (moved) change(get());
    else if (raised.type === "pointerup") clicked();
  };
  field.addEventListener("pointerup", end);
  field.addEventListener("pointercancel", end);
}

// Nodes 2.0 gives the wheel to what has the focus and says data-capture-wheel, and else to the canvas. On the classic
// canvas it counts only after the pointer was moved over the field: a canvas that is zoomed slides fields under it.
function addWheel(field, step) {
  let entered = null;
  let armed = false;
  let rest;
  field.addEventListener("pointerenter", (raised) => {
    entered = [raised.screenX, raised.screenY];
    armed = false;
  });
  field.addEventListener("pointermove", (raised) => {
    armed ||= entered !== null && (raised.screenX !== entered[0] || raised.screenY !== entered[1]);
  });
  field.addEventListener("pointerleave", () => {
    armed = false;
  });
  field.addEventListener(
    "wheel",
    (raised) => {
      if (raised.ctrlKey || raised.metaKey || !(armed || document.activeElement === field)) return;
      raised.preventDefault();
      raised.stopPropagation();
      // With shift held some systems turn the wheel sideways.
      const way = -Math.sign(raised.deltaY || raised.deltaX);
      step(way * (raised.shiftKey ? FINE : STEP), false);
      clearTimeout(rest);
      rest = setTimeout(() => step(0, true), REST);
    },
    { passive: false },
  );
}

function addKeys(field, step, typed) {
  const steps = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5 };
  field.addEventListener("keydown", (raised) => {
    if (raised.target !== field || raised.altKey || raised.ctrlKey || raised.metaKey) return;
    if (raised.key in steps) step(steps[raised.key] * (raised.shiftKey ? FINE : STEP), true);
    else if (raised.key === "Enter" || raised.key === "F2") typed();
    else if (/^[-+.,0-9]$/.test(raised.key)) typed(raised.key);
    else return;
    raised.preventDefault();
    raised.stopPropagation();
  });
}

// A box over the number; Enter and leaving it take what is typed, Escape and what is no number leave the strength.
function type(field, get, change, first) {
  const before = get();
  const box = el("input", { class: "loom-typed", type: "text", inputmode: "decimal", "aria-label": field.getAttribute("aria-label") });
  box.value = first ?? String(before);
  let open = true;
  const close = (take, refocus) => {
    if (!open) return;
    open = false;
    const value = Number(box.value.trim().replace(",", "."));
    box.remove();
    if (take && box.value.trim() && Number.isFinite(value) && value !== before) change(value);
    if (refocus) field.focus({ preventScroll: true });
  };
  box.addEventListener("keydown", (raised) => {
    if (raised.key === "Enter" || raised.key === "Escape") {
      raised.preventDefault();
      raised.stopPropagation();
      close(raised.key === "Enter", true);
    }
  });
  box.addEventListener("blur", () => close(true, false));
  field.append(box);
  box.focus({ preventScroll: true });
  if (first === undefined) box.select();
}
