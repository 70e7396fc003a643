// Drawn signs, each 16 pixels; they always stand beside a word or inside a button with a name. And the cut of a long path.

import type { Status } from "../types";

const PATHS = {
  search: "M7 12A5 5 0 1 0 7 2a5 5 0 0 0 0 10Zm3.6-1.4L14 14",
  close: "M4 4l8 8M12 4l-8 8",
  copy: "M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z",
  down: "M4 6.5 8 10.5 12 6.5",
  table: "M2 3.5h12v9H2zM2 6.5h12M6 6.5v6",
  chart: "M2 13.5h12M3 10.5 6.5 7 9 9l4.5-5.5",
  compare: "M2.5 3h4.5v10H2.5zM9 3h4.5v10H9z",
  columns: "M2.5 3h11v10h-11zM6.2 3v10M9.8 3v10",
  help: "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12ZM6.2 6.3c.2-2.3 3.7-2.2 3.6.1 0 1.3-1.7 1.3-1.8 2.6M8 11.2v.1",
  sun: "M8 11a3 3 0 1 0 0-6 3 3 0 0 0 0 6ZM8 1.5v1M8 13.5v1M1.5 8h1M13.5 8h1M3.4 3.4l.7.7M11.9 11.9l.7.7M12.6 3.4l-.7.7M4.1 11.9l-.7.7",
  moon: "M13 9.5A5.5 5.5 0 0 1 6.5 3 5.5 5.5 0 1 0 13 9.5Z",
  auto: "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12ZM8 2v12M8 5h3.6M8 8h6M8 11h3.6",
  download: "M8 2v8M4.5 7 8 10.5 11.5 7M2.5 13.5h11",
  plus: "M8 3v10M3 8h10",
  up: "M8 13V3M4 7l4-4 4 4",
  warning: "M8 2 14.5 13.5h-13zM8 6.5v3M8 11.6v.1",
} as const;

export function Icon({ name }: { name: keyof typeof PATHS }) {
  return (
    <svg class="icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}

export function Star() {
  return (
    <svg class="star" viewBox="0 0 16 16" aria-hidden="true" focusable="false">
      <path d="m8 1.6 1.9 4.1 4.5.5-3.3 3 .9 4.4L8 11.4l-4 2.2.9-4.4-3.3-3 4.5-.5z" />
    </svg>
  );
}

// Not colour alone: each status has a shape of its own.
const SHAPES: Record<Status, string> = {
  ok: "M8 3.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9Z",
  incomplete: "M8 3.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9Zm0 1.6a2.9 2.9 0 0 0 0 5.8Z",
  corrupt: "m8 6.4 2.6-2.6 1.6 1.6L9.6 8l2.6 2.6-1.6 1.6L8 9.6l-2.6 2.6-1.6-1.6L6.4 8 3.8 5.4l1.6-1.6z",
  unsupported: "M8 3.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9Zm0 1.6a2.9 2.9 0 1 0 0 5.8 2.9 2.9 0 0 0 0-5.8Z",
  unreadable: "M8 3.2 13 12.4H3z",
};

export function StatusSign({ status }: { status: Status }) {
  return (
    <svg class={`sign sign-${status}`} viewBox="0 0 16 16" aria-hidden="true" focusable="false">
      <path d={SHAPES[status]} fill-rule="evenodd" />
    </svg>
  );
}

/** A path that is cut at its beginning where there is no room: its end is what tells it apart. */
export function Tail({ text }: { text: string }) {
  return (
    <span class="experiment">
      <bdi dir="ltr">{text}</bdi>
    </span>
  );
}
