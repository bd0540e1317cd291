// Pictures of ComfyUI's folders: their addresses, and one seen large.
import { api } from "../../scripts/api.js";
import { el, openPanel } from "./dom.js";

// The address of {filename, subfolder, type}, whatever characters they hold.
export function viewOf({ filename = "", subfolder = "", type = "temp" }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

// Shows pictures large, beginning with one; left and right go through them. pictures: {file, said} each.
export function showLarge(anchor, pictures, first) {
  let at = first;
  const image = el("img", { class: "loom-large", alt: "" });
  const said = el("div", { class: "loom-large-said", role: "status" });
  const turn = (by) => {
    at = (at + by + pictures.length) % pictures.length;
    image.src = viewOf(pictures[at].file);
    image.alt = pictures[at].said;
    said.textContent = `${pictures[at].said}  (${at + 1} of ${pictures.length})`;
  };
  turn(0);
  const content = el("div", { class: "loom-large-frame", tabindex: "0", "aria-label": "Left and right turn, Escape closes" }, image, said);
  const step = { ArrowLeft: -1, ArrowRight: 1 };
  content.addEventListener("keydown", (raised) => {
    if (!(raised.key in step)) return;
    raised.preventDefault();
    turn(step[raised.key]);
  });
  const close = openPanel(anchor, content, { label: "Picture", className: "loom-large-panel" });
  content.addEventListener("click", () => close());
  content.focus({ preventScroll: true });
}
