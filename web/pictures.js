// Pictures of ComfyUI's folders: their addresses, and one seen large.
import { api } from "../../scripts/api.js";
import { el, openPanel } from "./dom.js";
import { t } from "./strings.js";

// The address of {filename, subfolder, type}, whatever characters they hold.
export function viewOf({ filename = "", subfolder = "", type = "temp" }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

// Shows pictures large, beginning with one; left and right go through them. pictures: {file, said} each.
export function showLarge(anchor, pictures, first) {
  let at = first;
  const image = el("img", { class: "loom-enlarged", alt: "" });
  const said = el("div", { class: "loom-enlarged-said", role: "status" });
  const turn = (by) => {
    at = (at + by + pictures.length) % pictures.length;
    image.src = viewOf(pictures[at].file);
    image.alt = pictures[at].said;
    said.textContent = t("largeOf", { said: pictures[at].said, n: at + 1, all: pictures.length });
  };
  turn(0);
  const content = el("div", { class: "loom-enlarged-frame", tabindex: "0", "aria-label": t("largeHelp") }, image, said);
  const step = { ArrowLeft: -1, ArrowRight: 1 };
  content.addEventListener("keydown", (raised) => {
    if (!(raised.key in step)) return;
    raised.preventDefault();
    turn(step[raised.key]);
  });
  const close = openPanel(anchor, content, { label: t("picture"), className: "loom-enlarged-panel" });
  content.addEventListener("click", () => close());
  content.focus({ preventScroll: true });
}
