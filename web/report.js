// Shows under a node what its last run matched and what it left out: the "text" of the node's output.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { t } from "./strings.js";

const REPORTING = new Set(["LoomLoader", "LoomStack", "LoomApply", "LoomTags", "LoomBlocks", "LoomSchedule", "LoomMerge", "LoomResize", "LoomInspect", "LoomIndex", "LoomSave", "LoomDataset", "LoomTrain", "LoomSweep", "LoomBlockMap", "LoomInterference", "LoomBalance", "LoomExtract", "LoomRegion"]);
const LINE_HEIGHT = 14;
const MOST_LINES = 12;
// The page keeps this much above and below a DOM widget.
const MARGINS = 22;

function reportElement() {
  const element = document.createElement("div");
  Object.assign(element.style, {
    width: "100%",
    height: "100%",
    // Nodes 2.0 asks the element itself how tall it may get.
    maxHeight: `${MOST_LINES * LINE_HEIGHT}px`,
    boxSizing: "border-box",
    margin: "0",
    overflow: "auto",
    whiteSpace: "pre-wrap",
    overflowWrap: "anywhere",
    font: `11px/${LINE_HEIGHT}px sans-serif`,
    userSelect: "text",
    color: "var(--input-text, #ddd)",
  });
  element.className = "loom-report";
  element.dataset.captureWheel = "true";
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", t("runSaid"));
  // Scrolling and selecting text must not move the canvas below.
  for (const event of ["pointerdown", "wheel"]) {
    element.addEventListener(event, (raised) => {
      if (element.textContent) raised.stopPropagation();
    });
  }
  return element;
}

// A text is scrolled by keys, and by the wheel, which Nodes 2.0 gives to what has the focus only.
function show(node, element, text) {
  element.textContent = text;
  element.tabIndex = text ? 0 : -1;
  const [width, tall] = node.size;
  node.setSize([width, Math.max(tall, node.computeSize()[1])]);
  node.setDirtyCanvas?.(true, true);
}

// Long reports are scrolled: a node does not grow past MOST_LINES.
function heightOf(text, width) {
  const perLine = Math.max(20, Math.floor(width / 6));
  const lines = text.split("\n").reduce((sum, line) => sum + Math.ceil((line.length || 1) / perLine), 0);
  return text ? Math.min(lines, MOST_LINES) * LINE_HEIGHT + MARGINS : 0;
}

// The report elements by node, so that a failed run does not leave the last good report standing.
const elements = new Map();

function addReport(node) {
  const element = reportElement();
  elements.set(node, element);
  const height = () => heightOf(element.textContent, node.size[0]);
  const widget = node.addDOMWidget("report", "LOOM_REPORT", element, {
    serialize: false,
    hideOnZoom: false,
    getValue: () => element.textContent,
    setValue: () => {},
    getMinHeight: height,
    getMaxHeight: height,
  });
  widget.serialize = false;
  const removed = node.onRemoved;
  node.onRemoved = () => {
    elements.delete(node);
    removed?.call(node);
  };
  const executed = node.onExecuted;
  node.onExecuted = (output) => {
    executed?.call(node, output);
    show(node, element, (output?.text ?? []).join("\n"));
  };
}

app.registerExtension({
  name: "loraloom.report",
  setup: () => {
    api.addEventListener("execution_error", ({ detail }) => {
      for (const [node, element] of elements) {
        // Of a node in a subgraph, the ids of those that it stands in come first.
        if (String(detail.node_id).split(":").pop() === String(node.id)) show(node, element, String(detail.exception_message ?? ""));
      }
    });
  },
  nodeCreated: (node) => {
    if (REPORTING.has(node.comfyClass)) addReport(node);
  },
});
