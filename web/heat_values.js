// The figures of Loom Interference: what a cell of its heat map shows, in colour and in words.

const percent = (value) => (typeof value === "number" ? `${Number((100 * value).toPrecision(3))} %` : "not measured");
const figure = (value) => (typeof value === "number" ? String(Number(value.toPrecision(3))) : "not measured");

// name -> {title, value(cell, side), colour(value), said, sided}: value of one cell; sided: each of two rows has its own.
// A colour is [hue, strength 0 to 1] and scale the bar from low to high, both of editors.css.
export const FIGURES = {
  takes: { title: "takes: writes into the other's directions", sided: true, value: (cell, side) => cell[side]?.takes, colour: (value) => ["hot", Math.min(1, value / 0.5)], said: percent, low: "0 %", high: "50 % and more", scale: "up" },
  both: { title: "energy in both of the other's directions", sided: true, value: (cell, side) => cell[side]?.both, colour: (value) => ["hot", Math.min(1, value / 0.5)], said: percent, low: "0 %", high: "50 % and more", scale: "up" },
  cosine: { title: "cosine: alike or against each other", sided: false, value: (cell) => cell.cosine, colour: (value) => [value < 0 ? "hot" : "cool", Math.min(1, Math.abs(value) / 0.5)], said: figure, low: "against each other", high: "alike", scale: "both" },
  sign: { title: "sign conflict", sided: false, value: (cell) => cell.sign_conflict, colour: (value) => [value > 0.5 ? "hot" : "cool", Math.min(1, Math.abs(value - 0.5) / 0.25)], said: percent, low: "agree", high: "pull apart", scale: "turned" },
  joint: { title: "joint norm, beside that of unrelated rows", sided: false, value: (cell) => (typeof cell.joint === "number" ? cell.joint - cell.joint_unrelated : undefined), colour: (value) => [value < 0 ? "hot" : "cool", Math.min(1, Math.abs(value) / 0.3)], said: figure, low: "cancel", high: "add up", scale: "both" },
};

// A row's name without its folder and ending.
export const brief = (name) => String(name).split(/[\\/]/).at(-1).replace(/\.safetensors$/i, "");

// The columns of a figure: one a pair, or two, one for each direction.
export function columnsOf(data, figure) {
  const { sided } = FIGURES[figure];
  return data.pairs.flatMap((pair) => {
    const [a, b] = [pair.a, pair.b].map((place) => brief(data.rows[place]?.name ?? "?"));
    if (!sided) return [{ pair, side: "a", title: `${a} \u2194 ${b}`, words: `${a} and ${b}` }];
    return [{ pair, side: "a", title: `${a} \u2192 ${b}`, words: `${a} into ${b}` }, { pair, side: "b", title: `${b} \u2192 ${a}`, words: `${b} into ${a}` }];
  });
}

// All that is known of a cell, a line a figure.
export function wordsOf(cell, { pair, side, words }, data, block) {
  const [own, other] = side === "a" ? [pair.a, pair.b] : [pair.b, pair.a];
  const [one, two] = [own, other].map((place) => brief(data.rows[place]?.name ?? "?"));
  if (!cell) return [`${block}, ${words}: no weight in common`];
  const mine = cell[side] ?? {};
  return [
    `${block}, ${words} (${cell.weights} weights)`,
    `takes ${percent(mine.takes)} of ${two}'s energy there; without any relation ${percent(mine.takes_unrelated)}`,
    `${percent(mine.both)} of ${one}'s energy lies in ${two}'s directions (output ${percent(mine.output)}, input ${percent(mine.input)})`,
    `cosine ${figure(cell.cosine)}; sign conflict ${percent(cell.sign_conflict)}; joint norm ${figure(cell.joint)}, unrelated ${figure(cell.joint_unrelated)}`,
    `the block holds ${percent(mine.share)} of ${one}'s energy`,
  ];
}
