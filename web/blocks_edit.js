// The text of the block language after a slider was moved: an entry is changed in place, added or taken out, and all
// else stays as it was written.
import { entriesOf, evaluate, selected } from "./blocks_text.js";

const LONGEST_LINE = 64;

// A number as the Python side reads it: finite, without an exponent, four places at most.
export function written(value) {
  const text = value.toFixed(4).replace(/\.?0+$/, "");
  return text === "-0" ? "0" : text;
}

// JSON cannot stand beside a preset, nor hold remarks: the first edit writes its entries out as lines.
function asLines(text) {
  if (!text.trimStart().startsWith("{")) return text;
  return entriesOf(text).filter((entry) => entry.kind === "assign").map((entry) => `${entry.name}=${entry.value}`).join("\n");
}

const same = (one, other) => one.toUpperCase() === other.toUpperCase();

// Without the entry, and without the comma or the line that it leaves empty.
function without(text, entry) {
  let { start, end } = entry;
  const after = text.slice(end).match(/^[ \t]*[,;][ \t]*/);
  const before = text.slice(0, start).match(/[,;][ \t]*$/);
  if (after) end += after[0].length;
  else if (before) start -= before[0].length;
  const lineStart = text.lastIndexOf("\n", start - 1) + 1;
  const next = text.indexOf("\n", end);
  const lineEnd = next < 0 ? text.length : next;
  if (!(text.slice(lineStart, start) + text.slice(end, lineEnd)).trim()) {
    return next < 0 ? text.slice(0, Math.max(0, lineStart - 1)) : text.slice(0, lineStart) + text.slice(next + 1);
  }
  return text.slice(0, start) + text.slice(end);
}

function added(text, said) {
  const trimmed = text.trimEnd();
  if (!trimmed) return said;
  const last = trimmed.slice(trimmed.lastIndexOf("\n") + 1);
  const plain = /^[A-Z0-9_*]+=-?[\d.]+(, [A-Z0-9_*]+=-?[\d.]+)*$/.test(last);
  return plain && last.length + said.length < LONGEST_LINE ? `${trimmed}, ${said}` : `${trimmed}\n${said}`;
}

const placed = (text, name) => entriesOf(text).filter((entry) => entry.kind === "assign" && entry.start !== undefined && same(entry.name, name));

// The text in which `name` (a slider's or a group's, such as IN*) stands at `value`. context: sliders, known, presetText.
export function withValue(text, name, value, context) {
  const { sliders, known, presetText } = context;
  const shows = (candidate) => {
    const { state } = evaluate(candidate, sliders, known, presetText);
    return selected(sliders, name).whole.every((slider) => {
      const now = state.get(slider.name);
      return now.value === Number(written(value)) && !now.part && !now.drawn;
    });
  };
  let now = asLines(text);
  for (let found = placed(now, name); found.length; found = placed(now, name)) {
    const bare = without(now, found.at(-1));
    if (found.length === 1 && !shows(bare)) {
      const entry = found[0];
      const changed = `${now.slice(0, entry.start)}${name}=${written(value)}${now.slice(entry.end)}`;
      if (shows(changed)) return changed;
    }
    now = bare;
  }
  return shows(now) ? now : added(now, `${name}=${written(value)}`);
}

// A whole group at one value; the entries of its single blocks, which would stand against it, go.
export function withGroup(text, selector, value, context) {
  let now = asLines(text);
  for (const slider of selected(context.sliders, selector).whole) {
    for (let found = placed(now, slider.name); found.length; found = placed(now, slider.name)) now = without(now, found.at(-1));
  }
  return withValue(now, selector, value, context);
}
