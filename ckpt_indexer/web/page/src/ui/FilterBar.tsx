// The bar of filters above the list: one chip each, what is set written on it. Also the best, the order (where there is
// no head to click) and the choice of columns.

import { useMemo, useState } from "preact/hooks";
import { columnSpec, FIXED_COLUMNS, NAME_COLUMN, usualColumns } from "../columns";
import { dateText, metricText, momentText, visible } from "../format";
import * as state from "../state";
import type { TextColumn } from "../store";
import { STATUSES } from "../types";
import { type Operator, OPERATORS, UNKNOWN } from "../view";
import { Icon, Star, StatusSign, Tail } from "./icons";
import { Menu } from "./Menu";

const { store } = state;
const CHOICES_SHOWN = 200; // more are found by typing

function toggled(list: readonly string[], text: string): string[] {
  return list.includes(text) ? list.filter((other) => other !== text) : [...list, text];
}

interface Choice {
  text: string;
  count: number;
}

/** What a column holds, how often, the most frequent first. */
function choicesOf(column: TextColumn): Choice[] {
  const counts = new Map<number, number>();
  for (const row of store.rows()) {
    const code = column.codes[row]!;
    counts.set(code, (counts.get(code) ?? 0) + 1);
  }
  return [...counts]
    .map(([code, count]) => ({ text: column.texts[code] ?? UNKNOWN, count }))
    .sort((a, b) => b.count - a.count || (a.text < b.text ? -1 : 1));
}

function label(title: string, chosen: readonly string[]) {
  if (!chosen.length) return <span>{title}</span>;
  const first = visible(chosen[0]! || "not known");
  return (
    <span class="chip-text">
      {title}: <b>{chosen.length === 1 ? <bdi>{first}</bdi> : `${chosen.length} chosen`}</b>
    </span>
  );
}

function ChoiceMenu({ title, column, chosen, onChange }: { title: string; column: TextColumn; chosen: readonly string[]; onChange: (chosen: string[]) => void }) {
  return (
    <Menu title={title} label={label(title, chosen)} isActive={chosen.length > 0} onClear={chosen.length ? () => onChange([]) : undefined}>
      {() => <Choices title={title} column={column} chosen={chosen} onChange={onChange} />}
    </Menu>
  );
}

function Choices({ title, column, chosen, onChange }: { title: string; column: TextColumn; chosen: readonly string[]; onChange: (chosen: string[]) => void }) {
  const [typed, setTyped] = useState("");
  const version = state.storeVersion.value;
  const all = useMemo(() => choicesOf(column), [version]);
  const found = all.filter(({ text }) => text.toLowerCase().includes(typed.toLowerCase()));
  // What is chosen stays in sight, also where nothing has it any more.
  const gone = chosen.filter((text) => !all.some((choice) => choice.text === text)).map((text) => ({ text, count: 0 }));
  const shown = [...gone, ...found.slice(0, CHOICES_SHOWN)];
  return (
    <>
      {all.length > 8 && (
        <input class="input" type="search" placeholder={`Find ${title.toLowerCase()}…`} aria-label={`Find ${title.toLowerCase()}`} value={typed} onInput={(event) => setTyped(event.currentTarget.value)} />
      )}
      <div class="choices" role="group" aria-label={title}>
        {shown.map(({ text, count }) => (
          <label key={text} class="choice">
            <input type="checkbox" checked={chosen.includes(text)} onChange={() => onChange(toggled(chosen, text))} />
            {text === UNKNOWN ? <span class="grow muted">not known</span> : <Tail text={visible(text)} />}
            <span class="muted">{count.toLocaleString("en-US")}</span>
          </label>
        ))}
        {shown.length === 0 && <p class="muted">Nothing is called so.</p>}
        {found.length > CHOICES_SHOWN && <p class="muted">{(found.length - CHOICES_SHOWN).toLocaleString("en-US")} more: type to find them.</p>}
      </div>
    </>
  );
}

function StatusMenu() {
  const chosen = state.filters.value.statuses;
  const change = (statuses: string[]) => state.setFilters({ statuses });
  return (
    <Menu title="Status" label={label("Status", chosen)} isActive={chosen.length > 0} onClear={chosen.length ? () => change([]) : undefined}>
      {() => {
        const counts = new Map(choicesOf(store.status).map(({ text, count }) => [text, count]));
        return (
          <div class="choices" role="group" aria-label="Status">
            {STATUSES.map((status) => (
              <label key={status} class="choice">
                <input type="checkbox" checked={chosen.includes(status)} onChange={() => change(toggled(chosen, status))} />
                <span class={`grow status status-${status}`}>
                  <StatusSign status={status} />
                  {status}
                </span>
                <span class="muted">{(counts.get(status) ?? 0).toLocaleString("en-US")}</span>
              </label>
            ))}
          </div>
        );
      }}
    </Menu>
  );
}

const HOUR_MS = 3_600_000;
const SPANS: readonly [string, number][] = [
  ["Last hour", HOUR_MS],
  ["Last 24 hours", 24 * HOUR_MS],
  ["Last 7 days", 7 * 24 * HOUR_MS],
  ["Last 30 days", 30 * 24 * HOUR_MS],
];

/** As an input of the kind datetime-local has it: local time without a zone. */
function localText(time: number | undefined): string {
  return time === undefined ? "" : momentText(time).slice(0, 16).replace(" ", "T");
}

function DateMenu() {
  const { since, until } = state.filters.value;
  const isActive = since !== undefined || until !== undefined;
  const text = [since !== undefined && `from ${dateText(since)}`, until !== undefined && `until ${dateText(until)}`].filter(Boolean).join(" ");
  const timeOf = (value: string) => (value ? new Date(value).getTime() : undefined);
  return (
    <Menu
      title="Date"
      label={isActive ? <span class="chip-text">Date: <b>{text}</b></span> : <span>Date</span>}
      isActive={isActive}
      onClear={isActive ? () => state.setFilters({ since: undefined, until: undefined }) : undefined}
    >
      {(close) => (
        <>
          <div class="spans">
            {SPANS.map(([title, span]) => (
              <button key={title} type="button" class="button" onClick={() => { state.setFilters({ since: Date.now() - span, until: undefined }); close(); }}>
                {title}
              </button>
            ))}
          </div>
          <label class="field">
            Written from
            <input class="input" type="datetime-local" value={localText(since)} onChange={(event) => state.setFilters({ since: timeOf(event.currentTarget.value) })} />
          </label>
          <label class="field">
            until
            <input class="input" type="datetime-local" value={localText(until)} onChange={(event) => state.setFilters({ until: timeOf(event.currentTarget.value) })} />
          </label>
        </>
      )}
    </Menu>
  );
}

const OPERATOR_SIGNS: Record<Operator, string> = { ">=": "≥", "<=": "≤", ">": ">", "<": "<" };

function MetricMenu() {
  const { thresholds } = state.filters.value;
  const change = (next: typeof thresholds) => state.setFilters({ thresholds: next });
  return (
    <>
      {thresholds.map((threshold, index) => (
        <div key={index} class="chip is-active">
          <span class="chip-text chip-plain">
            <bdi>{visible(threshold.metric)}</bdi> <b>{OPERATOR_SIGNS[threshold.operator]} {metricText(threshold.value)}</b>
          </span>
          <button type="button" class="chip-clear" aria-label={`Clear: ${visible(threshold.metric)}`} onClick={() => change(thresholds.filter((_, other) => other !== index))}>
            <Icon name="close" />
          </button>
        </div>
      ))}
      <Menu title="Metric threshold" label={<span>Metric</span>}>
        {(close) => <ThresholdForm onDone={close} />}
      </Menu>
    </>
  );
}

function ThresholdForm({ onDone }: { onDone: () => void }) {
  const names = state.metricNames.value;
  const [metric, setMetric] = useState(state.bestMetric.peek() ?? names[0] ?? "");
  const [operator, setOperator] = useState<Operator>(state.bestMode.peek() === "min" ? "<=" : ">=");
  const [typed, setTyped] = useState("");
  const value = Number(typed.replace(",", "."));
  const isGood = typed.trim() !== "" && Number.isFinite(value) && metric !== "";
  if (!names.length) return <p class="muted">No checkpoint has a metric.</p>;
  return (
    <form
      class="threshold"
      onSubmit={(event) => {
        event.preventDefault();
        if (!isGood) return;
        state.setFilters({ thresholds: [...state.filters.peek().thresholds, { metric, operator, value }] });
        onDone();
      }}
    >
      <label class="field">
        Metric
        <select class="input" value={metric} onChange={(event) => setMetric(event.currentTarget.value)}>
          {names.map((name) => (
            <option key={name} value={name}>
              {visible(name)}
            </option>
          ))}
        </select>
      </label>
      <div class="pair">
        <select class="input" aria-label="Comparison" value={operator} onChange={(event) => setOperator(event.currentTarget.value as Operator)}>
          {OPERATORS.map((sign) => (
            <option key={sign} value={sign}>
              {OPERATOR_SIGNS[sign]}
            </option>
          ))}
        </select>
        <input class="input" inputMode="decimal" aria-label="Threshold" placeholder="0.9" value={typed} onInput={(event) => setTyped(event.currentTarget.value)} />
        <button type="submit" class="button primary" disabled={!isGood}>
          Add
        </button>
      </div>
    </form>
  );
}

function ColumnsMenu() {
  const chosen = state.columns.value;
  const metrics = state.metricNames.value.map((name) => `metrics.${name}`);
  const choices = [...metrics, ...FIXED_COLUMNS.map((column) => column.name)];
  // Columns keep one order, so that a choice never moves what was there.
  const usual = usualColumns(store);
  const place = (name: string) => {
    const at = usual.indexOf(name);
    return at >= 0 ? at : name.startsWith("metrics.") ? 1 + metrics.indexOf(name) / 1000 : 100 + choices.indexOf(name);
  };
  const toggle = (name: string) => state.setColumns(toggled(chosen, name).sort((a, b) => place(a) - place(b)));
  return (
    <Menu title="Columns" alignRight label={<><Icon name="columns" /><span>Columns</span></>}>
      {() => (
        <>
          <div class="choices" role="group" aria-label="Columns">
            {choices.map((name) => (
              <label key={name} class="choice">
                <input type="checkbox" checked={chosen.includes(name)} onChange={() => toggle(name)} />
                <bdi class="grow">{columnSpec(name)!.title}</bdi>
                {name.startsWith("metrics.") && <span class="muted">metric</span>}
              </label>
            ))}
          </div>
          <button type="button" class="button" disabled={state.page.value.columns === undefined} onClick={() => state.setColumns(undefined)}>
            The usual columns
          </button>
        </>
      )}
    </Menu>
  );
}

function OrderMenu() {
  const { field, descending } = state.order.value;
  const specs = [NAME_COLUMN, ...state.columnSpecs.value];
  const current = specs.find((spec) => spec.name === field);
  return (
    <Menu title="Order" label={<span class="chip-text">Sort: <b><bdi>{current?.title ?? field}</bdi> {descending ? "↓" : "↑"}</b></span>}>
      {(close) => (
        <div class="choices">
          {specs.map((spec) => (
            <button key={spec.name} type="button" class="choice" aria-pressed={spec.name === field} onClick={() => { state.toggleOrder(spec.name, spec.descendingFirst); close(); }}>
              <bdi class="grow">{spec.title}</bdi>
              {spec.name === field && <span aria-hidden="true">{descending ? "↓" : "↑"}</span>}
            </button>
          ))}
        </div>
      )}
    </Menu>
  );
}

/** The best checkpoint among those shown: by which metric, which way, and which one it is. */
export function Best() {
  const names = state.metricNames.value;
  const metric = state.bestMetric.value;
  const mode = state.bestMode.value;
  const row = state.bestRow.value;
  if (metric === undefined) return null;
  const listed = names.includes(metric) ? names : [metric, ...names];
  return (
    <div class="best-bar">
      <span class="best">
        <Star />
      </span>
      <label>
        Best <span class="sr">by metric</span>
        <select class="input plain" value={metric} onChange={(event) => state.setBest(event.currentTarget.value, undefined)}>
          {listed.map((name) => (
            <option key={name} value={name}>
              {visible(name)}
            </option>
          ))}
        </select>
      </label>
      <button type="button" class="button quiet" title="The other direction" aria-label={`${mode === "max" ? "highest" : "lowest"} is best: change`} onClick={() => state.setBest(metric, mode === "max" ? "min" : "max")}>
        {mode === "max" ? "highest" : "lowest"}
      </button>
      {row === undefined ? (
        <span class="muted">none that is shown has it</span>
      ) : (
        <button type="button" class="best-link" onClick={() => state.openDetail(store.key[row]!)}>
          <b class="number">{metricText(store.metric(metric)?.get(row))}</b>
          <bdi class="file">{visible(store.name.get(row) ?? "")}</bdi>
          <Tail text={visible(store.experiment.get(row) ?? "")} />
        </button>
      )}
    </div>
  );
}

export function FilterBar({ hasColumns }: { hasColumns: boolean }) {
  const shown = state.view.value.rows.length;
  state.storeVersion.value;
  const { experiments, architectures } = state.filters.value;
  const isFiltered = shown !== store.size;
  const isNarrow = state.isNarrow.value;
  return (
    <div class="filter-bar" role="group" aria-label="Filters">
      <ChoiceMenu title="Experiment" column={store.experiment} chosen={experiments} onChange={(chosen) => state.setFilters({ experiments: chosen })} />
      <StatusMenu />
      <ChoiceMenu title="Architecture" column={store.architecture} chosen={architectures} onChange={(chosen) => state.setFilters({ architectures: chosen })} />
      <DateMenu />
      <MetricMenu />
      {isFiltered && (
        <button type="button" class="button quiet" onClick={state.clearFilters}>
          Clear all
        </button>
      )}
      <div class="bar-end">
        <span class="count" data-count>
          {isFiltered ? `${shown.toLocaleString("en-US")} of ` : ""}
          {store.size.toLocaleString("en-US")}
          <span class="sr"> checkpoints</span>
        </span>
        {isNarrow && hasColumns && <OrderMenu />}
        {!isNarrow && hasColumns && <ColumnsMenu />}
      </div>
    </div>
  );
}
