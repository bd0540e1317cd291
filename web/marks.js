// What is to be said of a row: a file that is missing or another one, another base, what the last run told. Each mark has
// a text and ways out: {bad, text, ways: [{label, fields?, dropLock?, choose?}]}.
import { bareName, listedName, namesKnown, similarNames } from "./loras.js";
import { lockOf } from "./rows_model.js";
import { t } from "./strings.js";

// facts: of the row's file, null where there is none or none yet. told: what the last run said of the row: {name, base,
// model_base, warnings}; failed: the message of a run that failed and named this row.
export function marksOf(row, { locks, facts, told, failed }) {
  const marks = [];
  if (failed) marks.push({ bad: true, text: `${t("runSaid")} ${failed}`, ways: [{ label: t("chooseAnother"), choose: true }] });
  const lock = lockOf(row, locks);
  const listed = listedName(row.lora);
  if (namesKnown() && listed === null) marks.push(missing(row, lock));
  const differs = facts?.hashes && isOther(lock, facts.hashes);
  if (differs) marks.push(row.accept ? { bad: false, text: t("accepted"), ways: [keepFile(row)] } : other(row));
  if (told?.name && told.name !== row.lora && listed !== told.name) {
    marks.push({ bad: false, text: t("moved", { name: told.name }), ways: [{ label: t("useName"), fields: { lora: told.name } }] });
  }
  if (told?.model_base && told.base && told.base !== told.model_base) {
    const text = t("otherBase", { base: told.base, model: told.model_base });
    marks.push({ bad: true, text, ways: [{ label: t("chooseAnother"), choose: true }] });
  }
  for (const warning of told?.warnings ?? []) marks.push({ bad: false, text: warning, ways: [] });
  return marks;
}

function missing(row, lock) {
  const hashed = Boolean(lock.sha256 || lock.autov3);
  const ways = similarNames(row.lora).map((name) => ({ label: t("similar", { name }), fields: { lora: name, sha256: undefined, autov3: undefined, size: undefined } }));
  ways.push({ label: t("chooseAnother"), choose: bareName(row.lora) });
  return { bad: !hashed, text: t(hashed ? "missingHashed" : "missing"), ways };
}

function other(row) {
  return { bad: true, text: t("hashDiffers"), ways: [keepFile(row), { label: t("chooseAnother"), choose: true }] };
}

// The old hashes go; the next run keeps those of the file that is there.
function keepFile() {
  return { label: t("keepFile"), dropLock: true, fields: { sha256: undefined, autov3: undefined, size: undefined, accept: undefined } };
}

// The same weights are the same LoRA, whatever became of the metadata.
function isOther(lock, hashes) {
  const same = (kept, found) => found && kept.trim().toLowerCase().replace(/^0x/, "").slice(0, 12) === found.slice(0, 12);
  const held = [[lock.sha256, hashes.sha256], [lock.autov3, hashes.autov3]].filter(([kept]) => kept);
  return held.length > 0 && !held.some(([kept, found]) => same(kept, found));
}
