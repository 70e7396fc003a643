// A metric over epoch or step, one line an experiment, the best of each ringed and the best of all starred. The table
// beside the picture says the same in words, and is what the keyboard uses.

import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import uPlot from "uplot";
import { aligned, type Chart, chartOf } from "../chart";
import { countText, metricText, plural, visible } from "../format";
import * as state from "../state";
import { FilterBar } from "./FilterBar";
import { Star, Tail } from "./icons";

const { store } = state;
const COLOURS = 6;
const DASHES: (number[] | undefined)[] = [undefined, [6, 4]]; // twelve lines: six colours, whole and dashed

/** The page's own colour of a custom property, as the canvas needs it. */
function colourOf(name: string): string {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

function strokes(count: number): string[] {
  const colours = Array.from({ length: COLOURS }, (_, index) => colourOf(`--line-${index + 1}`));
  return Array.from({ length: count }, (_, index) => colours[index % COLOURS]!);
}

interface Pointed {
  line: number;
  point: number;
}

/** Ring the best point of each line, and fill that of the first line: lines come best first. */
function drawBest(plot: uPlot, chart: Chart, hidden: ReadonlySet<string>, colours: readonly string[], ground: string, text: string): void {
  const { ctx } = plot;
  const ratio = devicePixelRatio || 1;
  let isFirst = true;
  ctx.save();
  chart.lines.forEach((line, index) => {
    if (hidden.has(line.experiment)) return;
    const x = plot.valToPos(line.xs[line.best]!, "x", true);
    const y = plot.valToPos(line.ys[line.best]!, "y", true);
    ctx.beginPath();
    ctx.arc(x, y, (isFirst ? 6.5 : 4.5) * ratio, 0, 2 * Math.PI);
    ctx.fillStyle = isFirst ? colours[index]! : ground;
    ctx.fill();
    ctx.lineWidth = 2 * ratio;
    ctx.strokeStyle = isFirst ? ground : colours[index]!;
    ctx.stroke();
    if (isFirst) {
      ctx.fillStyle = text;
      ctx.font = `600 ${12 * ratio}px ${getComputedStyle(document.body).fontFamily}`;
      ctx.textAlign = x > plot.bbox.left + plot.bbox.width * 0.85 ? "right" : "center";
      ctx.fillText(metricText(line.ys[line.best]), x, y - 12 * ratio);
    }
    isFirst = false;
  });
  ctx.restore();
}

function Picture({ chart, title, by, hidden, onPoint }: { chart: Chart; title: string; by: string; hidden: ReadonlySet<string>; onPoint: (pointed: Pointed | undefined, left: number, top: number) => void }) {
  const host = useRef<HTMLDivElement>(null);
  const plotted = useRef<uPlot | undefined>(undefined);
  const themeNow = state.theme.value;
  const isDark = useSignal(matchMedia("(prefers-color-scheme: dark)").matches);
  useEffect(() => {
    const query = matchMedia("(prefers-color-scheme: dark)");
    const look = () => (isDark.value = query.matches);
    query.addEventListener("change", look);
    return () => query.removeEventListener("change", look);
  }, []);
  useLayoutEffect(() => {
    const element = host.current!;
    const colours = strokes(chart.lines.length);
    const [text, grid, ground] = [colourOf("--muted"), colourOf("--border"), colourOf("--ground")];
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { stroke: text, font, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 4 } };
    const points = Math.max(0, ...chart.lines.map((line) => line.xs.length));
    const plot = new uPlot(
      {
        width: Math.max(240, element.clientWidth),
        height: Math.max(200, element.clientHeight),
        padding: [24, 16, 0, 0],
        legend: { show: false },
        scales: { x: { time: false } },
        cursor: { y: false, focus: { prox: 24 }, points: { size: 8 } },
        focus: { alpha: 0.25 },
        axes: [
          { ...axis, space: 64, values: (_, splits) => splits.map((value) => (Number.isInteger(value) ? countText(value) : "")) },
          { ...axis, size: 64, values: (_, splits) => splits.map((value) => metricAxisText(value)) },
        ],
        series: [
          {},
          ...chart.lines.map((line, index): uPlot.Series => {
            const dash = DASHES[Math.floor(index / COLOURS) % DASHES.length];
            return {
              label: line.experiment,
              stroke: colours[index]!,
              width: 1.75,
              spanGaps: true,
              show: !hidden.has(line.experiment),
              points: { show: points <= 60, size: 4 },
              ...(dash ? { dash } : {}),
            };
          }),
        ],
        hooks: {
          draw: [(drawn) => drawBest(drawn, chart, hidden, colours, ground, colourOf("--text"))],
          setCursor: [
            (drawn) => {
              const { left = -1, top = -1 } = drawn.cursor;
              onPoint(left < 0 ? undefined : nearest(drawn, chart, hidden, left, top), left, top);
            },
          ],
        },
      },
      aligned(chart.lines) as uPlot.AlignedData,
      element,
    );
    plotted.current = plot;
    const resized = new ResizeObserver(() => plot.setSize({ width: Math.max(240, element.clientWidth), height: Math.max(200, element.clientHeight) }));
    resized.observe(element);
    return () => {
      resized.disconnect();
      plot.destroy();
    };
  }, [chart, hidden, themeNow, isDark.value]);
  return <div ref={host} class="picture" role="img" aria-label={`${title} over ${by}, ${plural(chart.lines.length, "experiment")}; the table says the same`} />;
}

function metricAxisText(value: number): string {
  return Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(1) : String(Number(value.toPrecision(6)));
}

const NEAR_PX = 32;

function nearest(plot: uPlot, chart: Chart, hidden: ReadonlySet<string>, left: number, top: number): Pointed | undefined {
  let found: Pointed | undefined;
  let distance = NEAR_PX * NEAR_PX;
  chart.lines.forEach((line, index) => {
    if (hidden.has(line.experiment)) return;
    line.xs.forEach((x, point) => {
      const [dx, dy] = [plot.valToPos(x, "x") - left, plot.valToPos(line.ys[point]!, "y") - top];
      if (dx * dx + dy * dy < distance) {
        distance = dx * dx + dy * dy;
        found = { line: index, point };
      }
    });
  });
  return found;
}

export function Charts() {
  const metric = state.bestMetric.value;
  const mode = state.bestMode.value;
  const by = state.page.value.chartBy;
  const view = state.view.value;
  const hidden = useSignal<ReadonlySet<string>>(new Set());
  const pointed = useSignal<{ at: Pointed; left: number; top: number } | undefined>(undefined);
  const chart = useMemo(
    () => (metric === undefined ? undefined : chartOf(store, view.rows, metric, by, mode)),
    [view, metric, by, mode],
  );
  const names = state.metricNames.value;
  const toggle = (experiment: string) => {
    const next = new Set(hidden.value);
    if (!next.delete(experiment)) next.add(experiment);
    hidden.value = next;
  };
  const shownPoint = pointed.value && chart?.lines[pointed.value.at.line];
  const pointedRow = shownPoint?.rows[pointed.value!.at.point];
  return (
    <section class="charts" aria-label="Charts">
      <FilterBar hasColumns={false} />
      <div class="toolbar">
        <label class="field inline">
          Metric
          <select class="input" value={metric ?? ""} onChange={(event) => state.setBest(event.currentTarget.value, undefined)}>
            {names.map((name) => (
              <option key={name} value={name}>
                {visible(name)}
              </option>
            ))}
          </select>
        </label>
        <div class="segments" role="group" aria-label="Best is">
          {(["max", "min"] as const).map((value) => (
            <button key={value} type="button" class="segment" aria-pressed={mode === value} onClick={() => metric !== undefined && state.setBest(metric, value)}>
              {value === "max" ? "highest best" : "lowest best"}
            </button>
          ))}
        </div>
        <div class="segments" role="group" aria-label="Horizontal axis">
          {(["epoch", "step"] as const).map((value) => (
            <button key={value} type="button" class="segment" aria-pressed={by === value} onClick={() => state.setChartBy(value)}>
              by {value}
            </button>
          ))}
        </div>
        <span class="grow" />
        {chart && chart.omitted > 0 && (
          <span class="muted">
            The best {chart.lines.length} of {countText(chart.lines.length + chart.omitted)} experiments: filter to choose others.
          </span>
        )}
        {chart && chart.placeless > 0 && <span class="muted">{plural(chart.placeless, "checkpoint")} without {by === "epoch" ? "an epoch" : "a step"} not drawn.</span>}
      </div>
      {!chart || chart.lines.length === 0 || metric === undefined ? (
        <section class="nothing">
          <h2>Nothing to draw</h2>
          <p>
            {metric === undefined
              ? "No checkpoint here has a metric. Metrics come from the checkpoint itself, its sidecar, or the training callback."
              : `No checkpoint that is shown has ${visible(metric)} and ${by === "epoch" ? "an epoch" : "a step"}. Choose another metric or axis, or clear filters.`}
          </p>
          <button type="button" class="button primary" onClick={state.clearFilters}>
            Clear all filters
          </button>
        </section>
      ) : (
        <div class="chart-area">
          <div class="picture-frame">
            <h2 class="picture-title">
              <bdi>{visible(metric)}</bdi> <span class="muted">over {by}</span>
            </h2>
            <div
              class="picture-place"
              onClick={() => pointedRow !== undefined && state.openDetail(store.key[pointedRow]!)}
              onPointerLeave={() => (pointed.value = undefined)}
            >
              <Picture
                chart={chart}
                title={visible(metric)}
                by={by}
                hidden={hidden.value}
                onPoint={(at, left, top) => (pointed.value = at && { at, left, top })}
              />
              {shownPoint && pointedRow !== undefined && (
                <div class={pointed.value!.left > 260 ? "tip is-left" : "tip"} style={{ left: `${pointed.value!.left + 64}px`, top: `${pointed.value!.top + 24}px` }} aria-hidden="true">
                  <b class="number">{metricText(shownPoint.ys[pointed.value!.at.point])}</b>
                  <span>
                    {by} {countText(shownPoint.xs[pointed.value!.at.point])}
                    {pointed.value!.at.point === shownPoint.best ? ", its best" : ""}
                  </span>
                  <bdi class="muted">{visible(shownPoint.experiment)}</bdi>
                  <bdi class="muted">{visible(store.name.get(pointedRow) ?? "")}</bdi>
                </div>
              )}
            </div>
          </div>
          <div class="legend" tabIndex={0} role="region" aria-label="Experiments in the chart">
            <table>
              <thead>
                <tr>
                  <th scope="col">Experiment</th>
                  <th scope="col" class="number">
                    Best
                  </th>
                  <th scope="col" class="number">
                    {by === "epoch" ? "Epoch" : "Step"}
                  </th>
                </tr>
              </thead>
              <tbody>
                {chart.lines.map((line, index) => (
                  <tr key={line.experiment} class={hidden.value.has(line.experiment) ? "is-hidden" : undefined}>
                    <th scope="row">
                      <label class="legend-name">
                        <input type="checkbox" checked={!hidden.value.has(line.experiment)} onChange={() => toggle(line.experiment)} aria-label={`Show ${visible(line.experiment)}`} />
                        <svg class={`swatch line-${(index % COLOURS) + 1}`} viewBox="0 0 20 8" aria-hidden="true">
                          <path d="M1 4h18" stroke-dasharray={index >= COLOURS ? "5 3" : undefined} />
                        </svg>
                        <Tail text={visible(line.experiment)} />
                      </label>
                    </th>
                    <td class="number">
                      <button type="button" class="link" onClick={() => state.openDetail(store.key[line.rows[line.best]!]!)} title="Open this checkpoint">
                        {index === 0 && (
                          <span class="best">
                            <Star />
                            <span class="sr">best of all </span>
                          </span>
                        )}
                        {metricText(line.ys[line.best])}
                      </button>
                    </td>
                    <td class="number">{countText(line.xs[line.best])}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </div>
      )}
    </section>
  );
}
