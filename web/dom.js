// What the pack's widgets share: elements, icons, styles, panels and menus. Text is only ever set as text.

// An element. attrs: "class", "text", "style" (object), "dataset" (object), "on" (event -> function), and any attribute;
// null, undefined and false leave one out, true sets it empty. children: elements and texts; null is left out.
export function el(tag, attrs = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attrs)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name === "style") Object.assign(element.style, value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name === "on") for (const [event, run] of Object.entries(value)) element.addEventListener(event, run);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Strokes on a field of 16 x 16.
const ICONS = {
  plus: "M8 3v10M3 8h10",
  close: "M4 4l8 8M12 4l-8 8",
  more: "M3.5 8h.01M8 8h.01M12.5 8h.01",
  down: "M4 6l4 4 4-4",
  right: "M6 4l4 4-4 4",
  grip: "M6 4h.01M10 4h.01M6 8h.01M10 8h.01M6 12h.01M10 12h.01",
  link: "M7 9a2.5 2.5 0 0 0 3.6 0l2-2A2.5 2.5 0 0 0 9 3.5L8.3 4.2M9 7a2.5 2.5 0 0 0-3.6 0l-2 2A2.5 2.5 0 0 0 7 12.5l.7-.7",
  apart: "M9.5 6.5L11 5M10.5 10l2-2A2.5 2.5 0 0 0 9 3.5L7.5 5M5.5 6l-2 2A2.5 2.5 0 0 0 7 12.5L8.5 11M3 3l10 10",
  info: "M8 7.5v4M8 5h.01M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0z",
  warning: "M8 6.5v3M8 11.5h.01M8 2.5l6 11H2z",
  copy: "M6 6h7v7H6zM10 6V3H3v7h3",
  trash: "M3 4.5h10M6 4.5V3h4v1.5M4.5 4.5l.5 8.5h6l.5-8.5",
  search: "M10.5 10.5L14 14M11.5 7A4.5 4.5 0 1 1 2.5 7a4.5 4.5 0 0 1 9 0z",
  check: "M3 8.5l3.5 3.5L13 4.5",
  text: "M3 4h10M3 8h10M3 12h6",
  paste: "M5 3.5H3.5v10h9v-10H11M5.5 2.5h5v2.5h-5z",
  star: "M8 2l1.8 3.8 4.2.6-3 2.900.7 4.2L8 11.5l-3.700 2 .7-4.2-3-2.900 4.2-.6z",
};

// A drawing that takes the colour of the text around it; hidden from screen readers, whatever carries it has a label.
export function icon(name) {
  const drawn = `<svg class="loom-icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false"><path d="${ICONS[name]}"/></svg>`;
  return document.adoptNode(new DOMParser().parseFromString(drawn, "text/html").body.firstElementChild);
}

// A button that shows an icon only; its label is its name and its tooltip.
export function iconButton(name, label, run, attrs = {}) {
  return el("button", { type: "button", class: "loom-icon-button", "aria-label": label, title: label, ...attrs, on: { click: run } }, icon(name));
}

const sheets = new Set();

// A style sheet beside the module that asks for it: loadCss(new URL("./x.css", import.meta.url)). Loaded once a page,
// and beside the document: nothing is put into its head. Each of its rules names a class of this pack, so that nothing
// else is dressed by it: tests/web/test_styles.py reads them, which checkers of scripts cannot.
export async function loadCss(address) {
  const href = String(address);
  if (sheets.has(href)) return;
  sheets.add(href);
  const answer = await fetch(href);
  if (!answer.ok) throw new Error(`${href} answers ${answer.status}`);
  document.adoptedStyleSheets.push(await new CSSStyleSheet().replace(await answer.text()));
}

// What a person does inside an element stays there: the canvas below neither drags, scrolls nor takes its keys.
export function keepEvents(element, { wheel = false } = {}) {
  for (const event of ["pointerdown", "pointermove", "mousedown", "dblclick", "keydown", "paste", "copy", "cut", "drop", "dragover"]) {
    element.addEventListener(event, (raised) => raised.stopPropagation());
  }
  if (wheel) element.addEventListener("wheel", (raised) => raised.stopPropagation(), { passive: true });
  return element;
}

const open = [];

// A panel over the page beside `anchor`, in the top layer but a child of the anchor's own widget; one that is opened
// from within another stays above it. It closes by Escape and by a press elsewhere, and gives the focus back. Returns a
// function that closes it.
export function openPanel(anchor, content, { label, role = "dialog", width, onClose, className = "" } = {}) {
  const panel = keepEvents(
    el("div", { class: `loom-ui loom-panel ${className}`, role, "aria-label": label, tabindex: "-1", popover: "manual", style: width ? { width: `${width}px` } : {} }, content),
    { wheel: true },
  );
  open.find((entry) => entry.anchor === anchor)?.close();
  const before = document.activeElement;
  let closed = false;
  const close = (refocus = true) => {
    if (closed) return;
    closed = true;
    for (const above of open.splice(open.findIndex((entry) => entry.panel === panel)).slice(1)) above.close(false);
    window.removeEventListener("pointerdown", pressed, true);
    window.removeEventListener("resize", close);
    sized.disconnect();
    panel.remove();
    onClose?.();
    if (refocus === false) return;
    const back = before?.isConnected && before !== document.body ? before : anchor;
    if (back.isConnected) back.focus?.({ preventScroll: true });
  };
  const pressed = (raised) => {
    const from = open.findIndex((entry) => entry.panel === panel);
    if (anchor.contains?.(raised.target) || open.slice(from).some((entry) => entry.panel.contains(raised.target))) return;
    close(false);
  };
  panel.addEventListener("keydown", (raised) => {
    if (raised.key !== "Escape") return;
    raised.preventDefault();
    close();
  });
  anchor.closest(".loom-ui:not(.loom-panel)").append(panel);
  panel.showPopover();
  open.push({ panel, anchor, close });
  // What comes later makes it larger: it moves, so that it stays within the window.
  const sized = new ResizeObserver(() => place(panel, at));
  const at = anchor.getBoundingClientRect();
  sized.observe(panel);
  place(panel, at);
  window.addEventListener("pointerdown", pressed, true);
  window.addEventListener("resize", close);
  return close;
}

// Below the anchor where there is room, else above it, and within the window.
function place(panel, at) {
  const [width, height] = [panel.offsetWidth, panel.offsetHeight];
  const below = at.bottom + 4 + height <= innerHeight - 8 || at.top < innerHeight - at.bottom;
  const top = Math.min(below ? at.bottom + 4 : at.top - 4 - height, innerHeight - 8 - height);
  panel.style.left = `${Math.max(8, Math.min(at.left, innerWidth - 8 - width))}px`;
  panel.style.top = `${Math.max(8, top)}px`;
}

// A menu; a second call for the same anchor closes it. items: {label, run, icon?, checked?, disabled?, danger?}, {title} for a heading, null for a line between two.
export function openMenu(anchor, items, label) {
  const shown = open.find((entry) => entry.anchor === anchor);
  if (shown) return shown.close();
  const list = el("div", { class: "loom-menu" });
  const close = openPanel(anchor, list, { label, role: "menu", className: "loom-menu-panel" });
  for (const item of items) {
    if (item === null) list.append(el("hr"));
    else if (item.title !== undefined) list.append(el("div", { class: "loom-menu-title", text: item.title }));
    else list.append(menuItem(item, close));
  }
  const entries = [...list.querySelectorAll("button:not(:disabled)")];
  list.addEventListener("keydown", (raised) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[raised.key];
    const edge = { Home: 0, End: entries.length - 1 }[raised.key];
    if (step === undefined && edge === undefined) return;
    raised.preventDefault();
    const next = edge ?? (entries.indexOf(document.activeElement) + step + entries.length) % entries.length;
    entries[next]?.focus();
  });
  entries[0]?.focus({ preventScroll: true });
  return close;
}

function menuItem(item, close) {
  const chosen = () => {
    close();
    item.run();
  };
  const role = item.checked === undefined ? "menuitem" : "menuitemcheckbox";
  const state = item.checked === undefined ? null : String(item.checked);
  const mark = item.checked ? icon("check") : item.icon ? icon(item.icon) : el("span", { class: "loom-icon" });
  const attrs = { type: "button", role, "aria-checked": state, disabled: item.disabled, tabindex: "-1", class: item.danger ? "loom-danger" : "" };
  return el("button", { ...attrs, on: { click: chosen } }, mark, el("span", { text: item.label }));
}

// A hue of its own for a name, the same every time: what stands in for a picture.
export function hueOf(name) {
  let sum = 0;
  for (const char of name) sum = (sum * 31 + char.codePointAt(0)) % 360;
  return sum;
}
