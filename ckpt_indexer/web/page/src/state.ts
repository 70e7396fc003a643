// The page's state, as signals. Owns: what is shown (filters, order, selection, open checkpoint), the view that follows
// from it and from the store, and the actions that components call. Components hold no state that outlives them.

import { batch, computed, effect, signal } from "@preact/signals";
import { columnSpec, usualColumns } from "./columns";
import { COMPARED_MAX } from "./compare";
import { visible } from "./format";
import { getJson, type Caller } from "./protocol";
import { type Connection, Session } from "./session";
import { type Row, Store } from "./store";
import { decodeState, encodeState, type PageState, type Tab } from "./url";
import { bestOf, directionOf, type Filters, filterOrdered, isUnfiltered, NO_FILTERS, type Order, sortRows, filterRows, updateView } from "./view";

export const store = new Store();
/** Counts what became of the store; whoever draws from it reads this. */
export const storeVersion = signal(0);

export const page = signal<PageState>(decodeState(location.search));
export const connection = signal<Connection>({ state: "loading", loaded: 0, total: undefined });
export const generation = signal<number | undefined>(undefined);
/** The key of the row that the keyboard is at. */
export const active = signal<string | undefined>(undefined);
/** What was said last, for the live region and the toast. */
export const notice = signal<{ text: string; isToast: boolean; id: number }>({ text: "", isToast: false, id: 0 });
/** Rows that came a moment ago, for the flash. */
export const arrivals = signal<ReadonlySet<string>>(new Set());
export const now = signal(Date.now());
export const isNarrow = signal(false);
export const isHelpOpen = signal(false);

export interface Health {
  catalog_status: "healthy" | "degraded" | "unhealthy";
  checkpoint_count: number;
  generation: number | null;
  daemon: { state: string; alive: boolean; reasons: { code: string; message: string; cure: string }[] };
}
export const health = signal<Health | undefined>(undefined);

export const filters = computed(() => page.value.filters);
export const order = computed(() => page.value.order);
export const selected = computed<ReadonlySet<string>>(() => new Set(page.value.selected));

// -- the view ------------------------------------------------------------------------------------

export interface View {
  rows: Int32Array;
  /** Whether it is another question, or other checkpoints under the same question: then the place is kept. */
  cause: "question" | "rows";
}

let ordered: Int32Array = new Int32Array(0); // all rows in the current order: a change of filters then needs no sort
let orderedBy: Order | undefined;
let filteredBy: Filters | undefined;
let pending: Row[] = [];
let timer: ReturnType<typeof setTimeout> | undefined;
const FLUSH_MS = 120; // while loading: drawing for each batch would cost more than the batches

export const view = signal<View>({ rows: ordered, cause: "question" });

effect(() => {
  const question = { filters: filters.value, order: order.value };
  if (question.filters === filteredBy && question.order === orderedBy) return;
  if (question.order !== orderedBy) {
    ordered = sortRows(store, filterRows(store, NO_FILTERS), question.order);
    pending = []; // else they are still to come into `ordered`
  }
  filteredBy = question.filters;
  orderedBy = question.order;
  view.value = { rows: filterOrdered(store, ordered, question.filters), cause: "question" };
});

function flush(): void {
  timer = undefined;
  const changed = pending;
  pending = [];
  const [wanted, by] = [filters.peek(), order.peek()];
  ordered = updateView(store, ordered, changed, NO_FILTERS, by);
  const rows = isUnfiltered(wanted) ? ordered : updateView(store, view.peek().rows, changed, wanted, by);
  batch(() => {
    view.value = { rows, cause: "rows" };
    storeVersion.value++;
  });
}

/** Rows changed: draw them, the first and single ones at once, those of a load a few times a second. */
function takeRows(rows: Row[]): void {
  for (const row of rows) pending.push(row);
  if (view.peek().rows.length === 0 || connection.peek().state === "live") {
    clearTimeout(timer);
    flush();
  } else timer ??= setTimeout(flush, FLUSH_MS);
}

// -- the best ------------------------------------------------------------------------------------

export const metricNames = computed(() => {
  storeVersion.value;
  return store.metricNames();
});

/** The metric that most checkpoints were selected by; else the first that there is. */
const usualMetric = computed(() => {
  storeVersion.value;
  const counts = new Map<string, number>();
  for (const row of store.rows()) {
    const name = store.monitor.get(row);
    if (name !== undefined) counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  const names = [...counts].filter(([name]) => store.metric(name)?.count).sort((a, b) => b[1] - a[1]);
  return names[0]?.[0] ?? metricNames.value[0];
});

export const bestMetric = computed(() => page.value.best?.metric ?? usualMetric.value);
export const bestMode = computed<"min" | "max">(() => {
  storeVersion.value;
  const metric = bestMetric.value;
  return page.value.best?.mode ?? (metric === undefined ? "max" : directionOf(store, metric));
});
export const bestRow = computed(() => {
  const metric = bestMetric.value;
  return metric === undefined ? undefined : bestOf(store, view.value.rows, metric, bestMode.value === "max");
});

export const columns = computed(() => {
  storeVersion.value;
  return page.value.columns ?? usualColumns(store);
});
export const columnSpecs = computed(
  () => columns.value.map(columnSpec).filter((spec) => spec !== undefined),
  );

// -- actions -------------------------------------------------------------------------------------

function change(part: Partial<PageState>, isStep = false): void {
  page.value = { ...page.peek(), ...part };
  writeAddress(isStep);
}

function writeAddress(isStep: boolean): void {
  const text = encodeState(page.peek());
  const address = `${location.pathname}${text ? `?${text}` : ""}`;
  if (address === location.pathname + location.search) return;
  // A step is somewhere to come back to with the browser's own button; typing into the search is not.
  history[isStep ? "pushState" : "replaceState"](null, "", address);
}

export function say(text: string, isToast = false): void {
  notice.value = { text, isToast, id: notice.peek().id + 1 };
}

export function setFilters(part: Partial<Filters>): void {
  change({ filters: { ...page.peek().filters, ...part } });
  say(`${view.peek().rows.length.toLocaleString("en-US")} of ${store.size.toLocaleString("en-US")} checkpoints`);
}

export function clearFilters(): void {
  setFilters(NO_FILTERS);
}

export function setOrder(field: string, descending: boolean): void {
  change({ order: { field, descending } });
}

export function toggleOrder(field: string, descendingFirst: boolean): void {
  const { field: current, descending } = page.peek().order;
  setOrder(field, current === field ? !descending : descendingFirst);
}

export function setColumns(names: readonly string[] | undefined): void {
  change({ columns: names });
}

export function setBest(metric: string, mode: "min" | "max" | undefined): void {
  change({ best: { metric, mode } });
}

export function setChartBy(by: "epoch" | "step"): void {
  change({ chartBy: by });
}

export function setDifferencesOnly(isOn: boolean): void {
  change({ differencesOnly: isOn });
}

export function toggleSelected(key: string): void {
  const keys = page.peek().selected;
  if (keys.includes(key)) change({ selected: keys.filter((other) => other !== key) });
  else if (keys.length >= COMPARED_MAX) say(`Up to ${COMPARED_MAX} checkpoints can be compared: take one out first`, true);
  else change({ selected: [...keys, key] });
}

export function clearSelected(): void {
  change({ selected: [], tab: page.peek().tab === "compare" ? "table" : page.peek().tab });
}

export function openTab(tab: Tab): void {
  if (page.peek().tab !== tab) change({ tab, open: undefined }, true);
}

export function openDetail(key: string | undefined): void {
  const { open } = page.peek();
  if (open === key) return;
  if (key !== undefined) active.value = key;
  // Looking at one checkpoint after the other is one step back, not many.
  change({ open: key }, open === undefined);
}

export async function copy(text: string, what: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without HTTPS or localhost there is no clipboard; the old way still works from a click.
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "off-screen";
    document.body.append(area);
    const focused = document.activeElement as HTMLElement | null;
    area.select();
    const isDone = document.execCommand("copy");
    area.remove();
    focused?.focus();
    if (!isDone) return say("The browser does not allow copying", true);
  }
  say(`${what} copied`, true);
}

export function save(name: string, type: string, text: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// -- theme ---------------------------------------------------------------------------------------

export type Theme = "auto" | "light" | "dark";
const THEME_KEY = "ckpt-indexer-theme";

function readTheme(): Theme {
  try {
    const kept = localStorage.getItem(THEME_KEY);
    return kept === "light" || kept === "dark" ? kept : "auto";
  } catch {
    return "auto"; // storage may be forbidden
  }
}

export const theme = signal<Theme>(readTheme());
effect(() => {
  document.documentElement.dataset["theme"] = theme.value;
  try {
    localStorage.setItem(THEME_KEY, theme.value);
  } catch {
    // not remembered, then
  }
});

// -- the session ---------------------------------------------------------------------------------

const TOKEN_KEY = "ckpt-indexer-token";

function readToken(): string | undefined {
  try {
    return sessionStorage.getItem(TOKEN_KEY) ?? undefined;
  } catch {
    return undefined;
  }
}

export const caller: Caller = { token: readToken(), fetch: (input, init) => fetch(input, init) };

const session = new Session(store, caller, {
  onRows(rows, arrived) {
    takeRows(rows);
    if (arrived.length) welcome(arrived);
  },
  onConnection(value) {
    const before = connection.peek().state;
    connection.value = value;
    if (value.state === "live" && before !== "live") {
      if (timer !== undefined) {
        clearTimeout(timer);
        flush();
      }
      say(before === "loading" ? `${store.size.toLocaleString("en-US")} checkpoints loaded` : "Connected again");
      void askHealth();
    }
    if (value.state === "broken" && before !== "broken") say(`Disconnected: ${value.reason}`);
  },
  onGeneration(value) {
    generation.value = value;
  },
});

const FLASH_MS = 2500;

function welcome(keys: readonly string[]): void {
  arrivals.value = new Set([...arrivals.peek(), ...keys]);
  setTimeout(() => {
    const left = new Set(arrivals.peek());
    for (const key of keys) left.delete(key);
    arrivals.value = left;
  }, FLASH_MS);
  say(keys.length === 1 ? `New: ${visible(keys[0]!)}` : `${keys.length} new checkpoints`);
}

export function reconnect(): void {
  session.retry();
}

export function giveToken(token: string): void {
  try {
    sessionStorage.setItem(TOKEN_KEY, token);
  } catch {
    // asked for again next time
  }
  session.retry(token);
}

async function askHealth(): Promise<void> {
  try {
    health.value = await getJson<Health>(caller, "health/checkpoints");
  } catch {
    // an unhealthy server answers 503; the connection's own state says what is wrong
    health.value = undefined;
  }
}

const HEALTH_MS = 15_000;
const CLOCK_MS = 10_000;

/** Starts everything that goes on by itself. */
export function start(): void {
  const narrow = matchMedia("(max-width: 760px)");
  const look = () => (isNarrow.value = narrow.matches);
  narrow.addEventListener("change", look);
  look();
  addEventListener("popstate", () => (page.value = decodeState(location.search)));
  addEventListener("online", reconnect);
  setInterval(() => (now.value = Date.now()), CLOCK_MS);
  setInterval(() => {
    if (connection.peek().state === "live" && !document.hidden) void askHealth();
  }, HEALTH_MS);
  void session.run(new AbortController().signal);
}
