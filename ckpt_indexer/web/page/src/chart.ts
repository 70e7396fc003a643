// What the chart draws. Owns: which experiments, which points, the best of each; knows nothing of pixels.
//
// A line is an experiment. Where an experiment has several checkpoints at one place (best.ckpt and last.ckpt of one
// epoch) the better one stands for them, because that is what the chart is asked for.

import type { Row, Store } from "./store";

export interface Line {
  experiment: string;
  xs: number[];
  ys: number[];
  rows: Row[];
  /** The place of the best point in the arrays above. */
  best: number;
}

export const LINES_MAX = 12; // more cannot be told apart, by colour or otherwise

export interface Chart {
  lines: Line[];
  /** Experiments that have the metric but found no room: the worse ones. */
  omitted: number;
  /** Checkpoints with a value of the metric, and those of them without a place on the axis. */
  points: number;
  placeless: number;
}

export function chartOf(store: Store, rows: Iterable<Row>, metric: string, by: "epoch" | "step", mode: "min" | "max"): Chart {
  const column = store.metric(metric);
  const places = store[by];
  const sign = mode === "max" ? 1 : -1;
  const groups = new Map<number, Map<number, Row>>();
  let points = 0;
  let placeless = 0;
  for (const row of rows) {
    const value = column?.get(row);
    if (value === undefined || !Number.isFinite(value)) continue;
    points++;
    const place = places.get(row);
    if (place === undefined) {
      placeless++;
      continue;
    }
    const code = store.experiment.codes[row]!;
    let group = groups.get(code);
    if (!group) groups.set(code, (group = new Map()));
    const other = group.get(place);
    if (other === undefined || sign * value > sign * column!.get(other)!) group.set(place, row);
  }
  const lines = [...groups].map(([code, group]) => {
    const xs = [...group.keys()].sort((a, b) => a - b);
    const ordered = xs.map((x) => group.get(x)!);
    const ys = ordered.map((row) => column!.get(row)!);
    let best = 0;
    for (let i = 1; i < ys.length; i++) if (sign * ys[i]! > sign * ys[best]!) best = i;
    return { experiment: store.experiment.texts[code] ?? "", xs, ys, rows: ordered, best };
  });
  lines.sort((a, b) => sign * (b.ys[b.best]! - a.ys[a.best]!) || (a.experiment < b.experiment ? -1 : 1));
  return { lines: lines.slice(0, LINES_MAX), omitted: Math.max(0, lines.length - LINES_MAX), points, placeless };
}

/** One axis for all lines, as uPlot wants it: every x that occurs, and each line's y or nothing at it. */
export function aligned(lines: readonly Line[]): [xs: number[], ...ys: (number | null)[][]] {
  const xs = [...new Set(lines.flatMap((line) => line.xs))].sort((a, b) => a - b);
  const place = new Map(xs.map((x, i) => [x, i]));
  return [
    xs,
    ...lines.map((line) => {
      const ys = new Array<number | null>(xs.length).fill(null);
      line.xs.forEach((x, i) => (ys[place.get(x)!] = line.ys[i]!));
      return ys;
    }),
  ];
}
