// The page's tie to the server. Owns: loading everything once, following the changes, coming back after a break.
//
//   load    api/checkpoints/stream   batches into the store, until "complete" names the generation
//   follow  api/changes?since=G      changed and removed checkpoints; "resync" leads back to load
//   break   pause, then follow again from the last generation; the server says "resync" if that is too long ago
//
// A later load keeps what is shown: rows are replaced as they come, and what did not come is removed at its end.

import { backoff, type Caller, events, Refused, Unauthorised } from "./protocol";
import type { Row, Store } from "./store";
import type { Entry } from "./types";

export type Connection =
  | { state: "loading"; loaded: number; total: number | undefined }
  | { state: "live" }
  /** `isAnswered`: the server is there, and said why not. */
  | { state: "broken"; reason: string; isAnswered: boolean; retryAt: number }
  | { state: "unauthorised"; isRejected: boolean };

export interface Listener {
  onRows(rows: Row[], arrived: readonly string[]): void;
  onConnection(connection: Connection): void;
  onGeneration(generation: number): void;
}

interface StreamMessage {
  type: "batch" | "complete" | "error";
  checkpoints?: Entry[];
  total?: number;
  generation?: number;
  error?: string;
}

interface ChangeMessage {
  generation: number;
  changed?: Entry[];
  removed?: string[];
}

export class Session {
  isLoaded = false;
  private generation: number | undefined;
  private attempt = 0;
  private wake: (() => void) | undefined;

  constructor(
    private readonly store: Store,
    private readonly caller: Caller,
    private readonly listener: Listener,
  ) {}

  /** Runs until *signal* says otherwise. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        if (this.generation === undefined) await this.load(signal);
        if ((await this.follow(signal)) === "closed") throw new Error("the server closed the connection");
      } catch (error) {
        if (signal.aborted) return;
        await this.pause(error);
      }
    }
  }

  /** Try again now, with this token if one is given. */
  retry(token?: string): void {
    if (token !== undefined) this.caller.token = token;
    this.wake?.();
  }

  private async load(signal: AbortSignal): Promise<void> {
    const seen = new Set<string>();
    if (!this.isLoaded) this.listener.onConnection({ state: "loading", loaded: 0, total: undefined });
    for await (const { data } of events(this.caller, "api/checkpoints/stream", signal)) {
      const message = JSON.parse(data) as StreamMessage;
      if (message.type === "error") throw new Refused(500, message.error ?? "the server could not go on");
      if (message.type === "batch") {
        const entries = message.checkpoints ?? [];
        for (const entry of entries) seen.add(entry.path);
        this.listener.onRows(this.store.put(entries), []);
        if (!this.isLoaded) this.listener.onConnection({ state: "loading", loaded: seen.size, total: message.total });
        continue;
      }
      const gone = [...this.store.rowOf.keys()].filter((key) => !seen.has(key));
      if (gone.length) this.listener.onRows(this.store.remove(gone), []);
      this.isLoaded = true;
      this.generation = message.generation ?? 0;
      this.listener.onGeneration(this.generation);
      return;
    }
    throw new Error("the server closed the connection before the end");
  }

  private async follow(signal: AbortSignal): Promise<"resync" | "closed"> {
    const onOpen = () => {
      this.attempt = 0;
      this.listener.onConnection({ state: "live" });
    };
    for await (const { event, data } of events(this.caller, `api/changes?since=${this.generation}`, signal, onOpen)) {
      const message = JSON.parse(data) as ChangeMessage;
      if (event === "resync") {
        this.generation = undefined;
        return "resync";
      }
      if (event === "change") {
        const changed = message.changed ?? [];
        const arrived = changed.map((entry) => entry.path).filter((key) => !this.store.rowOf.has(key));
        const rows = this.store.put(changed);
        this.listener.onRows([...rows, ...this.store.remove(message.removed ?? [])], arrived);
      }
      this.generation = message.generation;
      this.listener.onGeneration(message.generation);
    }
    return "closed";
  }

  private async pause(error: unknown): Promise<void> {
    const woken = new Promise<void>((resolve) => (this.wake = resolve));
    if (error instanceof Unauthorised) {
      this.listener.onConnection({ state: "unauthorised", isRejected: this.caller.token !== undefined });
      await woken;
      return;
    }
    const wait = backoff(this.attempt++);
    const isAnswered = error instanceof Refused;
    // The browser's own words ("Failed to fetch") say nothing that a person could act on.
    const reason = isAnswered || !(error instanceof TypeError) ? String((error as Error).message) : "the server cannot be reached";
    this.listener.onConnection({ state: "broken", reason, isAnswered, retryAt: Date.now() + wait });
    let timer: ReturnType<typeof setTimeout> | undefined;
    await Promise.race([woken, new Promise((resolve) => (timer = setTimeout(resolve, wait)))]);
    clearTimeout(timer);
  }
}
