import assert from "node:assert/strict";
import { test } from "node:test";
import { backoff, type Caller, EventParser, events, Refused, Unauthorised } from "../src/protocol";
import { type Connection, Session } from "../src/session";
import { Store } from "../src/store";
import { entry } from "./entries";

const bytes = (text: string) => new TextEncoder().encode(text);

const WIRE = 'retry: 2000\n\n: heartbeat\n\nevent: change\nid: 7\ndata: {"name":"é–🙂"}\n\ndata: a\ndata:b\n\nevent: empty\n\n';
const EVENTS = [
  { event: "change", data: '{"name":"é–🙂"}', id: "7" },
  { event: "message", data: "a\nb", id: "7" },
];

test("events are the same however their bytes are cut, and whatever ends their lines", () => {
  for (const wire of [WIRE, WIRE.replaceAll("\n", "\r\n"), WIRE.replaceAll("\n", "\r")]) {
    const whole = bytes(wire);
    for (let size = 1; size <= whole.length; size++) {
      const parser = new EventParser();
      const found = [];
      for (let at = 0; at < whole.length; at += size) found.push(...parser.push(whole.subarray(at, at + size)));
      assert.deepEqual(found, EVENTS);
      assert.equal(parser.retry, 2000);
    }
  }
});

test("pauses grow to ten seconds and never fall below half of that", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 20].map((attempt) => backoff(attempt, () => 1)), [500, 1000, 2000, 4000, 8000, 10000, 10000]);
  assert.equal(backoff(20, () => 0), 5000);
});

function caller(answer: (path: string, headers: Record<string, string>, signal?: AbortSignal | null) => Response, token?: string): Caller {
  return {
    token,
    fetch: async (path, init) => {
      init?.signal?.throwIfAborted();
      return answer(String(path), (init?.headers ?? {}) as Record<string, string>, init?.signal);
    },
  };
}

test("a refusal has the server's own words; 401 is one of its own", async () => {
  const drain = async (answer: Response) => {
    for await (const _ of events(caller(() => answer), "x", new AbortController().signal));
  };
  await assert.rejects(drain(new Response('{"detail":"no index there"}', { status: 503 })), (error) => error instanceof Refused && error.message === "no index there");
  await assert.rejects(drain(new Response("<html>", { status: 502, statusText: "Bad Gateway" })), /answered 502 Bad Gateway/);
  await assert.rejects(drain(new Response("{}", { status: 401 })), Unauthorised);
});

/** Run a session against scripted answers; gives what it said, until *until* of it is true. */
async function played(script: Record<string, (() => Response)[]>, until: (seen: string[]) => boolean, store = new Store(), token?: string) {
  const seen: string[] = [];
  const stop = new AbortController();
  const asked: string[] = [];
  let done = () => {};
  const ended = new Promise<void>((resolve) => (done = resolve));
  const note = (text: string) => {
    seen.push(text);
    if (until(seen)) {
      stop.abort();
      done();
    }
  };
  const session: Session = new Session(
    store,
    caller((path, headers, signal) => {
      asked.push(headers["Authorization"] ? `${path} ${headers["Authorization"]}` : path);
      const next = script[path.split("?")[0]!]?.shift();
      return next ? next() : new Response(new ReadableStream({ start: (stream) => signal?.addEventListener("abort", () => stream.error(signal.reason)) }));
    }, token),
    {
      onRows: (rows, arrived) => note(`rows ${rows.length}${arrived.length ? ` new ${arrived.join()}` : ""}`),
      onConnection: (connection: Connection) => {
        note(connection.state === "loading" ? `loading ${connection.loaded}/${connection.total ?? "?"}` : connection.state);
        if (connection.state === "broken") session.retry();
        if (connection.state === "unauthorised") session.retry("secret");
      },
      onGeneration: (generation) => note(`generation ${generation}`),
    },
  );
  void session.run(stop.signal);
  await ended;
  return { seen, asked, store };
}

const stream = (...messages: object[]) => () => new Response(messages.map((message) => `data: ${JSON.stringify(message)}\n\n`).join(""));
const batch = (generation: number, total: number, ...names: string[]) => ({ type: "batch", checkpoints: names.map((name) => entry(name)), count: names.length, has_more: true, total, generation });
const changes = (text: string) => () => new Response(`retry: 2000\n\n${text}`);

test("a session loads, follows, and after a break asks for what it missed", async () => {
  const { seen, asked, store } = await played(
    {
      "api/checkpoints/stream": [stream(batch(3, 2, "a"), batch(3, 2, "b"), { type: "complete", total: 2, generation: 3 })],
      "api/changes": [
        changes(`event: change\nid: 4\ndata: ${JSON.stringify({ generation: 4, changed: [entry("c"), entry("a")], removed: ["b"] })}\n\n`),
        changes('event: ready\ndata: {"generation":4}\n\n'),
      ],
    },
    (said) => said.filter((text) => text === "live").length === 2,
  );
  assert.deepEqual(seen, ["loading 0/?", "rows 1", "loading 1/2", "rows 1", "loading 2/2", "generation 3", "live", "rows 3 new c", "generation 4", "broken", "live"]);
  assert.deepEqual(asked, ["api/checkpoints/stream", "api/changes?since=3", "api/changes?since=4"]);
  assert.deepEqual([...store.rowOf.keys()].sort(), ["a", "c"]);
});

test("a resync loads again without a progress bar, and what did not come again goes", async () => {
  const { seen, store } = await played(
    {
      "api/checkpoints/stream": [
        stream(batch(3, 2, "a", "b"), { type: "complete", total: 2, generation: 3 }),
        stream(batch(9, 1, "b"), { type: "complete", total: 1, generation: 9 }),
      ],
      "api/changes": [changes('event: resync\nid: 9\ndata: {"generation":9}\n\n')],
    },
    (said) => said.includes("generation 9"),
  );
  assert.deepEqual(seen.slice(4), ["live", "rows 1", "rows 1", "generation 9"]);
  assert.deepEqual([...store.rowOf.keys()], ["b"]);
});

test("a load that broke in the middle starts again, a server without an index is asked again", async () => {
  const { seen } = await played(
    {
      "api/checkpoints/stream": [
        () => new Response('{"detail":"no index"}', { status: 503 }),
        stream({ type: "error", error: "unreadable" }),
        stream(batch(1, 2, "a")),
        stream({ type: "complete", total: 0, generation: 1 }),
      ],
    },
    (said) => said.includes("live"),
  );
  assert.deepEqual(seen, ["loading 0/?", "broken", "loading 0/?", "broken", "loading 0/?", "rows 1", "loading 1/2", "broken", "loading 0/?", "rows 1", "generation 1", "live"]);
});

test("a token is asked for, and then sent", async () => {
  const { seen, asked } = await played(
    { "api/checkpoints/stream": [() => new Response("{}", { status: 401 }), stream({ type: "complete", total: 0, generation: 1 })] },
    (said) => said.includes("live"),
  );
  assert.deepEqual(seen, ["loading 0/?", "unauthorised", "loading 0/?", "generation 1", "live"]);
  assert.deepEqual(asked.slice(1), ["api/checkpoints/stream Bearer secret", "api/changes?since=1 Bearer secret"]);
});
