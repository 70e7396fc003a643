// The page's state in its address. Owns: the names and the spelling of the parameters.
//
// Only what differs from the usual is written, so that the plain page has a plain address. What an address holds may come
// from anybody: it is read like any other input, and what makes no sense is left out.

import { type Filters, NO_FILTERS, OPERATORS, type Operator, type Order, type Threshold } from "./view";

export type Tab = "table" | "charts" | "compare";

export interface PageState {
  tab: Tab;
  filters: Filters;
  order: Order;
  /** Names of columns, left to right; none: the usual ones. */
  columns: readonly string[] | undefined;
  /** The metric by which the best is marked; none: the one most checkpoints were selected by. */
  best: { metric: string; mode: "min" | "max" | undefined } | undefined;
  selected: readonly string[];
  open: string | undefined;
  chartBy: "epoch" | "step";
  differencesOnly: boolean;
}

export const USUAL_ORDER: Order = { field: "modified", descending: true };
const SELECTED_MAX = 4;
const LIST_MAX = 100; // of each parameter; an address with more was not written by this page

export const USUAL_STATE: PageState = {
  tab: "table",
  filters: NO_FILTERS,
  order: USUAL_ORDER,
  columns: undefined,
  best: undefined,
  selected: [],
  open: undefined,
  chartBy: "epoch",
  differencesOnly: false,
};

export function encodeState(state: PageState): string {
  const out = new URLSearchParams();
  const { filters, order } = state;
  if (state.tab !== "table") out.set("view", state.tab);
  if (filters.search) out.set("q", filters.search);
  for (const text of filters.experiments) out.append("experiment", text);
  for (const text of filters.statuses) out.append("status", text);
  for (const text of filters.architectures) out.append("architecture", text);
  if (filters.since !== undefined) out.set("since", new Date(filters.since).toISOString());
  if (filters.until !== undefined) out.set("until", new Date(filters.until).toISOString());
  for (const threshold of filters.thresholds) out.append("metric", thresholdText(threshold));
  if (order.field !== USUAL_ORDER.field || order.descending !== USUAL_ORDER.descending)
    out.set("sort", `${order.field}:${order.descending ? "desc" : "asc"}`);
  for (const name of state.columns ?? []) out.append("column", name);
  if (state.best) out.set("best", state.best.mode ? `${state.best.metric}:${state.best.mode}` : state.best.metric);
  if (state.chartBy !== "epoch") out.set("x", state.chartBy);
  if (state.differencesOnly) out.set("differences", "only");
  for (const key of state.selected) out.append("selected", key);
  if (state.open !== undefined) out.set("open", state.open);
  return out.toString();
}

export function decodeState(text: string): PageState {
  const given = new URLSearchParams(text);
  const list = (name: string) => [...new Set(given.getAll(name))].slice(0, LIST_MAX);
  const columns = list("column");
  const view = given.get("view");
  return {
    tab: view === "charts" || view === "compare" ? view : "table",
    filters: {
      search: given.get("q") ?? "",
      experiments: list("experiment"),
      statuses: list("status"),
      architectures: list("architecture"),
      since: timeOf(given.get("since")),
      until: timeOf(given.get("until")),
      thresholds: list("metric").map(parseThreshold).filter((threshold) => threshold !== undefined),
    },
    order: parseOrder(given.get("sort")) ?? USUAL_ORDER,
    columns: columns.length ? columns : undefined,
    best: parseBest(given.get("best")),
    selected: list("selected").slice(0, SELECTED_MAX),
    open: given.get("open") ?? undefined,
    chartBy: given.get("x") === "step" ? "step" : "epoch",
    differencesOnly: given.get("differences") === "only",
  };
}

export function thresholdText({ metric, operator, value }: Threshold): string {
  return `${metric}${operator}${value}`;
}

/** Read `val/hmean>=0.9`; the last operator counts, because a metric's name may hold anything. */
export function parseThreshold(text: string): Threshold | undefined {
  const match = /^(.+)(>=|<=|>|<)([^<>=]+)$/s.exec(text);
  if (!match || match[3]!.trim() === "") return undefined;
  const [, metric, operator, number] = match;
  // ">=" must not be read as a metric that ends in ">" hence the greedy name gives back its last ">" or "<".
  const value = Number(number);
  if (!Number.isFinite(value) || !OPERATORS.includes(operator as Operator)) return undefined;
  return { metric: metric!, operator: operator as Operator, value };
}

function parseOrder(text: string | null): Order | undefined {
  const match = /^(.+):(asc|desc)$/s.exec(text ?? "");
  return match ? { field: match[1]!, descending: match[2] === "desc" } : undefined;
}

function parseBest(text: string | null): PageState["best"] {
  if (!text) return undefined;
  const match = /^(.+):(min|max)$/s.exec(text);
  return match ? { metric: match[1]!, mode: match[2] as "min" | "max" } : { metric: text, mode: undefined };
}

function timeOf(text: string | null): number | undefined {
  const time = Date.parse(text ?? "");
  return Number.isNaN(time) ? undefined : time;
}
