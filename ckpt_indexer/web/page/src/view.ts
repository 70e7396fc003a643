// What the table shows, and in which order. Owns: filters, the order, and a view's update when some rows changed.
//
// A view is an Int32Array of rows. The order is total (the chosen column, then the newest first, then the row's number),
// so that an update that only looks at changed rows gives exactly what a fresh look would; a test holds it to that.

import type { NumberColumn, Row, Store, TextColumn } from "./store";

export type Operator = ">=" | "<=" | ">" | "<";
export const OPERATORS: readonly Operator[] = [">=", "<=", ">", "<"];

export interface Threshold {
  metric: string;
  operator: Operator;
  value: number;
}

export interface Filters {
  search: string;
  experiments: readonly string[];
  statuses: readonly string[];
  architectures: readonly string[];
  /** Milliseconds since 1970; written at or after, and before. */
  since: number | undefined;
  until: number | undefined;
  thresholds: readonly Threshold[];
}

export interface Order {
  /** A column's name, or `metrics.NAME`. */
  field: string;
  descending: boolean;
}

export const NO_FILTERS: Filters = {
  search: "",
  experiments: [],
  statuses: [],
  architectures: [],
  since: undefined,
  until: undefined,
  thresholds: [],
};

export function isUnfiltered(filters: Filters): boolean {
  const { search, experiments, statuses, architectures, since, until, thresholds } = filters;
  const lists = [experiments, statuses, architectures, thresholds];
  return !search.trim() && lists.every((list) => list.length === 0) && since === undefined && until === undefined;
}

type Test = (row: Row) => boolean;

/** The text that stands for "not known" among the choices of a filter. */
export const UNKNOWN = "";

function oneOf(column: TextColumn, texts: readonly string[]): Test {
  const wanted = new Uint8Array(column.texts.length);
  for (const text of texts) {
    const code = text === UNKNOWN ? 0 : column.code(text);
    if (code !== undefined) wanted[code] = 1;
  }
  const { codes } = column;
  return (row) => wanted[codes[row]!] === 1;
}

const COMPARE: Record<Operator, (a: number, b: number) => boolean> = {
  ">=": (a, b) => a >= b,
  "<=": (a, b) => a <= b,
  ">": (a, b) => a > b,
  "<": (a, b) => a < b,
};

/** The tests that a row has to pass; cheap ones first. */
function testsOf(store: Store, filters: Filters): Test[] {
  const tests: Test[] = [];
  if (filters.statuses.length) tests.push(oneOf(store.status, filters.statuses));
  if (filters.experiments.length) tests.push(oneOf(store.experiment, filters.experiments));
  if (filters.architectures.length) tests.push(oneOf(store.architecture, filters.architectures));
  const { since, until } = filters;
  if (since !== undefined) tests.push((row) => (store.modified.get(row) ?? -Infinity) >= since);
  if (until !== undefined) tests.push((row) => (store.modified.get(row) ?? Infinity) < until);
  for (const { metric, operator, value } of filters.thresholds) {
    const column = store.metric(metric);
    const compare = COMPARE[operator];
    // What is not known satisfies no threshold, and neither does NaN.
    tests.push((row) => column !== undefined && column.known[row] === 1 && compare(column.values[row]!, value));
  }
  for (const word of filters.search.toLowerCase().split(/\s+/).filter(Boolean))
    tests.push((row) => store.searchText(row).includes(word));
  return tests;
}

export function matches(store: Store, filters: Filters): Test {
  const tests = testsOf(store, filters);
  return (row) => store.isAlive(row) && tests.every((test) => test(row));
}

/** The rows that pass, in the order of their numbers. */
export function filterRows(store: Store, filters: Filters): Int32Array {
  const tests = testsOf(store, filters);
  const rows = new Int32Array(store.size);
  const { alive, end } = store;
  let count = 0;
  next: for (let row = 0; row < end; row++) {
    if (!alive[row]) continue;
    for (let i = 0; i < tests.length; i++) if (!tests[i]!(row)) continue next;
    rows[count++] = row;
  }
  return rows.subarray(0, count);
}

/** Those of *ordered* that pass, in its order. */
export function filterOrdered(store: Store, ordered: Int32Array, filters: Filters): Int32Array {
  const tests = testsOf(store, filters);
  const rows = new Int32Array(ordered.length);
  let count = 0;
  next: for (let at = 0; at < ordered.length; at++) {
    const row = ordered[at]!;
    if (!store.isAlive(row)) continue;
    for (let i = 0; i < tests.length; i++) if (!tests[i]!(row)) continue next;
    rows[count++] = row;
  }
  return rows.subarray(0, count);
}

export function columnOf(store: Store, field: string): NumberColumn | TextColumn | undefined {
  if (field.startsWith("metrics.")) return store.metric(field.slice("metrics.".length));
  switch (field) {
    case "name": case "experiment": case "status": case "problem": case "architecture": case "encoder": case "format":
    case "lightning": case "source": case "monitor": case "wandb": case "link": case "health":
    case "modified": case "bytes": case "epoch": case "step": case "parameters": case "score":
      return store[field];
    default:
      return undefined;
  }
}

/** Sort keys of all rows: larger comes later, `Infinity` for what is not known, whatever the direction. */
function sortKeys(store: Store, order: Order): Float64Array {
  const keys = new Float64Array(store.end).fill(Infinity);
  const column = columnOf(store, order.field);
  if (column === undefined) return keys;
  const sign = order.descending ? -1 : 1;
  if (column.kind === "number") {
    // Known infinities must stay apart from "not known": they become the largest finite numbers.
    const { values, known } = column;
    const end = Math.min(store.end, values.length);
    for (let row = 0; row < end; row++) {
      const value = values[row]!;
      if (known[row] && value === value) keys[row] = sign * Math.max(-Number.MAX_VALUE, Math.min(Number.MAX_VALUE, value));
    }
  } else {
    const ranks = column.ranked();
    const { codes } = column;
    for (let row = 0; row < store.end; row++) if (codes[row]) keys[row] = sign * ranks[codes[row]!]!;
  }
  return keys;
}

/** Compare two rows: the order's column, the newest first, then the row's number. */
export function comparator(store: Store, order: Order): (a: Row, b: Row) => number {
  const keys = sortKeys(store, order);
  const { values, known } = store.modified;
  const time = (row: Row) => (known[row] ? values[row]! : -Infinity);
  // NaN differences (Infinity - Infinity) are ties, hence the comparisons instead of a subtraction.
  return (a, b) => {
    const left = keys[a]!;
    const right = keys[b]!;
    if (left < right) return -1;
    if (left > right) return 1;
    return time(b) - time(a) || a - b;
  };
}

export function sortRows(store: Store, rows: Int32Array, order: Order): Int32Array {
  return rows.slice().sort(comparator(store, order));
}

export function viewOf(store: Store, filters: Filters, order: Order): Int32Array {
  return sortRows(store, filterRows(store, filters), order);
}

/** The view after *changed* rows came, changed or went: what `viewOf` would give, for the cost of one merge. */
export function updateView(
  store: Store,
  view: Int32Array,
  changed: Iterable<Row>,
  filters: Filters,
  order: Order,
): Int32Array {
  const isChanged = new Uint8Array(store.end);
  for (const row of changed) isChanged[row] = 1;
  const passes = matches(store, filters);
  const compare = comparator(store, order);
  const fresh: Row[] = [];
  for (let row = 0; row < store.end; row++) if (isChanged[row] && passes(row)) fresh.push(row);
  fresh.sort(compare);
  const merged = new Int32Array(view.length + fresh.length);
  let count = 0;
  let taken = 0;
  for (const row of view) {
    if (isChanged[row]) continue;
    while (taken < fresh.length && compare(fresh[taken]!, row) < 0) merged[count++] = fresh[taken++]!;
    merged[count++] = row;
  }
  while (taken < fresh.length) merged[count++] = fresh[taken++]!;
  return merged.subarray(0, count);
}

/** The best of *rows* by a metric, among those that can be used; of equals the newest. */
export function bestOf(store: Store, rows: Iterable<Row>, metric: string, descending: boolean): Row | undefined {
  const column = store.metric(metric);
  if (column === undefined) return undefined;
  const sign = descending ? 1 : -1;
  let best: Row | undefined;
  let bestValue = -Infinity;
  for (const row of rows) {
    const value = column.get(row);
    if (value === undefined || !Number.isFinite(value) || store.statusOf(row) !== "ok") continue;
    const signed = sign * value;
    if (best === undefined || signed > bestValue || (signed === bestValue && isNewer(store, row, best))) {
      best = row;
      bestValue = signed;
    }
  }
  return best;
}

function isNewer(store: Store, a: Row, b: Row): boolean {
  return (store.modified.get(a) ?? 0) > (store.modified.get(b) ?? 0);
}

const LOW_IS_GOOD = /loss|error|err\b|mae|mse|perplexity|ppl|cer\b|wer\b|distance|nll|fid\b/i;
const HIGH_IS_GOOD = /acc|hmean|precision|recall|f1|f_?score|auc|\bap\b|map\b|iou|dice|bleu|rouge|psnr|ssim|score|reward|r2/i;

/** Whether one value of a metric is better than another at all: not so of a learning rate. */
export function isJudged(store: Store, metric: string): boolean {
  return store.monitor.code(metric) !== undefined || LOW_IS_GOOD.test(metric) || HIGH_IS_GOOD.test(metric);
}

/** Which way a metric is better: as the checkpoints' monitors say, else by its name. */
export function directionOf(store: Store, metric: string): "min" | "max" {
  let votes = 0;
  let seen = 0;
  const code = store.monitor.code(metric);
  if (code !== undefined)
    for (const row of store.rows())
      if (store.monitor.codes[row] === code && store.mode.get(row)) {
        votes += store.mode.get(row) === "max" ? 1 : -1;
        if (++seen >= 1000) break;
      }
  if (votes !== 0) return votes > 0 ? "max" : "min";
  return LOW_IS_GOOD.test(metric) ? "min" : "max";
}
