// What is shown when there is nothing to show, or something is wrong: always with what to do about it.

import { useEffect, useState } from "preact/hooks";
import { momentText, plural, visible } from "../format";
import * as state from "../state";
import { isUnfiltered } from "../view";
import { Icon } from "./icons";

const { store } = state;

/** In the list's place, when it has no rows. */
export function NoRows() {
  const { state: kind } = state.connection.value;
  state.storeVersion.value;
  if (kind === "loading") return <Skeleton />;
  if (store.size > 0 && !isUnfiltered(state.filters.value))
    return (
      <section class="nothing">
        <h2>No checkpoint matches</h2>
        <p>{plural(store.size, "checkpoint")} are here, but none passes all the filters.</p>
        <button type="button" class="button primary" onClick={state.clearFilters}>
          Clear all filters
        </button>
      </section>
    );
  if (kind !== "live") return null;
  return (
    <section class="nothing">
      <h2>No checkpoints yet</h2>
      <p>The index is there and empty. A checkpoint shows here within a second of its save below the watched folder.</p>
      <ul>
        <li>
          Is the daemon running? <code>ckpt-indexer status</code>
        </li>
        <li>
          Do your checkpoints end in <code>.ckpt</code>? Other names need <code>--suffixes</code>.
        </li>
      </ul>
    </section>
  );
}

function Skeleton() {
  return (
    <div class="skeleton" aria-hidden="true">
      {Array.from({ length: 12 }, (_, index) => (
        <div key={index} class="bone-row">
          <span class="bone" />
          <span class="bone" />
          <span class="bone" />
        </div>
      ))}
    </div>
  );
}

export function Progress() {
  const connection = state.connection.value;
  if (connection.state !== "loading") return null;
  const { loaded, total } = connection;
  const text = total === undefined ? "Loading checkpoints…" : `Loaded ${loaded.toLocaleString("en-US")} of ${total.toLocaleString("en-US")}`;
  return (
    <div class="progress">
      <progress class="sr" aria-label="Loading checkpoints" {...(total === undefined ? {} : { value: loaded, max: Math.max(1, total) })} />
      <div class="progress-track" aria-hidden="true">
        <div class="progress-bar" style={{ transform: `scaleX(${total ? loaded / total : 0.02})` }} />
      </div>
      <span class="progress-text">{text}</span>
    </div>
  );
}

/** A strip above everything, while what is shown may be behind. */
export function Banners() {
  const connection = state.connection.value;
  const health = state.health.value;
  if (connection.state === "broken" && store.size > 0)
    return (
      <div class="banner warning" role="alert">
        <Icon name="warning" />
        <span class="grow">
          <b>Disconnected:</b> {visible(connection.reason)}. What you see may be old. <Countdown until={connection.retryAt} />
        </span>
        <button type="button" class="button" onClick={state.reconnect}>
          Try now
        </button>
      </div>
    );
  if (connection.state !== "live" || !health) return null;
  const { daemon } = health;
  if (!daemon.alive)
    return (
      <div class="banner" role="status">
        <Icon name="warning" />
        <span class="grow">
          <b>No daemon is running:</b> newer checkpoints are not shown. Start it: <code>ckpt-indexer watch</code>
        </span>
      </div>
    );
  const reason = daemon.state === "degraded" ? daemon.reasons[0] : undefined;
  if (!reason) return null;
  return (
    <div class="banner" role="status">
      <Icon name="warning" />
      <span class="grow">
        <b>The index may be behind the disk:</b> {visible(reason.message)}. {visible(reason.cure)}
      </span>
    </div>
  );
}

function Countdown({ until }: { until: number }) {
  const [, redraw] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => redraw((count) => count + 1), 500);
    return () => clearInterval(timer);
  }, []);
  const seconds = Math.max(0, Math.ceil((until - Date.now()) / 1000));
  return <span>{seconds > 0 ? `Trying again in ${seconds} s.` : "Trying again…"}</span>;
}

/** In place of the whole page: nothing could be loaded, or a token is asked for. */
export function Blocker() {
  const connection = state.connection.value;
  if (connection.state === "unauthorised") return <TokenForm isRejected={connection.isRejected} />;
  if (connection.state !== "broken" || store.size > 0) return null;
  return (
    <section class="nothing whole" role="alert">
      <h2>{connection.isAnswered ? "There is nothing to show yet" : "The server cannot be reached"}</h2>
      <p>{connection.isAnswered ? visible(connection.reason) : "It may have been stopped, or the way to it is broken."}</p>
      <ul>
        {connection.isAnswered ? (
          <li>
            No index? <code>ckpt-indexer watch</code> with the folder's name makes one and keeps it; <code>ckpt-indexer rebuild</code> makes it once.
          </li>
        ) : (
          <li>
            Start it with <code>ckpt-indexer serve</code> and the folder's name, and leave this page open.
          </li>
        )}
      </ul>
      <p class="muted">
        <Countdown until={connection.retryAt} />
      </p>
      <button type="button" class="button primary" onClick={state.reconnect}>
        Try now
      </button>
    </section>
  );
}

function TokenForm({ isRejected }: { isRejected: boolean }) {
  const [token, setToken] = useState("");
  return (
    <section class="nothing whole">
      <h2>This server asks for a token</h2>
      <p>It is the text that <code>ckpt-indexer serve</code> was started with. It stays in this tab, and goes when the tab is closed.</p>
      <form
        class="token"
        onSubmit={(event) => {
          event.preventDefault();
          if (token.trim()) state.giveToken(token.trim());
        }}
      >
        <label class="field">
          Token
          <input class="input" type="password" autocomplete="off" value={token} aria-invalid={isRejected} aria-describedby={isRejected ? "token-wrong" : undefined} onInput={(event) => setToken(event.currentTarget.value)} />
        </label>
        {isRejected && (
          <p id="token-wrong" class="wrong" role="alert">
            The server did not take that token.
          </p>
        )}
        <button type="submit" class="button primary" disabled={!token.trim()}>
          Go on
        </button>
      </form>
    </section>
  );
}

/** The dot that says whether the page follows the disk. */
export function ConnectionSign() {
  const connection = state.connection.value;
  const generation = state.generation.value;
  const [kind, text] = connection.state === "live" ? ["live", "Live"] : connection.state === "loading" ? ["loading", "Loading"] : ["broken", "Offline"];
  return (
    <span class={`connection is-${kind}`} title={generation === undefined ? undefined : `generation ${generation}, ${momentText(state.now.value)}`}>
      <span class="dot" aria-hidden="true" />
      {text}
    </span>
  );
}

const KEYS: readonly [string, string][] = [
  ["/", "Search"],
  ["↑ ↓ or j k", "Move through the list"],
  ["Home End PgUp PgDn", "Move further"],
  ["Enter", "Open the checkpoint"],
  ["x or Space", "Select it for comparison"],
  ["c", "Compare what is selected"],
  ["1 2 3", "List, charts, comparison"],
  ["Esc", "Close, go back"],
  ["?", "This help"],
];

export function Help() {
  const isOpen = state.isHelpOpen.value;
  useEffect(() => {
    const dialog = document.getElementById("help") as HTMLDialogElement;
    if (isOpen && !dialog.open) dialog.showModal();
    if (!isOpen && dialog.open) dialog.close();
  }, [isOpen]);
  return (
    <dialog id="help" class="help" aria-labelledby="help-title" onClose={() => (state.isHelpOpen.value = false)}>
      <header>
        <h2 id="help-title">Keys</h2>
        <button type="button" class="button quiet square" aria-label="Close" onClick={() => (state.isHelpOpen.value = false)}>
          <Icon name="close" />
        </button>
      </header>
      <dl>
        {KEYS.map(([keys, text]) => (
          <div key={keys}>
            <dt>
              {keys.split(" ").map((key) => (key === "or" ? " or " : <kbd key={key}>{key}</kbd>))}
            </dt>
            <dd>{text}</dd>
          </div>
        ))}
      </dl>
      <p class="muted">Search looks in path, experiment, architecture, encoder, monitored metric and status; several words must all be there.</p>
      <p>
        <a href="manual/">Manual</a> · <a href="docs">HTTP API</a>
      </p>
    </dialog>
  );
}

/** What happened, spoken by assistive technology; some of it also shown for a moment. */
export function Notices() {
  const { text, isToast, id } = state.notice.value;
  const [shown, setShown] = useState(0);
  useEffect(() => {
    if (!isToast) return;
    setShown(id);
    const timer = setTimeout(() => setShown(0), 2500);
    return () => clearTimeout(timer);
  }, [id]);
  return (
    <>
      <div class="sr" role="status" aria-live="polite">
        {text}
      </div>
      {shown === id && isToast && (
        <div class="toast" aria-hidden="true">
          {text}
        </div>
      )}
    </>
  );
}
