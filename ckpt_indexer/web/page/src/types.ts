// What the server sends, as the manual's pages index-and-sidecar and http have it. Everything that came off a disk
// is text or a number to this page, never markup.

export type Status = "ok" | "incomplete" | "corrupt" | "unsupported" | "unreadable";
export type Mode = "min" | "max";
/** JSON has no NaN and no infinities: these three strings stand for them. */
export type JsonNumber = number | "NaN" | "Infinity" | "-Infinity";

export interface Problem {
  code: string;
  message: string;
}

export interface Health {
  level: string;
  checked_at: string;
  status: Status;
  problem: Problem | null;
  nan: number;
  inf: number;
  digest: string | null;
  good_at: string | null;
}

export interface Entry {
  path: string;
  experiment: string;
  name: string;
  size_bytes: number;
  mtime: string | null; // null where it is no time that can be written
  format: string;
  status: Status;
  problem: Problem | null;
  link_target: string | null;
  epoch: number | null;
  global_step: number | null;
  metrics: Record<string, JsonNumber | null>;
  monitor: { name: string; mode: Mode | null; value: JsonNumber | null } | null;
  architecture: string | null;
  encoder: string | null;
  parameters: number | null;
  lightning_version: string | null;
  metadata_file: string | null;
  metadata_source: string | null;
  metadata_problem: Problem | null;
  config_path: string | null;
  wandb_run_id: string | null;
  content_id: string | null;
  health: Health | null;
  generation: number;
  indexed_at: string;
}

/** One checkpoint whole: what `/api/checkpoints/KEY` answers. */
export interface Detail extends Entry {
  metadata: Record<string, unknown> | null;
  full_path: string;
}

export const STATUSES: readonly Status[] = ["ok", "incomplete", "corrupt", "unsupported", "unreadable"];

export function toNumber(value: JsonNumber | null | undefined): number | undefined {
  return value === null || value === undefined ? undefined : Number(value);
}
