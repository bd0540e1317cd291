// An editor over a text widget that the node declares: the text stays the only value, the editor shows and changes it.
import { app } from "../../scripts/app.js";
import { el, keepEvents } from "./dom.js";

// The page keeps this much above and below a DOM widget.
const MARGINS = 20;
// Narrower than this an element has not been laid out yet.
const NARROWEST = 80;
const LOOK_EVERY = 250;
const MOST_STRAYS = 40;

export const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

// Whether a link brings the input's value, so that the widget's own is not used.
export function isLinked(node, name) {
  const slot = node.inputs?.findIndex((input) => input.name === name) ?? -1;
  return slot >= 0 && Boolean(node.isInputConnected(slot));
}

// What happens between the two is one step of the page's own undo: a drag, for example.
export const beginStep = () => app.canvas?.emitBeforeChange?.();
export const endStep = () => app.canvas?.emitAfterChange?.();

// Sets widgets as one step of undo. values: widget name -> value.
export function change(node, values) {
  const changes = Object.entries(values).filter(([name, value]) => widgetOf(node, name)?.value !== value);
  if (!changes.length) return;
  beginStep();
  for (const [name, value] of changes) {
    const widget = widgetOf(node, name);
    widget.value = value;
    widget.callback?.(value);
  }
  endStep();
  node.setDirtyCanvas?.(true, true);
}

// Calls show() when what the names' widgets hold, or whether links bring it, is no longer what it last was: by typing,
// by the page's undo, by another pack. A string a widget is compared now and then, which needs no hook in the page.
function watch(node, names, show) {
  const state = () => JSON.stringify(names.map((name) => [widgetOf(node, name)?.value, isLinked(node, name)]));
  let last;
  const look = () => {
    const now = state();
    if (now === last) return;
    last = now;
    show();
  };
  let strays = 0;
  const timer = setInterval(() => {
    // A node that was made for show only, and never put into a graph, is let go.
    strays = node.graph ? 0 : strays + 1;
    if (strays > MOST_STRAYS) clearInterval(timer);
    else look();
  }, LOOK_EVERY);
  const removed = node.onRemoved;
  node.onRemoved = () => {
    clearInterval(timer);
    removed?.call(node);
  };
  return look;
}

// Puts `content` under the node's widgets as a display that is neither saved nor sent; the node grows with it up to
// `most` pixels, from where on it scrolls. names: the widgets that it shows. Returns a function that shows them again.
export function mount(node, name, type, content, { names = [], show = () => {}, most = 480, wide = 0 }) {
  const element = keepEvents(el("div", { class: "loom-ui loom-mount", dataset: { captureWheel: "true" } }, content), { wheel: true });
  let tall = 0;
  const height = () => (tall ? Math.min(tall, most) + MARGINS : 0);
  const widget = node.addDOMWidget(name, type, element, {
    serialize: false,
    hideOnZoom: false,
    getValue: () => "",
    setValue: () => {},
    getMinHeight: height,
    getMaxHeight: height,
  });
  widget.serialize = false;
  // In which order the page asks its scripts is left to chance: a report that came first goes below the editor.
  const report = widgetOf(node, "report");
  if (report) node.widgets.push(...node.widgets.splice(node.widgets.indexOf(report), 1));
  // The node gets as tall as it must be and gives back what it was given; a height that a person chose it keeps.
  let [chosen, given] = [0, -1];
  const grow = () => {
    const [width, now] = node.size;
    if (Math.abs(now - given) > 1) chosen = now;
    const least = node.computeSize();
    node.setSize([Math.max(width, least[0]), Math.max(chosen, least[1])]);
    given = node.size[1];
    node.setDirtyCanvas?.(true, true);
  };
  const sizes = new ResizeObserver(() => {
    const now = Math.ceil(content.offsetHeight);
    // Out of sight it has no height, which says nothing.
    if (!now || now === tall || content.offsetWidth < NARROWEST) return;
    tall = now;
    Object.assign(element.style, { minHeight: `${Math.min(tall, most)}px`, maxHeight: `${most}px` });
    grow();
  });
  sizes.observe(content);
  const removed = node.onRemoved;
  node.onRemoved = () => {
    sizes.disconnect();
    removed?.call(node);
  };
  // Of a saved node this is overruled by its saved size.
  node.setSize([Math.max(node.size[0], wide), node.size[1]]);
  return watch(node, names, show);
}
