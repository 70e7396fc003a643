// The frame: the bar above, the three views, the panel beside them, and the keys that work everywhere.

import { useEffect, useRef, useState } from "preact/hooks";
import { COMPARED_MIN } from "../compare";
import * as state from "../state";
import type { Tab } from "../url";
import { Compare } from "./Compare";
import { closeDetail, Detail } from "./Detail";
import { Best, FilterBar } from "./FilterBar";
import { Grid, moveActive } from "./Grid";
import { Icon } from "./icons";
import { Banners, Blocker, ConnectionSign, Help, Notices, Progress } from "./States";

const TABS: readonly [Tab, string, "table" | "chart" | "compare"][] = [
  ["table", "List", "table"],
  ["charts", "Charts", "chart"],
  ["compare", "Compare", "compare"],
];

const THEMES = { auto: ["light", "auto"], light: ["dark", "sun"], dark: ["auto", "moon"] } as const;

function Search() {
  const field = useRef<HTMLInputElement>(null);
  const { search } = state.filters.value;
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Escape") {
      if (search) state.setFilters({ search: "" });
      else field.current?.blur();
    } else if (event.key === "ArrowDown" || event.key === "Enter") moveActive(0);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <div class="search" role="search">
      <Icon name="search" />
      <input
        ref={field}
        id="search"
        type="search"
        placeholder="Search checkpoints"
        aria-label="Search checkpoints"
        aria-keyshortcuts="/"
        autocomplete="off"
        spellcheck={false}
        value={search}
        onInput={(event) => state.setFilters({ search: event.currentTarget.value })}
        onKeyDown={onKeyDown}
      />
      <kbd aria-hidden="true">/</kbd>
    </div>
  );
}

function Bar() {
  const { tab } = state.page.value;
  const count = state.page.value.selected.length;
  const theme = state.theme.value;
  const [next, icon] = THEMES[theme];
  return (
    <header class="bar">
      <h1 class="brand">
        <svg viewBox="0 0 32 32" aria-hidden="true">
          <rect width="32" height="32" rx="8" />
          <path d="M9 10.5h14M9 16h14M9 21.5h8" />
          <circle cx="22.5" cy="21.5" r="2.6" />
        </svg>
        <span>Checkpoints</span>
      </h1>
      <nav class="tabs" aria-label="Views">
        {TABS.map(([name, title, sign]) => (
          <button key={name} type="button" class="tab" aria-current={tab === name ? "page" : undefined} onClick={() => state.openTab(name)}>
            <Icon name={sign} />
            <span class="tab-title">{title}</span>
            {name === "compare" && count > 0 && (
              <span class="badge">
                {count}
                <span class="sr"> selected</span>
              </span>
            )}
          </button>
        ))}
      </nav>
      <Search />
      <ConnectionSign />
      <button type="button" class="button quiet square" title={`Theme: ${theme}`} aria-label={`Theme: ${theme}; change to ${next}`} onClick={() => (state.theme.value = next)}>
        <Icon name={icon} />
      </button>
      <button type="button" class="button quiet square help-button" aria-label="Keys" title="Keys (?)" aria-keyshortcuts="?" onClick={() => (state.isHelpOpen.value = true)}>
        <Icon name="help" />
      </button>
    </header>
  );
}

function SelectionBar() {
  const { selected, tab, open } = state.page.value;
  const isCovered = open !== undefined && state.isNarrow.value;
  if (selected.length === 0 || tab !== "table" || isCovered) return null;
  return (
    <div class="selection" role="region" aria-label="Selection">
      <span>
        <b>{selected.length}</b> selected
      </span>
      <button type="button" class="button primary" disabled={selected.length < COMPARED_MIN} onClick={() => state.openTab("compare")}>
        Compare <kbd aria-hidden="true">c</kbd>
      </button>
      <button type="button" class="button" onClick={() => void state.copy(selected.join("\n"), "Names")}>
        Copy names
      </button>
      <button type="button" class="button quiet" onClick={state.clearSelected}>
        Clear
      </button>
    </div>
  );
}

function onKeyDown(event: KeyboardEvent): void {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const element = event.target as HTMLElement;
  const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(element.tagName) && (element as HTMLInputElement).type !== "checkbox";
  const { tab, open, selected } = state.page.peek();
  if (event.key === "Escape") {
    if (state.isHelpOpen.peek()) return; // the dialog closes itself
    if (open !== undefined) closeDetail();
    else if (tab !== "table") state.openTab("table");
    else if (selected.length) state.clearSelected();
    else return;
  } else if (isTyping || state.isHelpOpen.peek()) return;
  else if (event.key === "/") {
    const field = document.getElementById("search") as HTMLInputElement;
    field.focus();
    field.select();
  } else if (event.key === "?") state.isHelpOpen.value = true;
  else if (event.key === "c") {
    if (selected.length >= COMPARED_MIN) state.openTab("compare");
    else state.say(`Select ${COMPARED_MIN} to 4 checkpoints to compare them`, true);
  } else if (event.key === "1" || event.key === "2" || event.key === "3") state.openTab(TABS[Number(event.key) - 1]![0]);
  else if (event.key === "j" && tab === "table") moveActive(1);
  else if (event.key === "k" && tab === "table") moveActive(-1);
  else return;
  event.preventDefault();
}

/** The charts, whose code is a third of the page and is loaded when somebody looks at them. */
function LaterCharts() {
  const [module, setModule] = useState<typeof import("./Charts")>();
  const [isMissing, setMissing] = useState(false);
  useEffect(() => void import("./Charts").then(setModule, () => setMissing(true)), []);
  if (module) return <module.Charts />;
  if (!isMissing) return <p class="muted pad">Loading…</p>;
  return (
    <section class="nothing" role="alert">
      <h2>The charts could not be loaded</h2>
      <p>The server cannot be reached, or was updated since this page was opened.</p>
      <button type="button" class="button primary" onClick={() => location.reload()}>
        Load the page again
      </button>
    </section>
  );
}

export function App() {
  const { tab, open } = state.page.value;
  const connection = state.connection.value;
  state.storeVersion.value;
  const isBlocked = connection.state === "unauthorised" || (connection.state === "broken" && state.store.size === 0);
  useEffect(() => {
    document.addEventListener("keydown", onKeyDown);
    return () => document.removeEventListener("keydown", onKeyDown);
  }, []);
  return (
    <>
      <Bar />
      <Progress />
      <Banners />
      {isBlocked ? (
        <main class="split">
          <Blocker />
        </main>
      ) : (
        <main class={open === undefined ? "split" : "split has-detail"}>
          <div class="main">
            {tab === "table" && (
              <>
                <FilterBar hasColumns />
                <Best />
                <Grid />
              </>
            )}
            {tab === "charts" && <LaterCharts />}
            {tab === "compare" && <Compare />}
          </div>
          {open !== undefined && <Detail open={open} />}
        </main>
      )}
      <SelectionBar />
      <Help />
      <Notices />
    </>
  );
}
