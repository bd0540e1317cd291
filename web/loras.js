// What the server knows of LoRA files: their names, where their pictures are, and the facts of one of them.
import { api } from "../../scripts/api.js";

const ENDINGS = [".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin"];

let listed = null;
let lookup = null;
const facts = new Map();

export function slashed(name) {
  return name.replaceAll("\\", "/");
}

// A name without folders and without a file extension; a dot inside it ("style.v2") is none.
export function bareName(name) {
  const file = slashed(name).split("/").pop();
  const ending = ENDINGS.find((end) => file.toLowerCase().endsWith(end)) ?? "";
  return file.slice(0, file.length - ending.length);
}

export function folderOf(name) {
  return slashed(name).split("/").slice(0, -1).join("/");
}

// All names of the loras folders; asked for once, and again after forgetLoras.
export async function loraNames() {
  listed ??= api
    .fetchApi("/models/loras")
    .then((answer) => (answer.ok ? answer.json() : []))
    .then((names) => {
      lookup = makeLookup(names);
      return names;
    });
  return listed;
}

// After R: files may have come and gone.
export function forgetLoras() {
  listed = null;
  facts.clear();
}

function makeLookup(names) {
  const found = { full: new Map(), file: new Map(), names };
  for (const name of names) {
    found.full.set(slashed(name), name);
    for (const form of new Set([slashed(name).split("/").pop(), bareName(name)])) {
      found.file.set(form, [...(found.file.get(form) ?? []), name]);
    }
  }
  return found;
}

// The listed name that is meant by one as people and packs write it; null where none or several do.
export function listedName(name) {
  const plain = slashed(name).trim();
  if (!lookup || plain.split("/").includes("..")) return null;
  const whole = lookup.full.get(plain) ?? lookup.full.get(`${plain}.safetensors`);
  if (whole !== undefined) return whole;
  const alike = lookup.file.get(plain.split("/").pop()) ?? lookup.file.get(bareName(plain)) ?? [];
  // Only a folder in front may be added or left out; another folder is another file.
  const folder = folderOf(plain);
  const fitting = alike.filter((other) => folderOf(other) === folder || !folder || !folderOf(other) || folderOf(other).endsWith(`/${folder}`) || folder.endsWith(`/${folderOf(other)}`));
  const readable = fitting.length > 1 ? fitting.filter((other) => other.toLowerCase().endsWith(ENDINGS[0])) : fitting;
  return readable.length === 1 ? readable[0] : null;
}

// Whether the list has been fetched, so that a missing name is known to be missing.
export function namesKnown() {
  return lookup !== null;
}

// Up to three names that share most with this one, for a row whose file is gone.
export function similarNames(name) {
  const pairs = (text) => new Set([...text.toLowerCase()].map((char, place, all) => char + (all[place + 1] ?? "")));
  const wanted = pairs(bareName(name));
  const scored = (lookup?.names ?? []).map((other) => {
    const has = pairs(bareName(other));
    const shared = [...wanted].filter((pair) => has.has(pair)).length;
    return [(2 * shared) / (wanted.size + has.size || 1), other];
  });
  return scored.filter(([share]) => share > 0.5).sort((one, other) => other[0] - one[0]).slice(0, 3).map(([, other]) => other);
}

// What is known of one listed LoRA, or null; kept until R or the next run.
export function loraFacts(name) {
  if (!facts.has(name)) facts.set(name, fetchFacts(name));
  return facts.get(name);
}

async function fetchFacts(name, blocks) {
  const query = new URLSearchParams(blocks === undefined ? { name } : { name, blocks });
  const answer = await api.fetchApi(`/loom/facts?${query}`);
  return answer.ok ? answer.json() : null;
}

// After a run: it has hashed files.
export function forgetFacts() {
  facts.clear();
}

// What is wrong with block strengths, in words, or null; a text too long for an address is left to the run.
export async function blocksFault(name, text) {
  if (!text.trim() || text.length > 1500) return null;
  return (await fetchFacts(name, text))?.blocks_fault ?? null;
}

// The address of a LoRA's picture by ComfyUI's own route, or null.
export function previewAddress(known) {
  if (!known?.preview) return null;
  const path = slashed(known.preview.name).split("/").map(encodeURIComponent).join("/");
  return api.apiURL(`/experiment/models/preview/loras/${known.preview.index}/${path}`);
}
