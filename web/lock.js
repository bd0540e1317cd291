// Keeps which files the LoRAs of a run were, by their hashes: of a Loom Loader in its own widget lora_lock, of a Loom
// Stack as "locks" beside its rows, by name, so that a row that is given another name is not held to the old file.
import { app } from "../../scripts/app.js";
import { ownsLock, rowsText } from "./rows_model.js";

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

// Our own rows are rewritten with their locks; tags and rows of other packs are left as they were pasted.
function withLocks(text, found) {
  let parsed;
  try {
    parsed = JSON.parse(text);
  } catch {
    return text;
  }
  const rows = Array.isArray(parsed) ? parsed : parsed?.rows;
  const ours = Array.isArray(rows) && rows.every((row) => typeof row?.lora === "string");
  if (!ours || (!Array.isArray(parsed) && Object.keys(parsed).some((key) => !["version", "rows", "locks"].includes(key)))) return text;
  const before = (Array.isArray(parsed) ? undefined : parsed.locks) ?? {};
  const names = new Set(rows.filter((row) => !ownsLock(row)).map((row) => row.lora.trim()));
  const locks = Object.fromEntries(Object.entries(before).filter(([name]) => names.has(name)));
  for (const { lora, sha256, autov3, size } of found) {
    if (!names.has(lora)) continue;
    locks[lora] ??= { sha256, autov3 };
    // A lock from before sizes were kept gets that of its file, never that of another.
    if (size !== undefined && locks[lora].sha256 === sha256) locks[lora] = { ...locks[lora], size };
  }
  if (JSON.stringify(locks) === JSON.stringify(before)) return text;
  return rowsText(rows, locks, true);
}

function keepLocks(node, found) {
  const widget = node.widgets?.find((candidate) => candidate.name === "rows");
  if (!widget || typeof widget.value !== "string") return;
  const text = withLocks(widget.value, found);
  if (text === widget.value) return;
  widget.value = text;
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "loraloom.lock",
  nodeCreated: (node) => {
    if (node.comfyClass === "LoomStack") {
      const executed = node.onExecuted;
      node.onExecuted = (output) => {
        executed?.call(node, output);
        keepLocks(node, output?.loom_rows ?? []);
      };
    }
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
