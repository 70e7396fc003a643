// Builds the page: `node build.mjs [FOLDER]` writes index.html and assets/, with the hash of their content in their
// names, and the licences of what is bundled beside them, into FOLDER, ../static by default. esbuild does all of it; nothing is fetched.
import { build } from "esbuild";
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const folder = process.argv[2] ?? join(here, "..", "static");

rmSync(join(folder, "assets"), { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
const result = await build({
  absWorkingDir: here,
  entryPoints: { page: "src/main.tsx", style: "src/style.css" },
  entryNames: "[name]-[hash]",
  outdir: join(folder, "assets"),
  bundle: true,
  splitting: true, // the charts come when they are looked at
  chunkNames: "[name]-[hash]",
  format: "esm",
  target: ["es2022"],
  minify: true,
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none", // the licences stand whole in licences.txt
  metafile: true,
  define: { "process.env.NODE_ENV": '"production"' }, // libraries ask; a page has no process
});

const built = Object.keys(result.metafile.outputs).map((path) => basename(path));
const find = (pattern) => built.find((name) => pattern.test(name));
const html = readFileSync(join(here, "src", "index.html"), "utf8")
  .replace("page.js", `assets/${find(/^page-.*\.js$/)}`)
  .replace("style.css", `assets/${find(/^style-.*\.css$/)}`);
writeFileSync(join(folder, "index.html"), html);
cpSync(join(here, "src", "icon.svg"), join(folder, "assets", "icon.svg"));

const bundled = new Set(
  Object.keys(result.metafile.inputs)
    .map((path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1])
    .filter(Boolean),
);
const licences = [...bundled].sort().map((name) => {
  const root = join(here, "node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const file = readdirSync(root).find((entry) => /^licen[cs]e/i.test(entry));
  if (file === undefined || !existsSync(join(root, file))) throw new Error(`${name} has no licence text`);
  return `${name} ${version} (${license})\n\n${readFileSync(join(root, file), "utf8").trim()}\n`;
});
writeFileSync(join(folder, "assets", "licences.txt"), licences.join(`\n${"-".repeat(78)}\n\n`));
