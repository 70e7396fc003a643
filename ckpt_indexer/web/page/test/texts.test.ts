import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { type Comparison, deltaText, groupRows, toCsv, toMarkdown } from "../src/compare";
import { metricText, shortCount, sizeText, timeText, visible } from "../src/format";
import { loadSnippet, pythonText } from "../src/snippet";
import { decodeState, encodeState, type PageState, parseThreshold, USUAL_STATE } from "../src/url";
import { NO_FILTERS } from "../src/view";

test("the usual page has a plain address, and every state comes back from its address", () => {
  assert.equal(encodeState(USUAL_STATE), "");
  assert.deepEqual(decodeState(""), USUAL_STATE);
  const state: PageState = {
    tab: "charts",
    filters: {
      search: "a b&c=d",
      experiments: ["x/y", "ü", ""],
      statuses: ["ok"],
      architectures: ["vit"],
      since: Date.UTC(2026, 10, 1),
      until: Date.UTC(2026, 10, 2),
      thresholds: [{ metric: "val/hmean", operator: ">=", value: 0.9 }, { metric: "odd<>=name", operator: "<", value: -1e-7 }],
    },
    order: { field: "metrics.val/hmean:asc", descending: true },
    columns: ["status", "metrics.a:b"],
    best: { metric: "a:b", mode: "min" },
    selected: ["k1", "k2"],
    open: "../#?%.ckpt",
    chartBy: "step",
    differencesOnly: true,
  };
  assert.deepEqual(decodeState(encodeState(state)), state);
});

test("what makes no sense in an address is left out", () => {
  const text = "view=evil&sort=x&since=never&metric=a&metric=>=1&metric=a>=x&best=&x=z&selected=1&selected=2&selected=3&selected=4&selected=5&selected=1";
  assert.deepEqual(decodeState(text), { ...USUAL_STATE, selected: ["1", "2", "3", "4"] });
  assert.equal(parseThreshold("a>= "), undefined);
  assert.deepEqual(decodeState("q=x").filters, { ...NO_FILTERS, search: "x" });
});

test("numbers have the digits that tell checkpoints apart", () => {
  const given: [number | undefined, string][] = [
    [undefined, "–"], [NaN, "NaN"], [Infinity, "∞"], [-Infinity, "−∞"], [0, "0"], [3, "3"], [0.95123, "0.9512"], [-0.5, "−0.5000"],
    [12.3456, "12.35"], [1234.56, "1234.6"], [1e-7, "1.000e-7"], [2e6, "2.000e+6"],
  ];
  assert.deepEqual(given.map(([value]) => metricText(value)), given.map(([, text]) => text));
  assert.deepEqual([0, 999, 1000, 97_600_000, 2e9].map(sizeText), ["0 B", "999 B", "1.00 kB", "97.6 MB", "2.00 GB"]);
  assert.deepEqual([999, 13_400_000, 7e9].map(shortCount), ["999", "13.4 M", "7.00 B"]);
});

test("times are ages while those say more", () => {
  const now = Date.UTC(2026, 10, 21, 12);
  const ages = [0, 30, 90, 7200, 3 * 86400].map((seconds) => timeText(now - 1000 * seconds, now));
  assert.deepEqual(ages, ["just now", "30 s ago", "1 min ago", "2 h ago", "3 d ago"]);
  assert.match(timeText(now - 30 * 86400_000, now), /^2026-10-2\d$/);
});

test("what cannot be seen in a name is made visible", () => {
  assert.equal(visible("a\u202egpj.ckpt\n\u200b\u0000é"), "a\\u202egpj.ckpt\\u000a\\u200b\\u0000é");
});

const COMPARISON: Comparison = {
  keys: ["a.ckpt", "=cmd|x.ckpt"],
  rows: [
    { group: "checkpoint", name: "status", values: ["ok", "ok"], differs: false },
    { group: "metrics", name: "m", values: [0.5, -0.25], differs: true },
    { group: "hyper_parameters", name: "=evil", values: ['say "hi", +1', null], differs: true },
    { group: "hyper_parameters", name: "list", values: [[1, "<b>"], "-Infinity"], differs: true },
  ],
};

test("metrics come first, and only differences when asked", () => {
  assert.deepEqual(groupRows(COMPARISON, false).map(([group, rows]) => [group, rows.length]), [["metrics", 1], ["hyper_parameters", 2], ["checkpoint", 1]]);
  assert.deepEqual(groupRows(COMPARISON, true).map(([group]) => group), ["metrics", "hyper_parameters"]);
});

test("a CSV is quoted, and no text in it is run by a spreadsheet", () => {
  assert.equal(
    toCsv(COMPARISON, true),
    "group,name,a.ckpt,'=cmd|x.ckpt\r\n" + "metrics,m,0.5,-0.25\r\n" + `hyper_parameters,'=evil,"say ""hi"", +1",\r\n` + `hyper_parameters,list,"[1,""<b>""]",-Infinity\r\n`,
  );
});

test("Markdown has no markup but ours, and marks what differs", () => {
  assert.equal(
    toMarkdown(COMPARISON, false),
    [
      "| | a.ckpt | =cmd\\|x.ckpt |",
      "|---|---|---|",
      "| **Metrics** | | |",
      "| m | **0.5** | **-0.25** |",
      "| **Hyper-parameters** | | |",
      '| =evil | **say "hi", \\+1** | **–** |',
      '| list | **\\[1,"&lt;b\\>"\\]** | **-Infinity** |',
      "| **Checkpoint** | | |",
      "| status | ok | ok |",
      "",
    ].join("\n"),
  );
});

test("a difference has its sign, and is not said where there is none", () => {
  assert.deepEqual([deltaText(0.6, 0.5), deltaText(0.5, 0.6), deltaText(1, 1), deltaText("NaN", 1), deltaText("x", 1)], ["+0.1000", "−0.1000", undefined, undefined, undefined]);
});

test("a path in a snippet is exactly that path to Python", { skip: spawnSync("python3", ["--version"]).status !== 0 }, () => {
  const paths = ['/a/"b"\\n.ckpt', "/tab\t/new\nline\u202e\u0000\u007f", "/üñï/🙂.ckpt", "/'''/#{x}", "/\u2028"];
  const program = "import ast,json,sys\nprint(json.dumps([ast.literal_eval(t) for t in json.load(sys.stdin)]))";
  const run = spawnSync("python3", ["-c", program], { input: JSON.stringify(paths.map(pythonText)), encoding: "utf8" });
  assert.deepEqual(JSON.parse(run.stdout), paths);
});

test("each format has the lines that load it", () => {
  assert.equal(loadSnippet("torch-zip", "/a.ckpt", true), 'import torch\n\ncheckpoint = torch.load("/a.ckpt", map_location="cpu", weights_only=True)\nstate_dict = checkpoint["state_dict"]\n');
  assert.match(loadSnippet("safetensors", "/a", false), /load_file\("\/a"\)/);
  assert.match(loadSnippet("torchscript", "/a", false), /torch\.jit\.load/);
  assert.match(loadSnippet("pickle", "/a", false), /only if you trust it/);
  for (const format of ["sharded-dcp", "sharded-deepspeed"]) assert.match(loadSnippet(format, "/a", false), /"\/a"/);
});
