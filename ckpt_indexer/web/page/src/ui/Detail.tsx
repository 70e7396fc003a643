// One checkpoint whole, in a panel beside the list (over it, where there is no room beside it).

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { cureOf } from "../cures";
import { countText, metricText, momentText, plural, sizeText, valueText, visible } from "../format";
import { getJson } from "../protocol";
import { loadSnippet } from "../snippet";
import * as state from "../state";
import { type Detail as Whole, type Problem, toNumber } from "../types";
import { focusRow } from "./Grid";
import { Icon, Star, StatusSign } from "./icons";

const { store } = state;

type Document = Record<string, unknown>;

function asDocument(value: unknown): Document | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Document) : undefined;
}

function pathOf(key: string): string {
  return `api/checkpoints/${key.split("/").map(encodeURIComponent).join("/")}`;
}

export function closeDetail(): void {
  state.openDetail(undefined);
  focusRow();
}

const FOLLOW_MS = 60; // who runs through the list with the arrow keys does not ask for every checkpoint on the way

/** What the server knows of *key*, asked again when the entry changed. */
function useWhole(key: string, stamp: number | undefined): { whole: Whole | undefined; failure: string | undefined } {
  const [answer, setAnswer] = useState<{ key: string; whole?: Whole; failure?: string }>({ key });
  useEffect(() => {
    const stop = new AbortController();
    const timer = setTimeout(() => {
      getJson<Whole>(state.caller, pathOf(key), stop.signal).then(
        (whole) => setAnswer({ key, whole }),
        (error: Error) => stop.signal.aborted || setAnswer({ key, failure: error.message }),
      );
    }, FOLLOW_MS);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [key, stamp]);
  return answer.key === key ? { whole: answer.whole, failure: answer.failure } : { whole: undefined, failure: undefined };
}

function Facts({ title, rows, children }: { title: string; rows: [string, ComponentChildren][]; children?: ComponentChildren }) {
  const known = rows.filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== "–");
  if (!known.length && !children) return null;
  return (
    <section class="facts">
      <h3>{title}</h3>
      {known.length > 0 && (
        <dl>
          {known.map(([name, value]) => (
            <div key={name}>
              <dt>
                <bdi>{name}</bdi>
              </dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
      )}
      {children}
    </section>
  );
}

function ProblemCard({ problem, kind, intro }: { problem: Problem; kind: string; intro?: string }) {
  const { title, cure } = cureOf(problem.code);
  return (
    <section class={`card card-${kind}`} aria-label={intro ?? "Problem"}>
      <h3>
        {intro && `${intro}: `}
        {title} <code>{visible(problem.code)}</code>
      </h3>
      {problem.message && <p class="message">{visible(problem.message)}</p>}
      <p>
        <b>What to do:</b> {cure}
      </p>
    </section>
  );
}

function Metrics({ whole }: { whole: Whole }) {
  const best = state.bestRow.value;
  const usual = state.metricNames.value;
  const names = Object.keys(whole.metrics ?? {}).sort((a, b) => usual.indexOf(a) - usual.indexOf(b));
  if (!names.length) return null;
  const isBest = best !== undefined && store.key[best] === whole.path;
  return (
    <section class="facts">
      <h3>Metrics</h3>
      <dl class="measures">
        {names.map((name) => {
          const isScore = whole.monitor?.name === name;
          return (
            <div key={name}>
              <dt>
                <bdi>{visible(name)}</bdi>
                {isScore && <span class="tag">monitored{whole.monitor?.mode ? `, ${whole.monitor.mode}` : ""}</span>}
              </dt>
              <dd class="number">
                {isBest && name === state.bestMetric.value && (
                  <span class="best">
                    <Star /> best{" "}
                  </span>
                )}
                <span title={String(whole.metrics[name])}>{metricText(toNumber(whole.metrics[name]))}</span>
              </dd>
            </div>
          );
        })}
      </dl>
    </section>
  );
}

function flatten(value: unknown, prefix = ""): [string, string][] {
  const document = asDocument(value);
  if (!document || Object.keys(document).length === 0) return [[prefix, valueText(value)]];
  return Object.entries(document).flatMap(([name, inner]) => flatten(inner, prefix ? `${prefix}.${name}` : name));
}

function known(value: unknown): string | undefined {
  return value === "unknown" || value === null || value === undefined ? undefined : valueText(value);
}

function Model({ whole }: { whole: Whole }) {
  const metadata = whole.metadata ?? {};
  const training = asDocument(metadata["training"]) ?? {};
  const model = asDocument(metadata["model"]) ?? {};
  const indexer = asDocument(metadata["indexer"]) ?? {};
  const epochs = known(training["max_epochs"]);
  const name = (part: string) => known(asDocument(model[part])?.["name"]);
  return (
    <>
      <Facts
        title="Training"
        rows={[
          ["Epoch", whole.epoch === null ? undefined : `${countText(whole.epoch)}${epochs ? ` of ${epochs}` : ""}`],
          ["Step", whole.global_step === null ? undefined : countText(whole.global_step)],
          ["Phase", known(training["training_phase"])],
          ["Selected by", whole.monitor ? `${visible(whole.monitor.name)}${whole.monitor.mode ? ` (${whole.monitor.mode})` : ""}` : undefined],
          ["Score", whole.monitor ? metricText(toNumber(whole.monitor.value)) : undefined],
          ["W&B run", whole.wandb_run_id ? <bdi>{visible(whole.wandb_run_id)}</bdi> : undefined],
          ["Lightning", whole.lightning_version ? visible(whole.lightning_version) : undefined],
        ]}
      />
      <Facts
        title="Model"
        rows={[
          ["Architecture", whole.architecture ? visible(whole.architecture) : undefined],
          ["Encoder", whole.encoder ? visible(whole.encoder) : undefined],
          ["Decoder", name("decoder")],
          ["Head", name("head")],
          ["Loss", name("loss")],
          ["Parameters", whole.parameters === null ? undefined : countText(whole.parameters)],
          ["Tensors", typeof indexer["tensors"] === "number" ? countText(indexer["tensors"]) : undefined],
          ["Optimizer state", typeof indexer["has_optimizer"] === "boolean" ? (indexer["has_optimizer"] ? "yes" : "no") : undefined],
        ]}
      />
    </>
  );
}

const SOURCES: Record<string, string> = {
  sidecar: "a sidecar that something else wrote",
  embedded: "the training process's callback",
  checkpoint: "the checkpoint's header",
  config: "the run's configuration",
  wandb: "the Weights & Biases run",
  path: "folder names",
  name: "the file's name",
};

function Sources({ whole }: { whole: Whole }) {
  const indexer = asDocument(whole.metadata?.["indexer"]);
  const sources = asDocument(indexer?.["sources"]) ?? {};
  const rows: [string, ComponentChildren][] = Object.entries(sources).map(([part, tier]) => [visible(part), SOURCES[String(tier)] ?? valueText(tier)]);
  if (!rows.length && whole.metadata_source) rows.push(["everything", SOURCES[whole.metadata_source] ?? whole.metadata_source]);
  return (
    <Facts
      title="Where this is known from"
      rows={[
        ...rows,
        ["Sidecar", whole.metadata_file ? <bdi>{visible(whole.metadata_file)}</bdi> : undefined],
        ["Configuration", whole.config_path ? <bdi>{visible(whole.config_path)}</bdi> : undefined],
      ]}
    />
  );
}

function HealthFacts({ whole }: { whole: Whole }) {
  const { health } = whole;
  if (!health)
    return (
      <Facts title="Health" rows={[]}>
        <p class="muted">
          Never checked. Every byte: <code>ckpt-indexer validate --deep</code> and the path.
        </p>
      </Facts>
    );
  return (
    <Facts
      title="Health"
      rows={[
        ["Result", health.status === "ok" ? "good" : `${health.status}${health.problem ? `: ${visible(health.problem.code)}` : ""}`],
        ["Level", { quick: "quick: the header", deep: "deep: every byte", load: "load: torch itself" }[health.level] ?? visible(health.level)],
        ["Checked", momentText(Date.parse(health.checked_at))],
        ["Last good", health.good_at ? momentText(Date.parse(health.good_at)) : undefined],
        ["Weights", health.nan || health.inf ? `${plural(health.nan, "NaN")}, ${health.inf.toLocaleString("en-US")} infinite` : undefined],
        ["Digest", health.digest ? <code class="wrap">{visible(health.digest)}</code> : undefined],
      ]}
    />
  );
}

function Body({ whole }: { whole: Whole }) {
  const snippet = loadSnippet(whole.format, whole.full_path, whole.lightning_version !== null);
  const isLoadable = whole.status === "ok" || whole.status === "unsupported";
  const hyper = flatten(asDocument(whole.metadata?.["indexer"])?.["hyper_parameters"] ?? null).filter(([name]) => name);
  return (
    <>
      {whole.problem && <ProblemCard problem={whole.problem} kind={whole.status} />}
      {whole.health?.problem && whole.health.problem.code !== whole.problem?.code && <ProblemCard problem={whole.health.problem} kind="corrupt" intro="Check" />}
      {whole.metadata_problem && <ProblemCard problem={whole.metadata_problem} kind="incomplete" intro="Sidecar" />}
      {whole.health && whole.health.nan + whole.health.inf > 0 && (
        <section class="card card-incomplete" aria-label="Warning">
          <h3>NaN or infinity in the weights</h3>
          <p>The file is what was written; the training diverged. Go on from an earlier epoch.</p>
        </section>
      )}
      <div class="actions">
        <button type="button" class="button" onClick={() => void state.copy(whole.full_path, "Path")}>
          <Icon name="copy" /> Copy path
        </button>
        {isLoadable && (
          <button type="button" class="button" onClick={() => void state.copy(snippet, "Load snippet")}>
            <Icon name="copy" /> Copy load snippet
          </button>
        )}
      </div>
      <Metrics whole={whole} />
      <Model whole={whole} />
      <Facts
        title="File"
        rows={[
          ["Path", <bdi class="wrap">{visible(whole.full_path)}</bdi>],
          ["Size", <span title={`${countText(whole.size_bytes)} bytes`}>{sizeText(whole.size_bytes)}</span>],
          ["Written", momentText(Date.parse(whole.mtime ?? ""))],
          ["Indexed", momentText(Date.parse(whole.indexed_at))],
          ["Format", visible(whole.format)],
          ["Link to", whole.link_target ? <bdi class="wrap">{visible(whole.link_target)}</bdi> : undefined],
          ["Content", whole.content_id ? <code class="wrap">{visible(whole.content_id)}</code> : undefined],
        ]}
      />
      <HealthFacts whole={whole} />
      <Sources whole={whole} />
      {isLoadable && (
        <section class="facts">
          <h3>Load it</h3>
          <pre class="snippet" tabIndex={0} aria-label="Load snippet">{visibleLines(snippet)}</pre>
        </section>
      )}
      {hyper.length > 0 && (
        <details class="facts">
          <summary>Hyper-parameters ({hyper.length})</summary>
          <dl>
            {hyper.map(([name, value]) => (
              <div key={name}>
                <dt>
                  <bdi>{visible(name)}</bdi>
                </dt>
                <dd>
                  <bdi class="wrap">{value}</bdi>
                </dd>
              </div>
            ))}
          </dl>
        </details>
      )}
      {whole.metadata && (
        <details class="facts">
          <summary>The sidecar, whole</summary>
          <pre class="snippet" tabIndex={0} aria-label="Sidecar">{visibleLines(JSON.stringify(whole.metadata, null, 2))}</pre>
        </details>
      )}
    </>
  );
}

function visibleLines(text: string): string {
  return text.split("\n").map(visible).join("\n");
}

export function Detail({ open }: { open: string }) {
  state.storeVersion.value;
  const row = store.rowOf.get(open);
  const { whole, failure } = useWhole(open, row === undefined ? undefined : store.stamp(row));
  const isSelected = state.selected.value.has(open);
  const status = row === undefined ? whole?.status : store.statusOf(row);
  const name = row === undefined ? (whole?.name ?? open) : (store.name.get(row) ?? open);
  const experiment = row === undefined ? whole?.experiment : store.experiment.get(row);
  const isLoading = state.connection.value.state === "loading";
  return (
    <section class="detail" aria-labelledby="detail-title">
      <header>
        <div class="grow">
          <h2 id="detail-title" tabIndex={-1}>
            <bdi>{visible(name)}</bdi>
          </h2>
          <p class="under">
            {status && (
              <span class={`status status-${status}`}>
                <StatusSign status={status} />
                {status}
              </span>
            )}
            <bdi class="muted">{visible(experiment ?? "")}</bdi>
          </p>
        </div>
        <button type="button" class={isSelected ? "button is-on" : "button"} aria-pressed={isSelected} onClick={() => state.toggleSelected(open)}>
          {isSelected ? "Selected" : "Select"}
        </button>
        <button type="button" class="button quiet square" aria-label="Close" onClick={closeDetail}>
          <Icon name="close" />
        </button>
      </header>
      <div class="detail-body" tabIndex={0} role="region" aria-label="Details of the checkpoint">
        {row === undefined && !isLoading && !whole ? (
          <section class="nothing">
            <h2>It is not there any more</h2>
            <p>The checkpoint was deleted or renamed, or the address is an old one.</p>
            <button type="button" class="button" onClick={closeDetail}>
              Back to the list
            </button>
          </section>
        ) : whole ? (
          <Body whole={whole} />
        ) : failure ? (
          <section class="nothing">
            <h2>It could not be loaded</h2>
            <p>{visible(failure)}</p>
            <p class="muted">It is asked for again when the connection is back, or when you open it anew.</p>
          </section>
        ) : (
          <p class="muted pad">Loading…</p>
        )}
      </div>
    </section>
  );
}
