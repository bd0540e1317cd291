// Schedules in the page: read from their text, evaluated step by step, written back. As lora_core/stack/schedule.py does.

const NUMBER = String.raw`(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?`;
const FRAME = new RegExp(`^\\s*([+-]?${NUMBER})\\s*(%?)\\s*(?:@\\s*(${NUMBER})\\s*)?$`);
const TURN = /^([1-9]\d{0,3})\s*\/\s*([1-9]\d{0,3})$/;
const EVERY = /^\d{1,20}$/;
const SPAN = new RegExp(`^(${NUMBER})\\s*-\\s*(${NUMBER})$`);

const CURVES = {
  linear: (share) => share,
  step: () => 0,
  cosine: (share) => (1 - Math.cos(Math.PI * share)) / 2,
};

export const curveNames = Object.keys(CURVES);

function framesOf(part) {
  const frames = part.split(",").map((text, number) => {
    const match = text.match(FRAME);
    if (!match) return undefined;
    const relative = match[2] === "%";
    return { value: Number(match[1]) / (relative ? 100 : 1), position: match[3] === undefined ? Number(number > 0) : Number(match[3]), relative };
  });
  const ordered = frames.every((frame, number) => frame && Number.isFinite(frame.value) && Number.isFinite(frame.position) && (number === 0 || frame.position > frames[number - 1].position));
  return ordered ? frames : undefined;
}

function position(text) {
  const value = text === undefined || text.trim() === "" ? NaN : Number(text);
  return Number.isFinite(value) && value >= 0 ? value : undefined;
}

// {number, count} of "2/3"; null where nothing is said, undefined where it is no turn.
function turnOf(text) {
  if (text === undefined) return null;
  const match = text.match(TURN);
  const [number, count] = [Number(match?.[1]), Number(match?.[2])];
  return match && number <= count ? { number, count } : undefined;
}

function everyOf(text, turn) {
  if (text === undefined) return 1;
  const value = EVERY.test(text) ? Number(text) : 0;
  return turn && value > 0 && value < 10000 ? value : undefined;
}

// {frames, curve, inSteps, start, stop, turn, every, composite} of a text; undefined where the Python side would not read
// it. An empty text has no frames: the row's own strength everywhere.
export function readSchedule(text) {
  const parts = text.split(":").map((part) => part.trim()).filter(Boolean);
  const lists = parts.filter((part) => !part.includes("="));
  const keywords = {};
  for (const part of parts.filter((each) => each.includes("="))) {
    const place = part.indexOf("=");
    const [name, value] = [part.slice(0, place).trim().toLowerCase(), part.slice(place + 1).trim().toLowerCase()];
    const span = name === "step" ? value.match(SPAN) : null;
    if (span) Object.assign(keywords, { start: span[1], stop: span[2] });
    else if (["start", "stop", "curve", "turn", "every", "composite"].includes(name)) keywords[name] = value;
    else return undefined;
  }
  const frames = lists.length ? framesOf(lists[0]) : [];
  const curve = keywords.curve ?? "linear";
  const [start, stop] = [keywords.start, keywords.stop].map((said) => (said === undefined ? null : position(said)));
  const [turn, composite] = [turnOf(keywords.turn), turnOf(keywords.composite)];
  const every = everyOf(keywords.every, turn);
  const read = { frames, curve, inSteps: frames?.some((frame) => frame.position > 1), start, stop, turn, every, composite };
  const unread = Object.values(read).includes(undefined) || lists.length > 1 || !curveNames.includes(curve);
  return unread || (turn && composite) ? undefined : read;
}

// A number as the Python side reads it: no exponent, `places` decimals at most.
export function plain(value, places = 3) {
  const text = value.toFixed(places).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
  return text === "-0" ? "0" : text;
}

export function writeSchedule({ frames, curve, start, stop, turn, every, composite }) {
  const said = frames.map(({ value, position: at, relative }) => `${relative ? `${plain(value * 100, 1)}%` : plain(value)}@${plain(at)}`).join(",");
  const parts = [said];
  if (start !== null) parts.push(`start=${plain(start)}`);
  if (stop !== null) parts.push(`stop=${plain(stop)}`);
  if (curve !== "linear" && frames.length) parts.push(`curve=${curve}`);
  if (turn) parts.push(`turn=${turn.number}/${turn.count}`);
  if (every > 1) parts.push(`every=${every}`);
  if (composite) parts.push(`composite=${composite.number}/${composite.count}`);
  return parts.filter(Boolean).join(":");
}

// The first step at or after a position: below 1 a share of the steps, else a step number.
export const firstStep = (at, steps) => (at < 1 ? Math.ceil(at * steps - 1e-9) : at);

// The strength at a step that may lie between two, for a row of strength `own`.
export function strengthAt(schedule, own, step, steps) {
  if (schedule.start !== null && step < firstStep(schedule.start, steps)) return 0;
  if (schedule.stop !== null && step >= firstStep(schedule.stop, steps)) return 0;
  if (schedule.turn && Math.floor(Math.floor(step) / schedule.every) % schedule.turn.count !== schedule.turn.number - 1) return 0;
  return valueAt(schedule, own, schedule.inSteps ? step : step / Math.max(steps, 1));
}

// The same without start and stop, by a position in the schedule's own unit.
export function valueAt({ frames, curve }, own, at) {
  const values = frames.map((frame) => frame.value * (frame.relative ? own : 1));
  if (!values.length) return own;
  const after = frames.findIndex((frame) => frame.position > at);
  if (after <= 0) return after < 0 ? values.at(-1) : values[0];
  const [begin, end] = [frames[after - 1].position, frames[after].position];
  return values[after - 1] + CURVES[curve]((at - begin) / (end - begin)) * (values[after] - values[after - 1]);
}
