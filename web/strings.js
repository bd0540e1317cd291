// Every text of the pack's widgets, in English; other languages come from locales/<language>/main.json, under "loraLoom".
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const ENGLISH = {
  rows: "LoRA rows",
  add: "Add LoRA",
  allOn: "All rows on",
  someOn: "{on} of {all} on",
  noRows: "No LoRA yet",
  moreActions: "More",
  rowOn: "{name} on",
  move: "Move {name}: drag, or Alt with the arrow keys",
  choose: "Choose another LoRA for {name}",
  model: "Model strength",
  clip: "Clip strength",
  strength: "Strength",
  strengthHelp: "drag, wheel (shift: finer), arrow keys, or click and type",
  link: "One strength for model and clip",
  apart: "Model and clip strength apart",
  details: "Role, blocks and words of {name}",
  role: "Role",
  free: "free",
  style: "style",
  character: "character",
  detail: "detail",
  blocks: "Blocks",
  blocksHint: "for example IN04=0.5, OUT*=0.8",
  schedule: "Schedule",
  words: "Trigger words",
  noWords: "The file names none",
  addWord: "add a word",
  allWords: "All the file names",
  info: "Info",
  infoOf: "Info on {name}",
  duplicate: "Duplicate",
  remove: "Remove",
  copyText: "Copy rows as text",
  copyTags: "Copy rows as tags",
  copied: "Copied",
  paste: "Paste rows",
  pasteHelp: "Rows or <lora:...> tags, or a node or workflow of rgthree or Lora Manager",
  pasteAdd: "Add these rows",
  nothingRead: "No LoRA rows in this text.",
  addedSome: "{n} rows added.",
  notRead: "Not read: {what}",
  asText: "Edit as text",
  asRows: "Back to rows",
  removeAll: "Remove all rows",
  presets: "Presets of this workflow",
  savePreset: "Save these rows as a preset",
  presetName: "Name of the preset",
  save: "Save",
  loadPreset: "Use {name}",
  deletePreset: "Delete preset {name}",
  otherStack: "from {node}",
  linked: "The rows come by the link.",
  cannotRead: "Shown as text: {why}",
  search: "Search {n} LoRAs",
  allFolders: "All folders",
  noMatch: "Nothing of this name",
  found: "{n} found",
  noLoras: "No LoRA found. Put files into models/loras and press R.",
  chooseOne: "Choose a LoRA",
  missing: "Not in the loras folders. A run refuses it.",
  missingHashed: "Not in the loras folders under this name. A run looks for it by its hash.",
  similar: "Use {name}",
  chooseAnother: "Choose another",
  moved: "Found as {name}.",
  useName: "Write this name into the row",
  hashDiffers: "Another file lies under this name than the one that these rows were made with.",
  keepFile: "Use the file that is there",
  accepted: "Another file than the one that these rows were made with; accepted.",
  otherBase: "Made for {base}; the model is {model}.",
  baseOf: "Made for {base}",
  runSaid: "The last run said:",
  marks: "Notes on {name}",
  madeFor: "Made for",
  base: "Base",
  size: "Size",
  author: "Author",
  licence: "Licence",
  usage: "Usage",
  suggested: "Suggested strength",
  training: "Training",
  tags: "Tags",
  description: "Description",
  notes: "Notes",
  file: "File",
  hashes: "Hashes",
  notHashed: "Not hashed yet; a run does it.",
  mergedFrom: "Merged from",
  noInfo: "Nothing is known of it.",
  close: "Close",
  copyThis: "Copy {what}",
};

let spoken = {};

// The text of a key in the page's language, {places} filled in.
export function t(key, places = {}) {
  const text = spoken[key] ?? ENGLISH[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in places ? String(places[name]) : whole));
}

// Fetches the page's language, once, if it is another than English.
export async function loadStrings() {
  const locale = String(app.extensionManager?.setting?.get("Comfy.Locale") ?? "en");
  if (locale.startsWith("en")) return;
  const answer = await api.fetchApi("/i18n");
  if (!answer.ok) return;
  const all = await answer.json();
  spoken = (all[locale] ?? all[locale.split("-")[0]])?.loraLoom ?? {};
}
