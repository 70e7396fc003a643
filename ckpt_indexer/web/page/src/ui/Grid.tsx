// The list of checkpoints. Owns: which rows are in the document, where the keyboard is, and that the place is kept when
// checkpoints come and go.
//
// Only what can be seen is in the document, and the row that the keyboard is at, so that focus is never lost by
// scrolling. Rows have one height: a row's place is its index times that.

import { elementScroll, observeElementOffset, observeElementRect, type Range, Virtualizer, defaultRangeExtractor } from "@tanstack/virtual-core";
import { Component } from "preact";
import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { type ColumnSpec, NAME_COLUMN } from "../columns";
import { cureOf } from "../cures";
import { metricText, timeText, UNKNOWN_TEXT, visible } from "../format";
import * as state from "../state";
import type { Row } from "../store";
import { Star, StatusSign, Tail } from "./icons";
import { NoRows } from "./States";

const ROW_PX = 32;
const NARROW_ROW_PX = 60;
const HEAD_PX = 34;
const CHECK_PX = 40;

const { store } = state;

/** Moves the keyboard's row by *delta*; set by the grid that is drawn, used by keys pressed elsewhere. */
export let moveActive: (delta: number) => void = () => {};

interface RowProps {
  row: Row;
  stamp: number;
  index: number;
  height: number;
  specs: readonly ColumnSpec[];
  template: string;
  isNarrow: boolean;
  isSelected: boolean;
  isTabStop: boolean;
  isOpen: boolean;
  isBest: boolean;
  isNew: boolean;
  bestField: string | undefined;
  now: number;
}

class GridRow extends Component<RowProps> {
  // A scroll draws forty rows sixty times a second: those that stayed the same cost nothing.
  override shouldComponentUpdate(next: RowProps): boolean {
    return (Object.keys(next) as (keyof RowProps)[]).some((name) => next[name] !== this.props[name]);
  }

  override render(props: RowProps) {
    const { row, index } = props;
    const key = store.key[row]!;
    const classes = ["row", store.statusOf(row) !== "ok" && "is-bad", props.isSelected && "is-selected", props.isOpen && "is-open", props.isNew && "is-new"];
    return (
      <div
        role="row"
        id={`row-${index}`}
        class={classes.filter(Boolean).join(" ")}
        aria-rowindex={index + 2}
        aria-selected={props.isSelected}
        tabIndex={props.isTabStop ? 0 : -1}
        data-key={key}
        style={{ transform: `translateY(${index * props.height}px)`, gridTemplateColumns: props.template }}
      >
        <div role="gridcell" class="cell check pinned">
          <input type="checkbox" tabIndex={-1} checked={props.isSelected} aria-label={`Select ${visible(store.name.get(row) ?? key)}`} data-check />
        </div>
        {props.isNarrow ? <NarrowCells {...props} /> : <WideCells {...props} />}
      </div>
    );
  }
}

function NameCell({ row, isBest }: RowProps) {
  const name = visible(store.name.get(row) ?? "");
  const experiment = visible(store.experiment.get(row) ?? "");
  return (
    <div role="rowheader" class="cell name pinned" title={visible(store.key[row]!)}>
      {isBest && (
        <span class="best">
          <Star />
          <span class="sr">best, </span>
        </span>
      )}
      <bdi class="file">{name}</bdi>
      <Tail text={experiment} />
    </div>
  );
}

/** The status, and of a checkpoint with a problem its reason, over the cells beside it that have nothing to say. */
function StatusCell({ row, span }: { row: Row; span: number }) {
  const status = store.statusOf(row);
  const problem = store.problem.get(row);
  const hint = problem === undefined ? undefined : `${cureOf(problem).title}: ${visible(store.messageOf(row) ?? "")}`;
  return (
    <div role="gridcell" class={`cell status status-${status}`} title={hint} aria-colspan={span} style={{ gridColumn: `span ${span}` }}>
      <StatusSign status={status} />
      <span>{status}</span>
      {problem !== undefined && <span class="reason">{cureOf(problem).title}</span>}
    </div>
  );
}

function WideCells(props: RowProps) {
  const { row, specs, now, isBest, bestField } = props;
  const at = specs.findIndex((spec) => spec.name === "status");
  let end = at + 1;
  if (at >= 0 && store.problem.get(row) !== undefined)
    while (end < specs.length && specs[end]!.text(store, row, now) === UNKNOWN_TEXT) end++;
  return (
    <>
      <NameCell {...props} />
      {specs.map((spec, index) => {
        if (index === at) return <StatusCell key={spec.name} row={row} span={end - at} />;
        if (index > at && index < end) return null;
        const isBestCell = isBest && spec.name === bestField;
        return (
          <div key={spec.name} role="gridcell" class={`cell${spec.isNumber ? " number" : ""}${isBestCell ? " best-value" : ""}`} title={spec.hint?.(store, row)}>
            {spec.text(store, row, now)}
          </div>
        );
      })}
      <div class="cell" role="presentation" />
    </>
  );
}

function NarrowCells({ row, isBest, bestField, now }: RowProps) {
  const status = store.statusOf(row);
  const problem = store.problem.get(row);
  const metric = bestField?.slice("metrics.".length);
  const value = metric === undefined ? undefined : store.metric(metric)?.get(row);
  const epoch = store.epoch.get(row);
  return (
    <>
      <div role="rowheader" class="cell narrow-name">
        <div class="line">
          {isBest && (
            <span class="best">
              <Star />
              <span class="sr">best, </span>
            </span>
          )}
          <bdi class="file">{visible(store.name.get(row) ?? "")}</bdi>
        </div>
        <div class="line second">
          <span class={`status status-${status}`}>
            <StatusSign status={status} />
            {problem === undefined ? status : cureOf(problem).title}
          </span>
          <Tail text={visible(store.experiment.get(row) ?? "")} />
        </div>
      </div>
      <div role="gridcell" class="cell narrow-value">
        <div class={isBest ? "line best-value" : "line"}>{status === "ok" ? metricText(value) : ""}</div>
        <div class="line second">{epoch === undefined ? timeText(store.modified.get(row), now) : `epoch ${epoch}`}</div>
      </div>
    </>
  );
}

function Head({ specs, template }: { specs: readonly ColumnSpec[]; template: string }) {
  const { field, descending } = state.order.value;
  const [stop, setStop] = useState(0);
  const all = [NAME_COLUMN, ...specs];
  const move = (event: KeyboardEvent) => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (step) {
      const next = Math.max(0, Math.min(all.length - 1, stop + step));
      setStop(next);
      (event.currentTarget as HTMLElement).querySelectorAll("button")[next]?.focus();
    } else if (event.key === "ArrowDown") moveActive(0);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <div role="row" class="row head" aria-rowindex={1} style={{ gridTemplateColumns: template }} onKeyDown={move}>
      <div role="columnheader" class="cell check pinned">
        <span class="sr">Selected</span>
      </div>
      {all.map((spec, index) => {
        const isSorted = spec.name === field;
        return (
          <div
            key={spec.name}
            role="columnheader"
            class={`cell${spec.isNumber ? " number" : ""}${index === 0 ? " name pinned" : ""}`}
            {...(isSorted ? { "aria-sort": descending ? "descending" : "ascending" } : {})}
          >
            <button
              type="button"
              class={isSorted ? "sort is-sorted" : "sort"}
              tabIndex={index === Math.min(stop, all.length - 1) ? 0 : -1}
              title={`Sort by ${spec.title}`}
              onFocus={() => setStop(index)}
              onClick={() => state.toggleOrder(spec.name, spec.descendingFirst)}
            >
              <bdi>{spec.title}</bdi>
              <span class="arrow" aria-hidden="true">
                {isSorted ? (descending ? "↓" : "↑") : ""}
              </span>
            </button>
          </div>
        );
      })}
      <div class="cell" role="presentation" />
    </div>
  );
}

function templateOf(specs: readonly ColumnSpec[]): string {
  return `${CHECK_PX}px ${NAME_COLUMN.width}px ${specs.map((spec) => `${spec.width}px`).join(" ")} minmax(0, 1fr)`;
}

export function Grid() {
  const scroller = useRef<HTMLDivElement>(null);
  const [, redraw] = useState(0);
  const isFocusWanted = useRef(false);
  const isNarrow = state.isNarrow.value;
  const height = isNarrow ? NARROW_ROW_PX : ROW_PX;
  const headHeight = isNarrow ? 0 : HEAD_PX;
  const view = state.view.value;
  const { rows } = view;
  const version = state.storeVersion.value;
  const specs = state.columnSpecs.value;
  const template = useMemo(() => (isNarrow ? `${CHECK_PX}px minmax(0, 1fr) auto` : templateOf(specs)), [specs, isNarrow]);
  const width = isNarrow ? 0 : CHECK_PX + NAME_COLUMN.width + specs.reduce((sum, spec) => sum + spec.width, 0);

  const activeKey = state.active.value;
  const activeIndex = useMemo(() => {
    const row = activeKey === undefined ? undefined : store.rowOf.get(activeKey);
    return row === undefined ? -1 : rows.indexOf(row);
  }, [activeKey, rows, version]);

  const virtualizer = useMemo(
    () =>
      new Virtualizer<HTMLDivElement, HTMLDivElement>({
        count: 0,
        getScrollElement: () => scroller.current,
        estimateSize: () => ROW_PX,
        scrollToFn: elementScroll,
        observeElementRect,
        observeElementOffset,
      }),
    [],
  );
  virtualizer.setOptions({
    ...virtualizer.options,
    count: rows.length,
    estimateSize: () => height,
    overscan: 12,
    scrollMargin: headHeight,
    scrollPaddingStart: headHeight,
    rangeExtractor: (range: Range) => {
      const shown = defaultRangeExtractor(range);
      if (activeIndex < 0 || shown.includes(activeIndex)) return shown;
      return activeIndex < (shown[0] ?? 0) ? [activeIndex, ...shown] : [...shown, activeIndex];
    },
    onChange: () => redraw((count) => count + 1),
  });
  useLayoutEffect(() => virtualizer._didMount(), []);
  useLayoutEffect(() => virtualizer._willUpdate());
  useLayoutEffect(() => virtualizer.measure(), [height]);

  // The place: what stood first in sight stands there again, when the rows changed and not the question.
  const anchor = useRef<{ key: string; offset: number } | undefined>(undefined);
  const drawn = useRef(view);
  useLayoutEffect(() => {
    const element = scroller.current;
    if (!element || drawn.current === view) return;
    drawn.current = view;
    if (view.cause === "question") {
      if (activeIndex >= 0) virtualizer.scrollToIndex(activeIndex, { align: "center" });
      else element.scrollTop = 0;
    } else if (anchor.current && element.scrollTop > 0) {
      const row = store.rowOf.get(anchor.current.key);
      const index = row === undefined ? -1 : rows.indexOf(row);
      if (index >= 0) element.scrollTop = index * height + anchor.current.offset;
    }
  }, [view]);
  const remember = () => {
    const element = scroller.current;
    if (!element) return;
    const index = Math.floor(element.scrollTop / height);
    const row = rows[index];
    anchor.current = row === undefined ? undefined : { key: store.key[row]!, offset: element.scrollTop - index * height };
  };

  const goTo = (index: number) => {
    if (rows.length === 0) return;
    const at = Math.max(0, Math.min(rows.length - 1, index));
    const key = store.key[rows[at]!]!;
    isFocusWanted.current = true;
    state.active.value = key;
    virtualizer.scrollToIndex(at, { align: "auto" });
    if (state.page.peek().open !== undefined && !isNarrow) state.openDetail(key);
    redraw((count) => count + 1);
  };
  moveActive = (delta) => goTo(activeIndex < 0 ? 0 : activeIndex + delta);
  useLayoutEffect(() => {
    if (!isFocusWanted.current) return;
    const element = document.getElementById(`row-${activeIndex}`);
    if (!element) return;
    isFocusWanted.current = false;
    element.focus({ preventScroll: true });
  });

  const onKeyDown = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor((scroller.current!.clientHeight - headHeight) / height) - 1);
    const key = activeKey;
    switch (event.key) {
      case "ArrowDown": moveActive(1); break;
      case "ArrowUp":
        if (activeIndex <= 0) scroller.current!.querySelector<HTMLElement>(".head [tabindex='0']")?.focus();
        else moveActive(-1);
        break;
      case "PageDown": moveActive(page); break;
      case "PageUp": moveActive(-page); break;
      case "Home": goTo(0); break;
      case "End": goTo(rows.length - 1); break;
      case "ArrowRight": scroller.current!.scrollBy({ left: 120 }); break;
      case "ArrowLeft": scroller.current!.scrollBy({ left: -120 }); break;
      case "Enter": if (key !== undefined) openAndFocus(key); break;
      case "x": case " ": if (key !== undefined) state.toggleSelected(key); break;
      default: return;
    }
    event.preventDefault();
    event.stopPropagation();
  };

  const onClick = (event: MouseEvent) => {
    const element = event.target as HTMLElement;
    const key = element.closest<HTMLElement>("[data-key]")?.dataset["key"];
    if (key === undefined) return;
    isFocusWanted.current = true;
    state.active.value = key;
    if (element.closest(".check")) {
      state.toggleSelected(key);
      // What is checked follows from the state, also when a fifth was refused; after the browser's own toggling.
      const box = element.closest(".check")!.querySelector("input")!;
      setTimeout(() => (box.checked = state.selected.peek().has(key)));
    } else state.openDetail(key);
    redraw((count) => count + 1);
  };

  const { bestMetric, bestRow } = state;
  const best = bestRow.value;
  const bestField = bestMetric.value === undefined ? undefined : `metrics.${bestMetric.value}`;
  const selected = state.selected.value;
  const arrivals = state.arrivals.value;
  const open = state.page.value.open;
  const now = state.now.value;
  const isEmpty = rows.length === 0;
  return (
    <div class="grid-place">
      <div
        ref={scroller}
        class={`grid${isNarrow ? " is-narrow" : ""}${selected.size ? " has-selection" : ""}`}
        role="grid"
        aria-label="Checkpoints"
        aria-rowcount={rows.length + 1}
        aria-colcount={isNarrow ? 3 : specs.length + 2}
        aria-multiselectable="true"
        aria-busy={state.connection.value.state === "loading"}
        onScroll={remember}
        onClick={onClick}
      >
        {isNarrow ? (
          <div role="row" class="sr" aria-rowindex={1}>
            <span role="columnheader">Selected</span>
            <span role="columnheader">Checkpoint</span>
            <span role="columnheader">Value</span>
          </div>
        ) : (
          <Head specs={specs} template={template} />
        )}
        <div role="rowgroup" class="body" style={{ height: `${rows.length * height}px`, minWidth: `${width}px` }} onKeyDown={onKeyDown}>
          {virtualizer.getVirtualItems().map(({ index }) => {
            const row = rows[index];
            if (row === undefined) return null;
            const key = store.key[row]!;
            return (
              <GridRow
                key={key}
                row={row}
                stamp={store.stamp(row)}
                index={index}
                height={height}
                specs={specs}
                template={template}
                isNarrow={isNarrow}
                isSelected={selected.has(key)}
                isTabStop={activeIndex < 0 ? index === 0 : index === activeIndex}
                isOpen={open === key}
                isBest={row === best}
                isNew={arrivals.has(key)}
                bestField={bestField}
                now={now}
              />
            );
          })}
        </div>
      </div>
      {isEmpty && (
        <div class="no-rows">
          <NoRows />
        </div>
      )}
    </div>
  );
}

function openAndFocus(key: string): void {
  state.openDetail(key);
  // The panel is drawn by then; focus goes there, and comes back when it is closed.
  requestAnimationFrame(() => document.getElementById("detail-title")?.focus());
}

/** Focus goes back to the row of *key*, or to the list. */
export function focusRow(): void {
  moveActive(0);
}
