// The block language in the page: what a text gives each slider, and the text after a slider was moved.
// The Python side is the judge of a text; what is not understood here is kept as it is and said beside the sliders.

// No model has more; a hand-made list may not hold up the page.
const MOST_SLIDERS = 600;
const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/;
const LETTER = /^[RUABruab]$/;
const PERCENT = /^(default|base|in|out|mid|double|single)(?:(\d+)(?:-(\d+))?)?=(.+)$/;
const PERCENT_PREFIX = { double: "D", single: "S", in: "IN", mid: "M", out: "OUT" };

const isValue = (text) => NUMBER.test(text) || LETTER.test(text);

// "BASE TE:CLIPL IN00-IN11" -> sliders: name, the group it stands in, and whether it is a text encoder.
export function slidersOf(names) {
  const sliders = [];
  for (const token of names.split(" ").filter(Boolean)) {
    const encoder = token.startsWith("TE:");
    const [first, last] = encoder ? [token.slice(3)] : token.split("-");
    const place = first.match(/^(.*?)(\d+)$/);
    if (encoder || !place) {
      sliders.push({ name: first, group: "", encoder });
      continue;
    }
    const end = Number((last ?? first).match(/\d+$/)?.[0] ?? place[2]);
    for (let index = Number(place[2]); index <= end && sliders.length < MOST_SLIDERS; index += 1) {
      const name = place[1] + String(index).padStart(place[2].length, "0");
      sliders.push({ name, group: place[1], encoder: false });
    }
  }
  return sliders.slice(0, MOST_SLIDERS);
}

// Tokens between commas, in groups as the Python side has them; start and end are places in the text.
function tokenGroups(text) {
  const groups = [];
  let group = [];
  const close = () => {
    if (group.length) groups.push(group);
    group = [];
  };
  let lineStart = 0;
  for (const line of text.split("\n")) {
    const content = line.split("#", 1)[0];
    const statements = content.split(";");
    let at = lineStart;
    statements.forEach((statement, number) => {
      const items = statement.split(",");
      for (const item of items) {
        const trimmed = item.trim();
        const start = at + item.length - item.trimStart().length;
        if (trimmed) group.push({ text: trimmed, start, end: start + trimmed.length });
        at += item.length + 1;
      }
      const goesOn = items.length > 1 && !items.at(-1).trim() && number === statements.length - 1;
      if (!goesOn) close();
    });
    lineStart += line.length + 1;
  }
  close();
  return groups;
}

function unlabelled(token) {
  const text = token.text.replace(/^lbwe?=/i, "");
  const [label, ...values] = text.split(":");
  const value = values.join(":").trim();
  return values.length === 1 && isValue(value) && !label.includes("=") ? { ...token, text: value } : { ...token, text };
}

function percentEntries(group) {
  const found = [{ kind: "assign", name: "*", value: "1" }];
  let base;
  for (const token of group) {
    const match = token.text.replace(/^%/, "").replaceAll(" ", "").match(PERCENT);
    if (!match) {
      found.push({ kind: "other", text: token.text });
    } else if (match[1] === "default") {
      found[0].value = match[4];
    } else if (match[1] === "base") {
      base = match[4];
    } else {
      const prefix = PERCENT_PREFIX[match[1]];
      const place = (number) => `${prefix}${String(Number(number) - 1).padStart(2, "0")}`;
      const name = match[2] ? `${place(match[2])}-${place(match[3] ?? match[2])}` : `${prefix}*`;
      found.push({ kind: "assign", name, value: match[4] });
    }
  }
  found.splice(1, 0, { kind: "assign", name: "BASE", value: base ?? found[0].value });
  return found;
}

function entryOf(token) {
  const { start, end } = token;
  const place = token.text.indexOf("=");
  if (place < 0) {
    if (token.text.split(":").length === 3) return { kind: "elements", text: token.text, start, end };
    return { kind: "preset", text: token.text, start, end };
  }
  const name = token.text.slice(0, place).trim();
  const value = token.text.slice(place + 1).trim();
  if (["dialect", "seed"].includes(name.toLowerCase())) return { kind: "setting", name: name.toLowerCase(), value, start, end };
  if (name === "A" || name === "B") return { kind: "letter", name, value, start, end };
  return { kind: "assign", name: name.replace(/\?$/, "").trim(), value, start, end };
}

// The statements of a text in order. One that stands in the text itself has its start and end there.
export function entriesOf(text) {
  if (text.trimStart().startsWith("{")) {
    try {
      return Object.entries(JSON.parse(text)).map(([name, value]) => entryOf({ text: `${name}=${value}` }));
    } catch {
      return [{ kind: "other", text }];
    }
  }
  const found = [];
  for (const group of tokenGroups(text)) {
    if (group[0].text.startsWith("%")) {
      found.push(...percentEntries(group));
      continue;
    }
    let run = [];
    const closeRun = () => {
      if (run.length) found.push({ kind: "vector", values: run.map((token) => token.text), text: `${run.length} values`, start: run[0].start, end: run.at(-1).end });
      run = [];
    };
    for (const token of group.map(unlabelled)) {
      if (isValue(token.text)) {
        run.push(token);
      } else {
        closeRun();
        found.push(entryOf(token));
      }
    }
    closeRun();
  }
  return found;
}

const bare = (name) => name.toUpperCase().replace(/^(.*?)0*(\d+)$/, "$1$2");

function likeWildcard(pattern) {
  const source = pattern.replace(/[.+^${}()|\\]/g, "\\$&").replaceAll("*", ".*").replaceAll("?", ".");
  try {
    return new RegExp(`^${source}$`);
  } catch {
    return /^$/;
  }
}

// The sliders that a selector's block names, and those of which it means a part only.
export function selected(sliders, selector) {
  const [head, ...parts] = selector.toUpperCase().split(".");
  const name = head.trim();
  let whole = [];
  let within = [];
  const encoders = sliders.filter((slider) => slider.encoder);
  if (name.includes("-")) {
    const [low, high] = name.split("-").map((end) => end.trim());
    const last = /^\d+$/.test(high) ? low.replace(/\d+$/, "") + high : high;
    const place = (end) => sliders.findIndex((slider) => bare(slider.name) === bare(end));
    const [first, end] = [place(low), place(last)];
    if (first >= 0 && end >= 0) whole = sliders.slice(first, end + 1);
    // A family's short list may lack an end of the range; its neighbours still lie inside.
    else whole = betweenNumbers(sliders, low, last);
  } else if (name === "BASE") {
    whole = sliders.filter((slider) => slider.encoder || ["BASE", "IN", "OUT"].includes(slider.name));
  } else if (name === "TE") {
    whole = encoders;
  } else if (name === "CLIP" || name === "T5") {
    whole = encoders.filter((slider) => slider.name.includes(name));
    within = whole.length ? [] : encoders;
  } else if (/[*?[]/.test(name)) {
    const pattern = likeWildcard(name);
    whole = sliders.filter((slider) => pattern.test(slider.name) || (slider.encoder && pattern.test(`${slider.name}00`)));
  } else {
    whole = sliders.filter((slider) => bare(slider.name) === bare(name));
    if (!whole.length) within = encoders.filter((slider) => slider.name === "TE" ? /^(CLIP|T5|TE)/.test(name) : name.startsWith(slider.name));
  }
  return parts.length ? { whole: [], within: [...whole, ...within] } : { whole, within };
}

function betweenNumbers(sliders, low, high) {
  const [from, to] = [low, high].map((end) => end.match(/^(.*?)(\d+)$/));
  if (!from || !to || from[1] !== to[1]) return [];
  return sliders.filter((slider) => {
    const number = slider.group === from[1] ? Number(slider.name.match(/\d+$/)[0]) : -1;
    return number >= Number(from[2]) && number <= Number(to[2]);
  });
}

const numbered = (names) => [...new Set(names.map((name) => name.split(".")[0]).filter((name) => /^(IN|M|OUT|D|S)\d+$/.test(name)))];

// The names that a vector of this length stands for, and the kinds of blocks that its model has. The model is known by
// the one layout that names just the shown blocks.
function layoutOf(sliders, length, layouts) {
  const shown = numbered(sliders.map((slider) => slider.name));
  const family = Object.values(layouts)
    .map((lists) => lists.map((names) => names.split(" ")))
    .find((lists) => lists.some((names) => numbered(names).sort().join() === [...shown].sort().join()));
  const names = family?.find((list) => list.length === length);
  const kinds = new Set(numbered(family?.flat() ?? []).map((name) => name.replace(/\d+$/, "")));
  return names && { names, kinds };
}

function number(value, letters) {
  if (NUMBER.test(value)) return Number(value);
  const letter = value.toUpperCase();
  if (letter in letters) return letters[letter] / (value === letter ? 1 : 2);
  return undefined;
}

// Slider's name -> { value, part, drawn }: part where only some of its weights were spoken of, drawn for R and U.
// Also what no slider shows, in the words of the text.
export function evaluate(text, sliders, known, presetText = "") {
  const state = new Map(sliders.map((slider) => [slider.name, { value: 1, part: false, drawn: false }]));
  const unseen = [];
  const letters = { A: 4, B: 1 };
  const presets = new Map(Object.entries(known.presets ?? {}).map(([name, said]) => [name.toLowerCase(), said]));
  const entries = [...entriesOf(presetText), ...entriesOf(text)];
  for (const entry of entries) {
    if (entry.kind === "letter" && NUMBER.test(entry.value)) letters[entry.name] = Number(entry.value);
  }
  const give = (slider, said) => {
    const value = number(said, letters);
    Object.assign(state.get(slider.name), { value: value ?? state.get(slider.name).value, part: false, drawn: value === undefined });
  };
  const assign = (name, said) => {
    const { whole, within } = selected(sliders, name);
    for (const slider of whole) give(slider, said);
    for (const slider of within) state.get(slider.name).part = true;
    return whole.length + within.length > 0;
  };
  const vector = (values) => {
    const layout = layoutOf(sliders, values.length, known.layouts ?? {});
    if (!layout) return false;
    const { names, kinds } = layout;
    const base = values[names.indexOf("BASE")] ?? "1";
    for (const slider of sliders) {
      if (slider.group) give(slider, kinds.has(slider.group) ? "0" : base);
    }
    const thirds = names.filter((name) => name.startsWith("M00."));
    names.forEach((name, place) => {
      if (!name.startsWith("M00.")) assign(name, values[place]);
    });
    if (thirds.length) {
      const said = thirds.map((name) => values[names.indexOf(name)]);
      assign("M00", said[1]);
      if (new Set(said).size > 1) assign("M00.1", said[1]);
    }
    return true;
  };
  const run = (list, inside) => {
    for (const entry of list) {
      if (entry.kind === "assign") {
        if (!assign(entry.name, entry.value)) unseen.push(`${entry.name}=${entry.value}`);
      } else if (entry.kind === "vector") {
        if (!vector(entry.values)) unseen.push(entry.text);
      } else if (entry.kind === "preset" && !inside && presets.has(entry.text.toLowerCase())) {
        run(entriesOf(presets.get(entry.text.toLowerCase())), true);
      } else if (!["letter", "setting"].includes(entry.kind)) {
        unseen.push(entry.text);
      }
    }
  };
  run(entries, false);
  return { state, unseen };
}
