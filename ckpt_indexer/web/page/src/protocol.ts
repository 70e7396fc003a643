// Server-sent events over fetch. Owns: the wire format, when a silent stream counts as dead, the pauses between attempts.
//
// Not EventSource, because that cannot send the token's header, and a new one forgets the last event's id. The parser is
// pure; a stream is an async generator of events that ends when the server ends it and throws when the network does.

export interface ServerEvent {
  event: string;
  data: string;
  id: string | undefined;
}

/** The server wants a token, or another one. */
export class Unauthorised extends Error {}

/** The server answered, and said no: its own words. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** Takes bytes as they come, gives whole events. Lines end in LF, CRLF or CR, as the HTML standard (9.2.6) has it. */
export class EventParser {
  private readonly decoder = new TextDecoder();
  private pieces: string[] = []; // of the line that is not yet at its end: a batch comes in many chunks
  private endedInCr = false;
  private data: string[] = [];
  private event = "";
  private id: string | undefined;
  /** What the server asked the pause before a new attempt to be, in milliseconds. */
  retry: number | undefined;

  push(bytes: Uint8Array): ServerEvent[] {
    let text = this.decoder.decode(bytes, { stream: true });
    if (this.endedInCr && text.startsWith("\n")) text = text.slice(1);
    if (text) this.endedInCr = text.endsWith("\r");
    const events: ServerEvent[] = [];
    const lines = text.split(/\r\n|\n|\r/);
    for (let i = 0; i < lines.length - 1; i++) {
      this.pieces.push(lines[i]!);
      const event = this.takeLine(this.pieces.length === 1 ? this.pieces[0]! : this.pieces.join(""));
      this.pieces = [];
      if (event) events.push(event);
    }
    const rest = lines.at(-1)!;
    if (rest) this.pieces.push(rest);
    return events;
  }

  private takeLine(line: string): ServerEvent | undefined {
    if (line === "") {
      const { data, event, id } = this;
      this.data = [];
      this.event = "";
      return data.length ? { event: event || "message", data: data.join("\n"), id } : undefined;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return undefined; // a comment: the heartbeat
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "data") this.data.push(value);
    else if (field === "event") this.event = value;
    else if (field === "id") this.id = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.retry = Number(value);
    return undefined;
  }
}

export const SILENCE_MAX_MS = 40_000; // two heartbeats (15 s each) are missing: nobody is there any more
const RETRY_FIRST_MS = 500;
const RETRY_MAX_MS = 10_000; // a person who restarted the server does not wait longer than that

/** The pause before attempt number *attempt* (from 0), in milliseconds, drawn between half of it and all of it. */
export function backoff(attempt: number, random: () => number = Math.random): number {
  const ceiling = Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** attempt);
  return Math.round(ceiling * (0.5 + 0.5 * random()));
}

export interface Caller {
  token: string | undefined;
  fetch: typeof fetch;
}

/** Ask for *path*, relative to the page, and give the answer; anything but success is thrown. */
export async function get(caller: Caller, path: string, signal?: AbortSignal): Promise<Response> {
  const headers: Record<string, string> = caller.token ? { Authorization: `Bearer ${caller.token}` } : {};
  const response = await caller.fetch(path, { headers, cache: "no-store", ...(signal ? { signal } : {}) });
  if (response.ok) return response;
  if (response.status === 401) throw new Unauthorised("a token is needed");
  throw new Refused(response.status, await reasonOf(response));
}

async function reasonOf(response: Response): Promise<string> {
  const usual = `the server answered ${response.status} ${response.statusText}`.trim();
  try {
    const body: unknown = JSON.parse(await response.text());
    const detail = (body as { detail?: unknown } | null)?.detail;
    return typeof detail === "string" && detail ? detail : usual;
  } catch {
    return usual;
  }
}

export async function getJson<T>(caller: Caller, path: string, signal?: AbortSignal): Promise<T> {
  return (await (await get(caller, path, signal)).json()) as T;
}

/** The events of a stream, after *onOpen*. Ends when the server does; throws when the network fails or is silent for long. */
export async function* events(
  caller: Caller,
  path: string,
  signal: AbortSignal,
  onOpen: () => void = () => {},
): AsyncGenerator<ServerEvent> {
  const silence = new AbortController();
  const stop = () => silence.abort(signal.reason);
  if (signal.aborted) stop();
  signal.addEventListener("abort", stop);
  let timer = 0 as unknown as ReturnType<typeof setTimeout>;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(new Error("nothing came for too long")), SILENCE_MAX_MS);
  };
  try {
    heard();
    const response = await get(caller, path, silence.signal);
    onOpen();
    const reader = response.body!.getReader();
    const parser = new EventParser();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      yield* parser.push(value);
    }
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", stop);
    silence.abort();
  }
}
