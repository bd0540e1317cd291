// Rows out of pasted text, and rows as text: our own JSON, <lora:...> tags, rows of rgthree and Lora Manager wherever a
// workflow keeps them. What rows cannot hold is said, not dropped: lora_core/stack/foreign.py reads the same forms.
import { bareName, listedName, slashed } from "./loras.js";
import { clipOf, isOn, modelOf, readRows, rowsText, strengthOf, withFields } from "./rows_model.js";

const TAG = /<(lora|lyco):([^<>]*)>/gi;
const SWITCHED_OFF = [2, 4];
const LONGEST = 20_000_000;

export function asText(rows, locks = {}) {
  return rowsText(rows, locks);
}

// {text, left}: the rows that are on, one tag each, and what has no place in a tag.
export function asTags(rows) {
  const left = [];
  const tags = rows.filter(isOn).map((row) => {
    const bare = bareName(row.lora);
    const name = listedName(bare) === row.lora ? bare : slashed(row.lora).replace(/\.safetensors$/i, "");
    const clip = clipOf(row) === modelOf(row) ? "" : `:${clipOf(row)}`;
    const fits = !/[;:<>\n]/.test(row.blocks ?? "");
    left.push(...["words", "schedule", fits ? "" : "blocks"].filter((field) => row[field]).map((field) => `${bare}: ${field}`));
    return `<lora:${name}:${modelOf(row)}${clip}${row.blocks && fits ? `:LBW=${row.blocks};` : ""}>`;
  });
  return { text: tags.join(" "), left };
}

// {rows, locks, unread: [text]} of any text; rows is empty where none is found.
export function fromText(text) {
  const found = { rows: [], locks: {}, unread: [] };
  if (text.length > LONGEST) return found;
  const own = text.trim() ? readRows(text) : { rows: [] };
  if (own.rows) return { ...found, ...own };
  let parsed;
  try {
    parsed = JSON.parse(text);
  } catch {
    readTags(text, found);
    return found;
  }
  readAny(parsed, found);
  return found;
}

// The name as the list has it, where one file is meant; else as it is written, and the row is marked as missing.
function put(found, name, model, clip, on, blocks = "") {
  const strengths = [model, clip ?? model].map((value) => (value === null || value === undefined || value === "" ? 1 : Number(value)));
  if (typeof name !== "string" || !name.trim() || name === "None") return;
  if (!strengths.every(Number.isFinite)) {
    found.unread.push(`${name} (${model}, ${clip})`);
    return;
  }
  const [unet, text] = strengths.map((value) => strengthOf(value));
  found.rows.push(withFields({ lora: listedName(name) ?? name.trim() }, { model: unet, clip: text === unet ? undefined : text, on: on === false ? false : undefined, blocks: blocks || undefined }));
}

function readTags(text, found) {
  for (const [whole, , inside] of text.matchAll(TAG)) {
    const [name, ...parts] = inside.split(":");
    const blocks = (parts.at(-1) ?? "").match(/^lbw=([^;]*);?\s*$/i)?.[1].trim();
    const numbers = blocks === undefined ? parts : parts.slice(0, -1);
    // Keyframes and the like: Loom Tags, and the rows box as text, read them all.
    if (numbers.length > 2 || !numbers.every((part) => part.trim() && Number.isFinite(Number(part)))) found.unread.push(whole);
    else put(found, name, numbers[0] ?? 1, numbers[1], true, blocks);
  }
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isRgthree(row) {
  return isObject(row) && "on" in row && "lora" in row && "strength" in row;
}

function isManager(row) {
  return isObject(row) && "name" in row && "strength" in row && !("lora" in row);
}

// A workflow, one node of it, or bare widget values: rows are told by their fields, wherever they stand.
function readAny(value, found, depth = 0) {
  if (depth > 12 || typeof value !== "object" || value === null) return;
  if (isRgthree(value)) return put(found, value.lora, value.strength, value.strengthTwo, value.on);
  if (isManager(value)) return put(found, value.name, value.strength, value.clipStrength, value.active);
  if (!Array.isArray(value) && readNode(value, found)) return;
  const graphs = [value.nodes, ...(value.definitions?.subgraphs ?? []).map((graph) => graph.nodes)].filter(Array.isArray);
  const parts = graphs.length ? graphs.flat() : Object.values(value);
  for (const part of parts) readAny(part, found, depth + 1);
}

// A node that keeps LoRAs in a form of its own. True where it was one.
function readNode(node, found) {
  const kind = node.type ?? node.class_type;
  const fields = node.widgets_values ?? node.inputs;
  if (typeof kind !== "string" || typeof fields !== "object" || fields === null) return false;
  if (SWITCHED_OFF.includes(node.mode)) {
    if (/lora|loom/i.test(kind)) found.unread.push(kind);
    return true;
  }
  const [first, second, third] = Array.isArray(fields) ? fields : [fields.lora_name, fields.strength_model, fields.strength_clip];
  if (["LoraLoader", "LoomLoader", "LoraLoaderModelOnly"].includes(kind)) {
    put(found, first, second, kind === "LoraLoaderModelOnly" ? 0 : third, true);
    return true;
  }
  if (kind !== "LoomStack") return false;
  const own = readRows(String(Array.isArray(fields) ? first : fields.rows));
  if (own.rows) found.rows.push(...own.rows);
  else found.unread.push(kind);
  Object.assign(found.locks, own.locks);
  return true;
}
