// The rows of a stack as text and as values. The text is the truth: what these rules cannot read stays text, and what
// they write the Python side reads. The rules are those of lora_core/stack/rows_json.py.

export const ROLES = ["free", "style", "character", "detail"];
const FIELDS = ["lora", "model", "clip", "on", "role", "blocks", "schedule", "words", "sha256", "autov3", "size", "accept"];
const HASHES = { sha256: /^(0x)?[0-9a-f]{64}$/i, autov3: /^(0x)?[0-9a-f]{12,64}$/i };
export const MOST = 100;

// {rows, locks} of a text, or {fault} that says why it is left as text.
export function readRows(text) {
  if (!text.trim()) return { rows: [], locks: {} };
  let parsed;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    return { fault: error.message };
  }
  const document = Array.isArray(parsed) ? { rows: parsed } : parsed;
  const strange = Object.keys(document ?? {}).find((key) => !["version", "rows", "locks"].includes(key));
  if (!Array.isArray(document?.rows) || strange !== undefined) return { fault: strange ?? '"rows"' };
  if ((document.version ?? 1) !== 1) return { fault: `version ${document.version}` };
  const locks = document.locks ?? {};
  const sound = isObject(locks) && Object.values(locks).every((lock) => isObject(lock) && faultOfHashes(lock) === null);
  if (!sound) return { fault: '"locks"' };
  for (const [place, row] of document.rows.entries()) {
    const fault = faultOf(row);
    if (fault !== null) return { fault: `row ${place + 1}: ${fault}` };
  }
  return { rows: document.rows, locks };
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// Which field of a row the Python side would refuse, or null.
function faultOf(row) {
  if (!isObject(row)) return "{}";
  const strange = Object.keys(row).find((key) => !FIELDS.includes(key));
  if (strange !== undefined) return strange;
  if (typeof row.lora !== "string" || !row.lora.trim()) return "lora";
  for (const field of ["model", "clip"]) if (field in row && !Number.isFinite(row[field])) return field;
  for (const field of ["on", "accept"]) if (field in row && typeof row[field] !== "boolean") return field;
  for (const field of ["blocks", "schedule"]) if (field in row && typeof row[field] !== "string") return field;
  if ("role" in row && !ROLES.includes(row.role)) return "role";
  const { words = null } = row;
  if (words !== null && !(Array.isArray(words) && words.every((word) => typeof word === "string"))) return "words";
  return faultOfHashes(row);
}

function faultOfHashes(held) {
  for (const [field, digits] of Object.entries(HASHES)) {
    const value = held[field] ?? "";
    if (typeof value !== "string" || (value !== "" && !digits.test(value.trim()))) return field;
  }
  return held.size == null || (Number.isInteger(held.size) && held.size >= 0) ? null : "size";
}

// Whether a row says itself which file is meant, so that it needs no lock.
export function ownsLock(row) {
  return "sha256" in row || "autov3" in row || "size" in row;
}

function lines(items) {
  return items.length ? `\n  ${items.join(",\n  ")}\n` : "";
}

// The text of rows; locks of names that no row has any more are left out, unless `keepAll`.
export function rowsText(rows, locks, keepAll = false) {
  const names = new Set(rows.filter((row) => !ownsLock(row)).map((row) => row.lora.trim()));
  const held = Object.entries(locks)
    .filter(([name]) => keepAll || names.has(name))
    .map(([name, lock]) => `${JSON.stringify(name)}: ${JSON.stringify(lock)}`);
  const listed = `"version": 1, "rows": [${lines(rows.map((row) => JSON.stringify(row)))}]`;
  return held.length || keepAll ? `{${listed}, "locks": {${lines(held)}}}` : `{${listed}}`;
}

// The row with these fields set; undefined takes a field out. Fields stand in one order, so that equal rows are equal text.
export function withFields(row, fields) {
  const all = { ...row, ...fields };
  return Object.fromEntries(FIELDS.filter((field) => all[field] !== undefined).map((field) => [field, all[field]]));
}

export function modelOf(row) {
  return row.model ?? 1;
}

export function clipOf(row) {
  return row.clip ?? modelOf(row);
}

export function isOn(row) {
  return row.on ?? true;
}

// A strength as it is kept: finite, within what the loaders of the host allow, without the dust of binary fractions.
export function strengthOf(value, places = 4) {
  const bounded = Math.max(-MOST, Math.min(MOST, value));
  return Number(bounded.toFixed(places)) + 0;
}

// The hashes that a row holds its file to: its own, or those of its lock.
export function lockOf(row, locks) {
  if (ownsLock(row)) return row;
  return locks[row.lora.trim()] ?? {};
}
