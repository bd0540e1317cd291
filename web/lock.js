// Keeps in a Loom Loader which file its LoRA was: the hashes of a run, in the node's own widget lora_lock.
import { app } from "../../scripts/app.js";

function nameIn(lock) {
  try {
    return JSON.parse(lock)?.name;
  } catch {
    return undefined;
  }
}

// A lock stands while the same LoRA is chosen; one that a person wrote without a name stands until it is cleared.
function keepLock(node, locks) {
  const widget = node.widgets?.find((candidate) => candidate.name === "lora_lock");
  // Several: the node ran once for each LoRA of a list, and none of them is the widget's.
  if (!widget || locks.length !== 1) return;
  const [before, now] = [nameIn(widget.value), nameIn(locks[0])];
  if (widget.value && (before === undefined || before === now)) return;
  widget.value = locks[0];
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "loraloom.lock",
  nodeCreated: (node) => {
    if (node.comfyClass !== "LoomLoader") return;
    // The classic canvas does not hide advanced inputs of its own accord; "Show Advanced" in the node's menu does.
    const widget = node.widgets?.find((candidate) => candidate.name === "lora_lock");
    if (widget) widget.advanced = true;
    const executed = node.onExecuted;
    node.onExecuted = (output) => {
      executed?.call(node, output);
      keepLock(node, output?.loom_lock ?? []);
    };
  },
});
