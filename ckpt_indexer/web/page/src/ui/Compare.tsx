// Two to four checkpoints side by side: what differs is tinted and marked, metrics say how far they are from the first.

import { useEffect, useState } from "preact/hooks";
import { asNumber, COMPARED_MAX, COMPARED_MIN, type ComparedRow, type Comparison, deltaText, groupRows, groupTitle, toCsv, toMarkdown, withMetricsIn } from "../compare";
import { metricText, momentText, plural, sizeText, valueText, visible } from "../format";
import { getJson } from "../protocol";
import * as state from "../state";
import { directionOf, isJudged } from "../view";
import { Icon, Star, StatusSign } from "./icons";

const { store } = state;

function useComparison(keys: readonly string[]) {
  const [answer, setAnswer] = useState<{ comparison?: Comparison; failure?: string }>({});
  const version = keys.map((key) => store.stamp(store.rowOf.get(key) ?? -1) ?? 0).join();
  useEffect(() => {
    if (keys.length < COMPARED_MIN) return;
    const stop = new AbortController();
    const query = keys.map((key) => `key=${encodeURIComponent(key)}`).join("&");
    getJson<Comparison>(state.caller, `api/compare?${query}`, stop.signal).then(
      (comparison) => setAnswer({ comparison: withMetricsIn(comparison, store.metricNames()) }),
      (error: Error) => stop.signal.aborted || setAnswer({ failure: error.message }),
    );
    return () => stop.abort();
  }, [keys.join("\n"), version]);
  return answer;
}

function cellText(row: ComparedRow, value: unknown): string {
  if (row.group === "checkpoint" && typeof value === "number" && row.name.startsWith("size")) return sizeText(value);
  if (row.group === "checkpoint" && row.name === "mtime" && typeof value === "string") return momentText(Date.parse(value));
  const number = asNumber(value);
  if (row.group === "metrics" && number !== undefined) return metricText(number);
  if (typeof value === "number") return Number.isInteger(value) ? value.toLocaleString("en-US") : String(value);
  return valueText(value);
}

/** The column with the best value of a metric, where one is better than another. */
function bestColumn(row: ComparedRow): number {
  if (row.group !== "metrics" || !row.differs || !isJudged(store, row.name)) return -1;
  const sign = directionOf(store, row.name) === "max" ? 1 : -1;
  let best = -1;
  row.values.forEach((value, index) => {
    const number = asNumber(value);
    if (number === undefined || !Number.isFinite(number)) return;
    if (best < 0 || sign * number > sign * asNumber(row.values[best])!) best = index;
  });
  return best;
}

function ComparedLine({ row }: { row: ComparedRow }) {
  const best = bestColumn(row);
  return (
    <tr class={row.differs ? "differs" : undefined}>
      <th scope="row">
        <bdi>{visible(row.name)}</bdi>
        {row.differs && (
          <span class="differs-sign" title="differs">
            ≠<span class="sr"> differs</span>
          </span>
        )}
      </th>
      {row.values.map((value, index) => {
        const delta = row.group === "metrics" && index > 0 ? deltaText(value, row.values[0]) : undefined;
        return (
          <td key={index} class={typeof value === "number" ? "number" : undefined}>
            {index === best && (
              <span class="best">
                <Star />
                <span class="sr">best </span>
              </span>
            )}
            <bdi class={index === best ? "best-value" : undefined}>{cellText(row, value)}</bdi>
            {delta && <span class="delta">{delta}</span>}
          </td>
        );
      })}
    </tr>
  );
}

export function Compare() {
  state.storeVersion.value;
  const keys = state.page.value.selected;
  const { comparison, failure } = useComparison(keys);
  const differencesOnly = state.page.value.differencesOnly;
  if (keys.length < COMPARED_MIN)
    return (
      <section class="nothing">
        <h2>Select {COMPARED_MIN} to {COMPARED_MAX} checkpoints</h2>
        <p>
          Check them in the list, or press <kbd>x</kbd> on a row{keys.length === 1 ? ": one is selected" : ""}. Then come back here, or press <kbd>c</kbd>.
        </p>
        <button type="button" class="button primary" onClick={() => state.openTab("table")}>
          To the list
        </button>
      </section>
    );
  if (failure)
    return (
      <section class="nothing" role="alert">
        <h2>They cannot be compared</h2>
        <p>{visible(failure)}</p>
        <p>One of them may be gone: take it out, or choose others.</p>
        <button type="button" class="button primary" onClick={state.clearSelected}>
          Choose others
        </button>
      </section>
    );
  if (!comparison || comparison.keys.length !== keys.length) return <p class="muted pad">Loading…</p>;
  const groups = groupRows(comparison, differencesOnly);
  const different = comparison.rows.filter((row) => row.differs).length;
  return (
    <section class="compare" aria-label="Comparison">
      <div class="toolbar">
        <label class="switch">
          <input type="checkbox" role="switch" checked={differencesOnly} onChange={(event) => state.setDifferencesOnly(event.currentTarget.checked)} />
          Differences only
        </label>
        <span class="muted">
          {plural(different, "difference")} in {comparison.rows.length.toLocaleString("en-US")} rows
        </span>
        <span class="grow" />
        <button type="button" class="button" onClick={() => void state.copy(toMarkdown(comparison, differencesOnly), "Markdown")}>
          <Icon name="copy" /> Copy Markdown
        </button>
        <button type="button" class="button" onClick={() => state.save("comparison.md", "text/markdown", toMarkdown(comparison, differencesOnly))}>
          <Icon name="download" /> Markdown
        </button>
        <button type="button" class="button" onClick={() => state.save("comparison.csv", "text/csv", toCsv(comparison, differencesOnly))}>
          <Icon name="download" /> CSV
        </button>
      </div>
      <div class="compare-scroll" tabIndex={0} role="region" aria-label="Compared values">
        <table>
          <thead>
            <tr>
              <td />
              {comparison.keys.map((key) => {
                const row = store.rowOf.get(key);
                const status = row === undefined ? undefined : store.statusOf(row);
                return (
                  <th key={key} scope="col">
                    <div class="compared-head">
                      <button type="button" class="link" title={visible(key)} onClick={() => state.openDetail(key)}>
                        <bdi>{visible(row === undefined ? key : (store.name.get(row) ?? key))}</bdi>
                      </button>
                      <button type="button" class="button quiet square" aria-label={`Take out ${visible(key)}`} onClick={() => state.toggleSelected(key)}>
                        <Icon name="close" />
                      </button>
                    </div>
                    <div class="compared-under">
                      {status && (
                        <span class={`status status-${status}`}>
                          <StatusSign status={status} />
                          {status}
                        </span>
                      )}
                      <bdi>{visible(row === undefined ? "" : (store.experiment.get(row) ?? ""))}</bdi>
                    </div>
                  </th>
                );
              })}
            </tr>
          </thead>
          {groups.map(([group, rows]) => (
            <tbody key={group}>
              <tr class="group">
                <th scope="rowgroup" colSpan={keys.length + 1}>
                  <span>{groupTitle(group)}</span>
                </th>
              </tr>
              {rows.map((row) => (
                <ComparedLine key={row.name} row={row} />
              ))}
            </tbody>
          ))}
        </table>
        {groups.length === 0 && <p class="muted pad">No differences: they agree in all {comparison.rows.length} rows.</p>}
      </div>
    </section>
  );
}
