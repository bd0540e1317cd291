// A slider with its number: dragged, moved by keys, typed. It reports values and shows what it is told.
import { el } from "./dom.js";
import { t } from "./strings.js";

const [LOW, HIGH] = [0, 2];
const [COARSE, FINE] = [0.05, 0.01];
const MOST = 100;

const rounded = (value, step) => Math.round(value / step) * step;
const fraction = (value) => Math.min(1, Math.max(0, (value - LOW) / (HIGH - LOW)));

// on: {begin(), move(value), end(), set(value), step(by)}: begin, move and end of a drag; set by key or typing; step to a
// neighbour. Returns {element, track, show}.
export function sliderOf(name, on) {
  const energy = el("div", { class: "loom-energy" });
  const left = el("div", { class: "loom-energy-left" });
  const fill = el("div", { class: "loom-fill" });
  const thumb = el("div", { class: "loom-knob" });
  const attrs = { class: "loom-track", role: "slider", tabindex: "-1", "aria-label": name, "aria-valuemin": LOW, "aria-valuemax": HIGH };
  const track = el("div", attrs, energy, left, fill, thumb);
  const field = el("input", { class: "loom-slider-number", type: "text", inputmode: "decimal", tabindex: "-1", "aria-label": t("numberOf", { name }), spellcheck: "false", autocomplete: "off" });
  const element = el("div", { class: "loom-slider" }, el("span", { class: "loom-slider-name", text: name, title: name }), track, field);
  let value = 1;

  const valueAt = (raised) => {
    const box = track.getBoundingClientRect();
    return rounded(LOW + Math.min(1, Math.max(0, (raised.clientX - box.left) / box.width)) * (HIGH - LOW), raised.shiftKey ? FINE : COARSE);
  };
  let dragging = false;
  track.addEventListener("pointerdown", (raised) => {
    if (raised.button !== 0) return;
    track.setPointerCapture(raised.pointerId);
    track.focus({ preventScroll: true });
    dragging = true;
    on.begin();
    on.move(valueAt(raised));
  });
  track.addEventListener("pointermove", (raised) => {
    if (dragging) on.move(valueAt(raised));
  });
  const stop = () => {
    if (dragging) on.end();
    dragging = false;
  };
  track.addEventListener("pointerup", stop);
  track.addEventListener("pointercancel", stop);
  track.addEventListener("dblclick", () => on.set(1));
  track.addEventListener("keydown", (raised) => {
    const step = raised.shiftKey ? FINE : COARSE;
    const moves = { ArrowRight: value + step, ArrowLeft: value - step, PageUp: value + 0.25, PageDown: value - 0.25, Home: LOW, End: HIGH, Delete: 1, Backspace: 1 };
    const neighbours = { ArrowDown: 1, ArrowUp: -1 };
    if (raised.ctrlKey || raised.metaKey || raised.altKey) return;
    if (raised.key in moves) on.set(rounded(Math.min(MOST, Math.max(-MOST, moves[raised.key])), FINE));
    else if (raised.key in neighbours) on.step(neighbours[raised.key]);
    else if (raised.key === "Enter" || /^[\d.-]$/.test(raised.key)) {
      field.focus();
      field.select();
      // The key itself is then typed into the field.
      if (raised.key !== "Enter") return;
    } else return;
    raised.preventDefault();
  });
  field.addEventListener("change", () => {
    const text = field.value.trim().replace(",", ".");
    const typed = Number(text);
    if (text !== "" && Number.isFinite(typed) && Math.abs(typed) <= MOST) on.set(typed);
    else if (text === "") on.set(1);
    field.value = field.dataset.shown ?? "";
  });
  field.addEventListener("keydown", (raised) => {
    if (raised.key === "Enter" || raised.key === "Escape") {
      if (raised.key === "Escape") field.value = field.dataset.shown ?? "";
      track.focus({ preventScroll: true });
      raised.preventDefault();
    }
  });
  field.addEventListener("focus", () => field.select());

  // now: {value, text, title, muted}; share: of the longest bar, 0 to 1; kept: the part of the bar that is left.
  function show(now, share = 0) {
    value = now.value;
    const at = `${100 * fraction(value)}%`;
    thumb.style.left = at;
    fill.style.width = at;
    energy.style.width = `${100 * share}%`;
    left.style.width = `${100 * Math.min(1, share * value * value)}%`;
    if (field.dataset.shown !== now.text) {
      field.dataset.shown = now.text;
      field.value = now.text;
    }
    track.setAttribute("aria-valuenow", String(value));
    track.setAttribute("aria-valuetext", now.title);
    element.title = now.title;
    element.classList.toggle("loom-muted", Boolean(now.muted));
    element.classList.toggle("loom-changed", value !== 1);
  }
  const enable = (enabled) => {
    field.disabled = !enabled;
    track.setAttribute("aria-disabled", String(!enabled));
  };
  return { element, track, field, show, enable };
}
