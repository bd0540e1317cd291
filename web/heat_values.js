// The figures of Loom Interference: what a cell of its heat map shows, in colour and in words.
import { t } from "./strings.js";

const percent = (value) => (typeof value === "number" ? `${Number((100 * value).toPrecision(3))} %` : t("notMeasured"));
const figure = (value) => (typeof value === "number" ? String(Number(value.toPrecision(3))) : t("notMeasured"));

// name -> {title, value(cell, side), colour(value), said, sided}: value of one cell; sided: each of two rows has its own.
// A colour is [hue, strength 0 to 1] and scale the bar from low to high, both of editors.css. title, low and high are keys of strings.js.
export const FIGURES = {
  takes: { title: "takesTitle", sided: true, value: (cell, side) => cell[side]?.takes, colour: (value) => ["hot", Math.min(1, value / 0.5)], said: percent, low: "zeroPercent", high: "halfAndMore", scale: "up" },
  both: { title: "bothTitle", sided: true, value: (cell, side) => cell[side]?.both, colour: (value) => ["hot", Math.min(1, value / 0.5)], said: percent, low: "zeroPercent", high: "halfAndMore", scale: "up" },
  cosine: { title: "cosineTitle", sided: false, value: (cell) => cell.cosine, colour: (value) => [value < 0 ? "hot" : "cool", Math.min(1, Math.abs(value) / 0.5)], said: figure, low: "against", high: "alike", scale: "both" },
  sign: { title: "signTitle", sided: false, value: (cell) => cell.sign_conflict, colour: (value) => [value > 0.5 ? "hot" : "cool", Math.min(1, Math.abs(value - 0.5) / 0.25)], said: percent, low: "agree", high: "pullApart", scale: "turned" },
  joint: { title: "jointTitle", sided: false, value: (cell) => (typeof cell.joint === "number" ? cell.joint - cell.joint_unrelated : undefined), colour: (value) => [value < 0 ? "hot" : "cool", Math.min(1, Math.abs(value) / 0.3)], said: figure, low: "cancel", high: "addUp", scale: "both" },
};

// A row's name without its folder and ending.
export const brief = (name) => String(name).split(/[\\/]/).at(-1).replace(/\.safetensors$/i, "");

// The columns of a figure: one a pair, or two, one for each direction.
export function columnsOf(data, figure) {
  const { sided } = FIGURES[figure];
  return data.pairs.flatMap((pair) => {
    const [a, b] = [pair.a, pair.b].map((place) => brief(data.rows[place]?.name ?? "?"));
    if (!sided) return [{ pair, side: "a", title: `${a} \u2194 ${b}`, words: t("oneAndOther", { a, b }) }];
    return [{ pair, side: "a", title: `${a} \u2192 ${b}`, words: t("oneIntoOther", { a, b }) }, { pair, side: "b", title: `${b} \u2192 ${a}`, words: t("oneIntoOther", { a: b, b: a }) }];
  });
}

// All that is known of a cell, a line a figure.
export function wordsOf(cell, { pair, side, words }, data, block) {
  const [own, other] = side === "a" ? [pair.a, pair.b] : [pair.b, pair.a];
  const [one, two] = [own, other].map((place) => brief(data.rows[place]?.name ?? "?"));
  if (!cell) return [t("nothingCommon", { block, words })];
  const mine = cell[side] ?? {};
  return [
    t("cellOf", { block, words, n: cell.weights }),
    t("takesSaid", { takes: percent(mine.takes), two, unrelated: percent(mine.takes_unrelated) }),
    t("bothSaid", { both: percent(mine.both), one, two, output: percent(mine.output), input: percent(mine.input) }),
    t("cosineSaid", { cosine: figure(cell.cosine), sign: percent(cell.sign_conflict), joint: figure(cell.joint), unrelated: figure(cell.joint_unrelated) }),
    t("shareSaid", { share: percent(mine.share), one }),
  ];
}
