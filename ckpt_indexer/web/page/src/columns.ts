// The columns that the table can show. Owns: their names, titles, widths, texts, and which are shown when nobody chose.

import { countText, metricText, momentText, shortCount, sizeText, timeText, UNKNOWN_TEXT, visible } from "./format";
import type { Row, Store } from "./store";

export interface ColumnSpec {
  /** As in the address and in `Order.field`. */
  name: string;
  title: string;
  width: number;
  isNumber: boolean;
  text: (store: Store, row: Row, now: number) => string;
  /** Shown when the pointer rests on the cell, where the text alone is short of something. */
  hint?: (store: Store, row: Row) => string | undefined;
  /** What a first click sorts: best, newest and largest first, but names from A. */
  descendingFirst: boolean;
}

type TextField = "experiment" | "architecture" | "encoder" | "format" | "lightning" | "source" | "monitor" | "wandb" | "link" | "health" | "problem";

function textColumn(name: TextField, title: string, width: number): ColumnSpec {
  return {
    name,
    title,
    width,
    isNumber: false,
    text: (store, row) => visible(store[name].get(row) ?? UNKNOWN_TEXT),
    hint: (store, row) => visible(store[name].get(row) ?? ""),
    descendingFirst: false,
  };
}

function numberColumn(
  name: "epoch" | "step" | "parameters" | "score" | "bytes",
  title: string,
  width: number,
  text: (value: number | undefined) => string,
): ColumnSpec {
  return {
    name,
    title,
    width,
    isNumber: true,
    text: (store, row) => text(store[name].get(row)),
    hint: (store, row) => store[name].get(row)?.toLocaleString("en-US", { maximumFractionDigits: 20 }),
    descendingFirst: true,
  };
}

const FIXED: ColumnSpec[] = [
  { name: "status", title: "Status", width: 148, isNumber: false, text: (store, row) => store.statusOf(row), descendingFirst: false },
  numberColumn("score", "Score", 92, metricText),
  numberColumn("epoch", "Epoch", 72, countText),
  numberColumn("step", "Step", 84, countText),
  textColumn("architecture", "Architecture", 132),
  textColumn("encoder", "Encoder", 156),
  numberColumn("parameters", "Params", 88, shortCount),
  numberColumn("bytes", "Size", 84, sizeText),
  {
    name: "modified",
    title: "Modified",
    width: 100,
    isNumber: true,
    text: (store, row, now) => timeText(store.modified.get(row), now),
    hint: (store, row) => momentText(store.modified.get(row)),
    descendingFirst: true,
  },
  textColumn("experiment", "Experiment", 200),
  textColumn("monitor", "Monitored", 120),
  textColumn("format", "Format", 112),
  textColumn("health", "Health", 132),
  textColumn("problem", "Problem", 148),
  textColumn("source", "Known from", 108),
  textColumn("wandb", "W&B run", 108),
  textColumn("lightning", "Lightning", 92),
  textColumn("link", "Link to", 200),
];
const BY_NAME = new Map(FIXED.map((column) => [column.name, column]));

export const NAME_COLUMN: ColumnSpec = {
  name: "name",
  title: "Checkpoint",
  width: 340,
  isNumber: false,
  text: (store, row) => visible(store.name.get(row) ?? ""),
  descendingFirst: false,
};

export const FIXED_COLUMNS: readonly ColumnSpec[] = FIXED;

export function metricColumn(metric: string): ColumnSpec {
  return {
    name: `metrics.${metric}`,
    title: visible(metric),
    width: Math.max(84, Math.min(176, 42 + 7.4 * metric.length)),
    isNumber: true,
    text: (store, row) => metricText(store.metric(metric)?.get(row)),
    hint: (store, row) => store.metric(metric)?.get(row)?.toString(),
    descendingFirst: !/loss|error/i.test(metric),
  };
}

export function columnSpec(name: string): ColumnSpec | undefined {
  return name.startsWith("metrics.") ? metricColumn(name.slice("metrics.".length)) : BY_NAME.get(name);
}

const USUAL_METRICS = 3;

/** What is shown when nobody chose: the usual facts, and the metrics that most checkpoints have. */
export function usualColumns(store: Store): string[] {
  const metrics = store.metricNames().slice(0, USUAL_METRICS);
  return ["status", ...metrics.map((metric) => `metrics.${metric}`), "epoch", "step", "modified", "bytes", "architecture", "parameters"];
}
