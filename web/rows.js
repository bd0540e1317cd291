// The rows of a Loom Stack as a list to edit. The node's declared STRING "rows" stays the truth: this widget shows its
// text and writes it, and a text that it cannot read is left as text. Without this script the page shows a text box.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { loadCss } from "./dom.js";
import { forgetFacts, forgetLoras, loraNames } from "./loras.js";
import { stackEditor } from "./stack_editor.js";
import { loadStrings } from "./strings.js";

const TYPE = "LOOM_ROWS";
const MARGINS = 20; // the page keeps so much above and below a DOM widget
const WIDTH = 420;

const editors = new Map();

function rowsWidget(node, name) {
  const host = {
    node,
    isLinked: () => {
      const slot = (node.inputs ?? []).findIndex((input) => input.widget?.name === name);
      return slot >= 0 && node.isInputConnected(slot);
    },
    // Undo and redo are ComfyUI's: it looks at the graph after a change that is announced.
    wrote: (text, done) => {
      widget.value = text;
      node.graph?.setDirtyCanvas?.(true, true);
      if (!done) return;
      app.canvas?.emitBeforeChange?.();
      app.canvas?.emitAfterChange?.();
    },
    resized: () => {
      node.setSize([node.size[0], node.computeSize()[1]]);
      node.graph?.setDirtyCanvas?.(true, true);
    },
  };
  const editor = stackEditor(host);
  const height = () => editor.height() + MARGINS;
  const widget = node.addDOMWidget(name, TYPE, editor.element, {
    hideOnZoom: false,
    getValue: editor.text,
    setValue: editor.setText,
    getMinHeight: height,
    getMaxHeight: height,
  });
  editors.set(node, editor);
  return { widget, minWidth: WIDTH, minHeight: height() };
}

function follow(node) {
  const editor = editors.get(node);
  if (!editor) return;
  if (node.size[0] < WIDTH) node.setSize([WIDTH, node.size[1]]);
  const { onExecuted, onConnectionsChange, onRemoved } = node;
  node.onExecuted = (output) => {
    onExecuted?.call(node, output);
    forgetFacts();
    editor.ran(output?.loom_rows ?? []);
  };
  node.onConnectionsChange = (...about) => {
    onConnectionsChange?.apply(node, about);
    editor.refresh();
  };
  node.onRemoved = () => {
    editors.delete(node);
    editor.removed();
    onRemoved?.call(node);
  };
}

app.registerExtension({
  name: "loraloom.rows",
  init: () => {
    loadCss(new URL("./dom.css", import.meta.url));
    loadCss(new URL("./rows.css", import.meta.url));
    loadCss(new URL("./chooser.css", import.meta.url));
  },
  setup: async () => {
    api.addEventListener("execution_error", ({ detail }) => {
      for (const [node, editor] of editors) {
        if (String(detail.node_id).split(":").pop() === String(node.id)) editor.failed(String(detail.exception_message ?? ""));
      }
    });
    await loadStrings();
  },
  beforeRegisterNodeDef: (_, definition) => {
    const rows = definition.name === "LoomStack" ? definition.input?.required?.rows : null;
    if (rows?.[1]) rows[1] = { ...rows[1], widgetType: TYPE };
  },
  getCustomWidgets: () => ({ [TYPE]: rowsWidget }),
  nodeCreated: (node) => follow(node),
  loadedGraphNode: (node) => editors.get(node)?.refresh(),
  refreshComboInNodes: async () => {
    forgetLoras();
    await loraNames();
    for (const editor of editors.values()) editor.refresh(true);
  },
});
