// Entries for the tests: usual ones, made different in what a test is about.

import type { Entry } from "../src/types";

export function entry(key: string, fields: Partial<Entry> = {}): Entry {
  const [experiment, name] = key.split("/checkpoints/") as [string, string | undefined];
  return {
    path: key,
    experiment: name === undefined ? "." : experiment,
    name: name ?? key,
    size_bytes: 10,
    mtime: "2026-11-21T10:30:00.000000Z",
    format: "torch-zip",
    status: "ok",
    problem: null,
    link_target: null,
    epoch: null,
    global_step: null,
    metrics: {},
    monitor: null,
    architecture: null,
    encoder: null,
    parameters: null,
    lightning_version: null,
    metadata_file: null,
    metadata_source: null,
    metadata_problem: null,
    config_path: null,
    wandb_run_id: null,
    content_id: null,
    health: null,
    generation: 1,
    indexed_at: "2026-11-21T10:30:00.000000Z",
    ...fields,
  };
}

/** Numbers that look random and are the same in every run (mulberry32). */
export function dice(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
