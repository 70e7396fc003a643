// Two to four checkpoints side by side. Owns: which rows are shown, how much a number moved, and the two exports.

import { metricText, valueText } from "./format";
import type { JsonNumber } from "./types";

export interface ComparedRow {
  group: string;
  name: string;
  values: unknown[];
  differs: boolean;
}

export interface Comparison {
  keys: string[];
  rows: ComparedRow[];
}

export const COMPARED_MIN = 2;
export const COMPARED_MAX = 4; // more do not fit beside each other on a screen

const GROUP_TITLES: Record<string, string> = {
  checkpoint: "Checkpoint",
  metrics: "Metrics",
  model: "Model",
  training: "Training",
  hyper_parameters: "Hyper-parameters",
};

export function groupTitle(group: string): string {
  return GROUP_TITLES[group] ?? group;
}

const GROUP_ORDER = ["metrics", "training", "model", "hyper_parameters", "checkpoint"];

/** The same, with its metrics in the order of *names*; what is not among them comes last. */
export function withMetricsIn(comparison: Comparison, names: readonly string[]): Comparison {
  const place = (row: ComparedRow) => (row.group === "metrics" ? (names.includes(row.name) ? names.indexOf(row.name) : names.length) : -1);
  return { ...comparison, rows: [...comparison.rows].sort((a, b) => place(a) - place(b)) };
}

/** The rows by group, what people look for first; groups that would be empty are left out. */
export function groupRows(comparison: Comparison, differencesOnly: boolean): [group: string, rows: ComparedRow[]][] {
  const groups = new Map<string, ComparedRow[]>(GROUP_ORDER.map((group) => [group, []]));
  for (const row of comparison.rows) {
    if (differencesOnly && !row.differs) continue;
    const rows = groups.get(row.group);
    if (rows) rows.push(row);
    else groups.set(row.group, [row]);
  }
  return [...groups].filter(([, rows]) => rows.length > 0);
}

export function asNumber(value: unknown): number | undefined {
  if (typeof value === "number") return value;
  const special: JsonNumber[] = ["NaN", "Infinity", "-Infinity"];
  return special.includes(value as JsonNumber) ? Number(value) : undefined;
}

/** How far a metric is from the first checkpoint's: "+0.0120", or nothing where that cannot be said. */
export function deltaText(value: unknown, first: unknown): string | undefined {
  const [to, from] = [asNumber(value), asNumber(first)];
  if (to === undefined || from === undefined || !Number.isFinite(to - from) || to === from) return undefined;
  return (to > from ? "+" : "") + metricText(to - from);
}

function exportText(value: unknown): string {
  if (value === null || value === undefined) return "";
  if (typeof value === "object") return JSON.stringify(value);
  return String(value);
}

// A spreadsheet runs a text that begins so (OWASP, "CSV injection"); the same rule as the server's CSV.
function csvCell(value: unknown): string {
  let text = exportText(value);
  if (typeof value !== "number" && /^[=+\-@\t\r]/.test(text) && asNumber(value) === undefined) text = `'${text}`;
  return /[",\r\n]/.test(text) || text !== text.trim() ? `"${text.replaceAll('"', '""')}"` : text;
}

/** RFC 4180, with a header of the checkpoints' keys. */
export function toCsv(comparison: Comparison, differencesOnly: boolean): string {
  const lines: unknown[][] = [["group", "name", ...comparison.keys]];
  for (const [group, rows] of groupRows(comparison, differencesOnly))
    for (const row of rows) lines.push([group, row.name, ...row.values]);
  return lines.map((line) => `${line.map(csvCell).join(",")}\r\n`).join("");
}

function markdownCell(text: string): string {
  // A name from a disk must stay text in whatever renders this: no markup, no new cell, no new line.
  return text.replace(/[\\`*_{}[\]()<>#+!|~&]/g, (character) => (character === "<" ? "&lt;" : character === "&" ? "&amp;" : `\\${character}`));
}

export function toMarkdown(comparison: Comparison, differencesOnly: boolean): string {
  const { keys } = comparison;
  const lines = [`| | ${keys.map((key) => markdownCell(valueText(key))).join(" | ")} |`, `|---|${keys.map(() => "---|").join("")}`];
  for (const [group, rows] of groupRows(comparison, differencesOnly)) {
    lines.push(`| **${markdownCell(groupTitle(group))}** |${keys.map(() => " |").join("")}`);
    for (const row of rows) {
      const cells = row.values.map((value) => {
        const text = markdownCell(typeof value === "number" ? String(value) : valueText(value));
        return row.differs ? `**${text}**` : text;
      });
      lines.push(`| ${markdownCell(valueText(row.name))} | ${cells.join(" | ")} |`);
    }
  }
  return `${lines.join("\n")}\n`;
}
