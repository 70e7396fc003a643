// The checkpoints, in columns. Owns: which rows there are, what each cell holds, the texts that search looks through.
//
// One row is one checkpoint, under a number that stays its own as long as it is there; a row that went leaves a hole
// (`alive`), which the next new one fills. Numbers stand in Float64Arrays beside a bitmap of what is known, because a
// metric may *be* NaN; texts are codes into a list of distinct values. That is what lets a filter over 100,000 rows
// look at nothing but typed arrays. Pure: no DOM, no clock, no network.

import { type Entry, type JsonNumber, STATUSES, type Status, toNumber } from "./types";

export type Row = number;

const FIRST_CAPACITY = 1024;
const LEARNING_RATE = /^lr\b|^lr-|learning_rate/i; // logged like a metric, and never what people look for

function grown<T extends Float64Array | Int32Array | Uint8Array>(array: T, capacity: number): T {
  const larger = new (array.constructor as new (length: number) => T)(capacity);
  larger.set(array as never);
  return larger;
}

/** Numbers by row; what is not known is `undefined`, which is something else than NaN. */
export class NumberColumn {
  readonly kind = "number";
  values = new Float64Array(0);
  known = new Uint8Array(0);
  /** How many rows have a value. */
  count = 0;

  get(row: Row): number | undefined {
    return this.known[row] ? this.values[row] : undefined;
  }

  set(row: Row, value: number | undefined): void {
    if (row >= this.values.length) {
      if (value === undefined) return;
      const capacity = Math.max(FIRST_CAPACITY, 2 * this.values.length, row + 1);
      this.values = grown(this.values, capacity);
      this.known = grown(this.known, capacity);
    }
    this.count += Number(value !== undefined) - this.known[row]!;
    this.known[row] = Number(value !== undefined);
    this.values[row] = value ?? NaN;
  }
}

/** Texts by row, each distinct one kept once; 0 is "not known". */
export class TextColumn {
  readonly kind = "text";
  codes = new Int32Array(0);
  readonly texts: (string | undefined)[] = [undefined];
  private readonly codeOf = new Map<string, number>();
  private ranks: Int32Array | undefined;
  private readonly sortKeys: string[] = [""];

  get(row: Row): string | undefined {
    return this.texts[this.codes[row] ?? 0];
  }

  code(text: string): number | undefined {
    return this.codeOf.get(text);
  }

  set(row: Row, text: string | null | undefined): void {
    if (row >= this.codes.length) this.codes = grown(this.codes, Math.max(FIRST_CAPACITY, 2 * this.codes.length, row + 1));
    this.codes[row] = text === null || text === undefined ? 0 : this.intern(text);
  }

  private intern(text: string): number {
    const known = this.codeOf.get(text);
    if (known !== undefined) return known;
    const code = this.texts.push(text) - 1;
    this.codeOf.set(text, code);
    this.ranks = undefined;
    return code;
  }

  /** The place of each code in the order that people expect: "epoch=2" before "epoch=10", any case. */
  ranked(): Int32Array {
    if (this.ranks !== undefined) return this.ranks;
    for (let code = this.sortKeys.length; code < this.texts.length; code++) this.sortKeys.push(naturalKey(this.texts[code]!));
    const keys = this.sortKeys;
    const order = Int32Array.from(keys.keys()).subarray(1);
    order.sort((a, b) => (keys[a]! < keys[b]! ? -1 : keys[a]! > keys[b]! ? 1 : a - b));
    const ranks = new Int32Array(keys.length);
    for (let i = 0; i < order.length; i++) ranks[order[i]!] = i + 1;
    this.ranks = ranks;
    return ranks;
  }
}

/** A text that compares as people sort names: digits by their value. */
export function naturalKey(text: string): string {
  return text.toLowerCase().replace(/\d+/g, (digits) => String.fromCharCode(0x30 + Math.min(digits.length, 60)) + digits);
}

export type Column = NumberColumn | TextColumn;

export class Store {
  /** One past the highest row that was ever used. */
  end = 0;
  /** How many rows are there. */
  size = 0;
  /** Counts every change; what was derived from another version is old. */
  version = 0;
  alive = new Uint8Array(0);
  readonly rowOf = new Map<string, Row>();
  readonly metrics = new Map<string, NumberColumn>();
  private readonly free: Row[] = [];
  private readonly searchTexts: string[] = [];
  private readonly problems: (string | undefined)[] = [];
  private readonly changes = new Uint32Array(1);
  private changed = new Int32Array(0);

  readonly key: string[] = [];
  readonly experiment = new TextColumn();
  readonly name = new TextColumn();
  readonly status = new TextColumn();
  readonly problem = new TextColumn();
  readonly architecture = new TextColumn();
  readonly encoder = new TextColumn();
  readonly format = new TextColumn();
  readonly lightning = new TextColumn();
  readonly source = new TextColumn();
  readonly monitor = new TextColumn();
  readonly mode = new TextColumn();
  readonly wandb = new TextColumn();
  readonly link = new TextColumn();
  readonly health = new TextColumn();
  readonly modified = new NumberColumn();
  readonly bytes = new NumberColumn();
  readonly epoch = new NumberColumn();
  readonly step = new NumberColumn();
  readonly parameters = new NumberColumn();
  readonly score = new NumberColumn();

  /** Add or replace checkpoints; gives their rows, in order. */
  put(entries: readonly Entry[]): Row[] {
    this.version++;
    return entries.map((entry) => this.putOne(entry));
  }

  /** Take checkpoints out; gives the rows that they had. */
  remove(keys: Iterable<string>): Row[] {
    this.version++;
    const rows: Row[] = [];
    for (const key of keys) {
      const row = this.rowOf.get(key);
      if (row === undefined) continue;
      this.rowOf.delete(key);
      this.alive[row] = 0;
      for (const column of this.metrics.values()) column.set(row, undefined);
      this.searchTexts[row] = "";
      this.free.push(row);
      this.size--;
      rows.push(row);
    }
    return rows;
  }

  isAlive(row: Row): boolean {
    return this.alive[row] === 1;
  }

  /** A number that differs whenever the row's content does: what a drawn row is compared by. */
  stamp(row: Row): number {
    return this.changed[row]!;
  }

  statusOf(row: Row): Status {
    return (this.status.get(row) ?? "ok") as Status;
  }

  messageOf(row: Row): string | undefined {
    return this.problems[row];
  }

  metric(name: string): NumberColumn | undefined {
    return this.metrics.get(name);
  }

  /** Metrics: first those that checkpoints were selected by, then by how many have them; learning rates last. */
  metricNames(): string[] {
    const place = (name: string) => (this.monitor.code(name) !== undefined ? 0 : LEARNING_RATE.test(name) ? 2 : 1);
    return [...this.metrics.entries()]
      .filter(([, column]) => column.count > 0)
      .sort(([a, left], [b, right]) => place(a) - place(b) || right.count - left.count || (a < b ? -1 : 1))
      .map(([name]) => name);
  }

  /** What of a row is searched: lower case, one text. */
  searchText(row: Row): string {
    return this.searchTexts[row] ?? "";
  }

  *rows(): Generator<Row> {
    for (let row = 0; row < this.end; row++) if (this.alive[row]) yield row;
  }

  private putOne(entry: Entry): Row {
    let row = this.rowOf.get(entry.path);
    if (row === undefined) {
      row = this.free.pop() ?? this.end++;
      if (row >= this.alive.length) {
        const capacity = Math.max(FIRST_CAPACITY, 2 * this.alive.length);
        this.alive = grown(this.alive, capacity);
        this.changed = grown(this.changed, capacity);
      }
      this.alive[row] = 1;
      this.size++;
      this.rowOf.set(entry.path, row);
      this.key[row] = entry.path;
    }
    this.changed[row] = ++this.changes[0]!;
    this.experiment.set(row, entry.experiment);
    this.name.set(row, entry.name);
    this.status.set(row, STATUSES.includes(entry.status) ? entry.status : "unreadable");
    this.problem.set(row, entry.problem?.code);
    this.problems[row] = entry.problem?.message;
    this.architecture.set(row, entry.architecture);
    this.encoder.set(row, entry.encoder);
    this.format.set(row, entry.format);
    this.lightning.set(row, entry.lightning_version);
    this.source.set(row, entry.metadata_source);
    this.monitor.set(row, entry.monitor?.name);
    this.mode.set(row, entry.monitor?.mode);
    this.wandb.set(row, entry.wandb_run_id);
    this.link.set(row, entry.link_target);
    this.health.set(row, healthOf(entry));
    const modified = Date.parse(entry.mtime ?? "");
    this.modified.set(row, Number.isNaN(modified) ? undefined : modified);
    this.bytes.set(row, entry.size_bytes);
    this.epoch.set(row, entry.epoch ?? undefined);
    this.step.set(row, entry.global_step ?? undefined);
    this.parameters.set(row, entry.parameters ?? undefined);
    this.score.set(row, toNumber(entry.monitor?.value));
    this.putMetrics(row, entry);
    this.searchTexts[row] =
      `${entry.path}\n${entry.experiment}\n${entry.architecture ?? ""}\n${entry.encoder ?? ""}\n${entry.monitor?.name ?? ""}\n${entry.status}\n${entry.problem?.code ?? ""}`.toLowerCase();
    return row;
  }

  private putMetrics(row: Row, entry: Entry): void {
    const given: Record<string, JsonNumber | null> = entry.metrics ?? {};
    for (const [name, column] of this.metrics) if (!Object.hasOwn(given, name)) column.set(row, undefined);
    for (const name of Object.keys(given)) this.metricColumn(name).set(row, toNumber(given[name]));
    // The score is this checkpoint's value of the monitored metric, also where nothing else recorded that metric.
    const { monitor } = entry;
    if (monitor && monitor.value !== null && !Object.hasOwn(given, monitor.name))
      this.metricColumn(monitor.name).set(row, toNumber(monitor.value));
  }

  private metricColumn(name: string): NumberColumn {
    let column = this.metrics.get(name);
    if (column === undefined) this.metrics.set(name, (column = new NumberColumn()));
    return column;
  }
}

function healthOf({ health }: Entry): string | undefined {
  if (!health) return undefined;
  if (health.status !== "ok") return `${health.level}: ${health.problem?.code ?? health.status}`;
  const odd = [health.nan ? `${health.nan} NaN` : "", health.inf ? `${health.inf} Inf` : ""].filter(Boolean);
  return odd.length ? `${health.level}: ${odd.join(", ")}` : `${health.level}: good`;
}
