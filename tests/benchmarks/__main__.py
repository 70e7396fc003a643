"""All benchmarks: ``python -m tests.benchmarks``, half an hour and 6 GB of disk; ``--small``, a minute.

Each measures us, the floor (the least that this machine could do) and what people use instead, side by side. Printed is
a Markdown table; written are ``benchmarks.json`` and, for how cost grows, one PNG a series. Nothing here fails because
something is slow: a missed target is marked as such.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.measure import environment
from tests.benchmarks.report import Row, table, write_json, write_plots

# In the order of the targets; each has ``run(scratch, *, is_small) -> list[Row]``.
BENCHMARKS = ("reading", "catalogue", "listing", "arrival", "burst", "passes", "resident", "deep", "serving", "page")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("benchmarks", nargs="*", choices=[*BENCHMARKS, []], help="which ones [default: all]")
    parser.add_argument("--small", action="store_true", help="small inputs, few rounds: to see that it works")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks"), help="folder for JSON and plots")
    parser.add_argument("--scratch", type=Path, default=None, help="folder on the disk to measure [default: temporary]")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    about = environment(options.scratch or Path(tempfile.gettempdir()))
    for name in options.benchmarks or BENCHMARKS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.scratch) as folder:
            rows += importlib.import_module(f"tests.benchmarks.{name}").run(Path(folder), is_small=options.small)
        sys.stderr.write(f"{name}: {time.monotonic() - started:.0f} s\n")
    rows.sort(key=lambda row: row.number)
    write_json(options.output / "benchmarks.json", about, rows)
    plots = write_plots(options.output, rows)
    sys.stdout.write(table(rows) + "\n")
    sys.stderr.write("".join(f"wrote {path}\n" for path in (options.output / "benchmarks.json", *plots)))


if __name__ == "__main__":
    main()
