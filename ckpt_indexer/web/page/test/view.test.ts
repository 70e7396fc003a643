import assert from "node:assert/strict";
import { test } from "node:test";
import { chartOf, aligned } from "../src/chart";
import { Store } from "../src/store";
import { bestOf, directionOf, type Filters, filterOrdered, filterRows, NO_FILTERS, type Order, sortRows, updateView, viewOf } from "../src/view";
import type { Entry, Status } from "../src/types";
import { dice, entry } from "./entries";

const NEWEST: Order = { field: "modified", descending: true };

function storeOf(...entries: Entry[]): Store {
  const store = new Store();
  store.put(entries);
  return store;
}

function keys(store: Store, rows: Iterable<number>): string[] {
  return [...rows].map((row) => store.key[row]!);
}

function shown(store: Store, filters: Partial<Filters>): string[] {
  return keys(store, filterRows(store, { ...NO_FILTERS, ...filters }));
}

test("every word of a search has to be there, in any case, in any of the searched fields", () => {
  const store = storeOf(
    entry("ocr/checkpoints/best.ckpt", { architecture: "DBNet", encoder: "mobilenet" }),
    entry("ocr/checkpoints/last.ckpt", { architecture: "crnn", monitor: { name: "val/CER", mode: "min", value: 0.1 } }),
    entry("kie/checkpoints/best.ckpt", { status: "corrupt", problem: { code: "checksum-mismatch", message: "" } }),
  );
  assert.deepEqual(shown(store, { search: "BEST" }), ["ocr/checkpoints/best.ckpt", "kie/checkpoints/best.ckpt"]);
  assert.deepEqual(shown(store, { search: " dbnet  best " }), ["ocr/checkpoints/best.ckpt"]);
  assert.deepEqual(shown(store, { search: "val/cer" }), ["ocr/checkpoints/last.ckpt"]);
  assert.deepEqual(shown(store, { search: "corrupt" }), ["kie/checkpoints/best.ckpt"]);
  assert.deepEqual(shown(store, { search: "checksum" }), ["kie/checkpoints/best.ckpt"]);
});

test("choices of one filter are alternatives, filters are all asked for, and 'not known' can be chosen", () => {
  const store = storeOf(
    entry("a/checkpoints/1.ckpt", { architecture: "x" }),
    entry("a/checkpoints/2.ckpt", { architecture: "y", status: "corrupt" }),
    entry("b/checkpoints/3.ckpt"),
  );
  assert.deepEqual(shown(store, { experiments: ["a", "b"], architectures: ["x", ""] }), ["a/checkpoints/1.ckpt", "b/checkpoints/3.ckpt"]);
  assert.deepEqual(shown(store, { statuses: ["corrupt"] }), ["a/checkpoints/2.ckpt"]);
  assert.deepEqual(shown(store, { experiments: ["nobody"] }), []);
});

test("a threshold is met by known numbers only: neither by what is not known nor by NaN", () => {
  const store = storeOf(
    entry("low", { metrics: { m: 0.1 } }),
    entry("high", { metrics: { m: 0.9 } }),
    entry("infinite", { metrics: { m: "Infinity" } }),
    entry("nan", { metrics: { m: "NaN" } }),
    entry("none"),
  );
  assert.deepEqual(shown(store, { thresholds: [{ metric: "m", operator: ">=", value: 0.5 }] }), ["high", "infinite"]);
  assert.deepEqual(shown(store, { thresholds: [{ metric: "m", operator: "<", value: 0.5 }] }), ["low"]);
  assert.deepEqual(shown(store, { thresholds: [{ metric: "absent", operator: "<", value: 0.5 }] }), []);
});

test("dates are from, and until but not at", () => {
  const store = storeOf(...[1, 2, 3].map((day) => entry(`${day}`, { mtime: `2026-11-0${day}T00:00:00.000000Z` })));
  assert.deepEqual(shown(store, { since: Date.UTC(2026, 10, 2), until: Date.UTC(2026, 10, 3) }), ["2"]);
});

test("the score counts as the monitored metric's value where nothing else recorded it", () => {
  const store = storeOf(entry("a", { monitor: { name: "val/m", mode: "max", value: 0.5 } }));
  assert.equal(store.metric("val/m")?.get(0), 0.5);
});

test("what is not known sorts last in both directions, infinities before it", () => {
  const store = storeOf(
    entry("none"),
    entry("minus", { metrics: { m: "-Infinity" } }),
    entry("two", { metrics: { m: 2 } }),
    entry("nan", { metrics: { m: "NaN" } }),
    entry("plus", { metrics: { m: "Infinity" } }),
    entry("one", { metrics: { m: 1 } }),
  );
  const sorted = (descending: boolean) => keys(store, viewOf(store, NO_FILTERS, { field: "metrics.m", descending }));
  assert.deepEqual(sorted(false), ["minus", "one", "two", "plus", "none", "nan"]);
  assert.deepEqual(sorted(true), ["plus", "two", "one", "minus", "none", "nan"]);
});

test("names sort as people do: digits by value, any case", () => {
  const store = storeOf(...["epoch=10.ckpt", "Epoch=2.ckpt", "epoch=1.ckpt", "best.ckpt"].map((name) => entry(name)));
  assert.deepEqual(keys(store, viewOf(store, NO_FILTERS, { field: "name", descending: false })), [
    "best.ckpt", "epoch=1.ckpt", "Epoch=2.ckpt", "epoch=10.ckpt",
  ]);
});

test("a removed row leaves nothing behind for the one that takes its place", () => {
  const store = storeOf(entry("a", { metrics: { m: 1 }, epoch: 3, architecture: "x" }), entry("b"));
  assert.deepEqual(store.remove(["a", "absent"]), [0]);
  assert.deepEqual([store.size, store.isAlive(0), store.metricNames()], [1, false, []]);
  assert.deepEqual(store.put([entry("c")]), [0]);
  assert.deepEqual([store.key[0], store.metric("m")?.get(0), store.epoch.get(0), store.architecture.get(0)], ["c", undefined, undefined, undefined]);
  assert.equal(store.rowOf.has("a"), false);
});

test("an updated view is the view that a fresh look gives, whatever came, changed or went", () => {
  const random = dice(7);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
  const statuses: Status[] = ["ok", "corrupt", "incomplete"];
  const any = (key: string) =>
    entry(key, {
      status: pick(statuses),
      epoch: pick([null, 1, 2, 10]),
      metrics: pick<Entry["metrics"]>([{}, { m: 1 }, { m: 2 }, { m: "NaN" }, { m: 2, other: 1 }]),
      mtime: pick(["2026-11-21T10:30:00.000000Z", "2026-11-21T10:31:00.000000Z", "nonsense"]),
    });
  const orders: Order[] = [NEWEST, { field: "metrics.m", descending: true }, { field: "name", descending: false }, { field: "status", descending: true }];
  const filters: Filters[] = [NO_FILTERS, { ...NO_FILTERS, statuses: ["ok"] }, { ...NO_FILTERS, search: "a1", thresholds: [{ metric: "m", operator: ">", value: 1 }] }];
  for (const order of orders)
    for (const filter of filters) {
      const store = new Store();
      let view = viewOf(store, filter, order);
      let ordered = sortRows(store, filterRows(store, NO_FILTERS), order);
      for (let round = 0; round < 60; round++) {
        const names = Array.from({ length: 5 }, () => `a${Math.floor(random() * 30)}`);
        const changed = random() < 0.3 ? store.remove(names) : store.put(names.map(any));
        view = updateView(store, view, changed, filter, order);
        ordered = updateView(store, ordered, changed, NO_FILTERS, order);
        assert.deepEqual([...view], [...viewOf(store, filter, order)]);
        assert.deepEqual([...filterOrdered(store, ordered, filter)], [...view]);
      }
    }
});

test("the best is the best that can be used, of equals the newest", () => {
  const store = storeOf(
    entry("broken", { metrics: { m: 9 }, status: "corrupt" }),
    entry("nan", { metrics: { m: "NaN" } }),
    entry("old", { metrics: { m: 2 }, mtime: "2026-11-20T00:00:00.000000Z" }),
    entry("new", { metrics: { m: 2 }, mtime: "2026-11-21T00:00:00.000000Z" }),
    entry("low", { metrics: { m: 1 } }),
  );
  const best = (descending: boolean) => store.key[bestOf(store, store.rows(), "m", descending)!];
  assert.deepEqual([best(true), best(false)], ["new", "low"]);
  assert.equal(bestOf(store, store.rows(), "absent", true), undefined);
});

test("the monitors say which way a metric is better, its name only where they do not", () => {
  const store = storeOf(entry("a", { metrics: { "val/loss": 1, "val/hmean": 1, odd: 1 }, monitor: { name: "odd", mode: "min", value: 1 } }));
  assert.deepEqual(["odd", "val/loss", "val/hmean"].map((name) => directionOf(store, name)), ["min", "min", "max"]);
});

test("a chart's line has the better of two checkpoints at one place, and lines come best first", () => {
  const store = storeOf(
    entry("a/checkpoints/1.ckpt", { epoch: 1, metrics: { m: 0.2 } }),
    entry("a/checkpoints/last.ckpt", { epoch: 1, metrics: { m: 0.1 } }),
    entry("a/checkpoints/0.ckpt", { epoch: 0, metrics: { m: 0.3 } }),
    entry("b/checkpoints/5.ckpt", { epoch: 5, metrics: { m: 0.9 } }),
    entry("b/checkpoints/x.ckpt", { metrics: { m: 1 } }),
    entry("c/checkpoints/nan.ckpt", { epoch: 1, metrics: { m: "NaN" } }),
  );
  const chart = chartOf(store, store.rows(), "m", "epoch", "max");
  assert.deepEqual(chart, {
    lines: [
      { experiment: "b", xs: [5], ys: [0.9], rows: [3], best: 0 },
      { experiment: "a", xs: [0, 1], ys: [0.3, 0.2], rows: [2, 0], best: 0 },
    ],
    omitted: 0,
    points: 5,
    placeless: 1,
  });
  assert.deepEqual(aligned(chart.lines), [[0, 1, 5], [null, null, 0.9], [0.3, 0.2, null]]);
});
