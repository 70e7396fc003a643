// Numbers, times, sizes and names as people read them. Pure; what is not known is an en dash.

export const UNKNOWN_TEXT = "–";

// Controls, and the marks that reorder what is read (CVE-2021-42574): a name must not look like another one.
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** A name from a disk, with what could not be seen made visible. */
export function visible(text: string): string {
  return text.replace(INVISIBLE, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** A metric: enough digits to tell checkpoints apart, no more. */
export function metricText(value: number | undefined): string {
  if (value === undefined) return UNKNOWN_TEXT;
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return minus(String(value));
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return minus(value.toExponential(3));
  return minus(value.toFixed(size >= 1000 ? 1 : size >= 10 ? 2 : 4));
}

function minus(text: string): string {
  return text.startsWith("-") ? `−${text.slice(1)}` : text;
}

export function countText(value: number | undefined): string {
  return value === undefined ? UNKNOWN_TEXT : value.toLocaleString("en-US");
}

/** 13,400,000 is 13.4 M: of parameters. */
export function shortCount(value: number | undefined): string {
  if (value === undefined) return UNKNOWN_TEXT;
  for (const [unit, size] of [["T", 1e12], ["B", 1e9], ["M", 1e6], ["k", 1e3]] as const)
    if (value >= size) return `${threeDigits(value / size)} ${unit}`;
  return String(value);
}

export function sizeText(bytes: number | undefined): string {
  if (bytes === undefined) return UNKNOWN_TEXT;
  for (const [unit, size] of [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]] as const)
    if (bytes >= size) return `${threeDigits(bytes / size)} ${unit}`;
  return `${bytes} B`;
}

function threeDigits(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** "3 min ago" while that says more than a date. */
export function timeText(then: number | undefined, now: number): string {
  if (then === undefined) return UNKNOWN_TEXT;
  const age = now - then;
  if (age < -MINUTE) return dateText(then);
  if (age < 10_000) return "just now";
  if (age < MINUTE) return `${Math.floor(age / 1000)} s ago`;
  if (age < HOUR) return `${Math.floor(age / MINUTE)} min ago`;
  if (age < DAY) return `${Math.floor(age / HOUR)} h ago`;
  if (age < 7 * DAY) return `${Math.floor(age / DAY)} d ago`;
  return dateText(then);
}

/** The day, in the reader's own time zone: 2026-11-21. */
export function dateText(time: number): string {
  const date = new Date(time);
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
}

/** Day and time to the second, in the reader's own time zone. */
export function momentText(time: number | undefined): string {
  if (time === undefined || Number.isNaN(time)) return UNKNOWN_TEXT;
  const date = new Date(time);
  return `${dateText(time)} ${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
}

function pad(value: number): string {
  return String(value).padStart(2, "0");
}

/** "1 checkpoint", "12,000 checkpoints". */
export function plural(count: number, word: string): string {
  return `${count.toLocaleString("en-US")} ${word}${count === 1 ? "" : "s"}`;
}

/** A value of a sidecar or a configuration, on one line. */
export function valueText(value: unknown): string {
  if (value === null || value === undefined) return UNKNOWN_TEXT;
  if (typeof value === "number") return metricText(value);
  if (typeof value === "string") return visible(value);
  if (typeof value === "boolean") return String(value);
  return visible(JSON.stringify(value));
}
