"""The commands as users and scripts call them: processes, exit codes, standard output and error."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ckpt_indexer.paths import INDEX_NAME
from tests.process import COMMAND, run


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with three good checkpoints, a broken one, and a foreign file of that name, indexed."""
    import torch

    root = tmp_path_factory.mktemp("tree") / "outputs"
    folder = root / "exp/checkpoints"
    folder.mkdir(parents=True)
    for epoch, hmean in enumerate((0.5, 0.9, 0.7)):
        torch.save(
            {
                "epoch": epoch,
                "global_step": 10 * epoch,
                "state_dict": {"w": torch.zeros(2, 3)},
                "cleval_metrics": {"hmean": hmean},
            },
            folder / f"e{epoch}.ckpt",
        )
    (folder / "cut.ckpt").write_bytes((folder / "e0.ckpt").read_bytes()[:-10])
    (folder / "page.ckpt").write_text("<html></html>")
    assert run("rebuild", root).returncode == 0
    return root


@pytest.fixture
def tree(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it for tests that change things; indexed again, because copies are other files."""
    root = tmp_path / "outputs"
    shutil.copytree(prepared, root)
    run("rebuild", root)
    return root


def as_json(*arguments: object) -> Any:
    done = run(*arguments, "--json")
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_list_sorts_filters_limits_and_counts(prepared: Path) -> None:
    answer = as_json("list", prepared, "--sort", "metrics.hmean:desc", "-f", "status=ok", "--limit", "2")
    assert (answer["total"], [c["path"] for c in answer["checkpoints"]]) == (
        3,
        ["exp/checkpoints/e1.ckpt", "exp/checkpoints/e2.ckpt"],
    )
    assert answer["generation"] == json.loads((prepared / INDEX_NAME).read_text())["generation"]
    quiet = run("list", prepared, "-q", "-f", "metrics.hmean>=0.7", "-f", "epoch<2")
    assert (quiet.stdout, quiet.stderr, quiet.returncode) == ("exp/checkpoints/e1.ckpt\n", "", 0)


def test_list_prints_tab_separated_columns_to_a_program(prepared: Path) -> None:
    done = run("list", prepared, "--columns", "name,hmean,status", "-f", "status!=unsupported", "--sort", "hmean")
    assert done.stdout.splitlines() == [
        "name\thmean\tstatus",
        "e0.ckpt\t0.5\tok",
        "e2.ckpt\t0.7\tok",
        "e1.ckpt\t0.9\tok",
        "cut.ckpt\t-\tincomplete",
    ]


def test_show_gives_the_entry_and_the_sidecars_document_by_key_and_by_path(prepared: Path) -> None:
    by_key = as_json("show", "exp/checkpoints/e1.ckpt", "--root", prepared)
    by_path = as_json("show", prepared / "exp/checkpoints/e1.ckpt", "--root", prepared)
    assert by_key == by_path
    assert (by_key["epoch"], by_key["parameters"], by_key["metadata"]["training"]["epoch"]) == (1, 6, 1)
    assert list(by_key["metadata"])[:4] == ["schema_version", "checkpoint_path", "exp_name", "created_at"]


def test_verify_names_what_is_missing_extra_and_stale(tree: Path) -> None:
    assert as_json("verify", tree) == {"ok": True, "missing": [], "extra": [], "stale": []}
    folder = tree / "exp/checkpoints"
    shutil.copy(folder / "e0.ckpt", folder / "new.ckpt")
    (folder / "e1.ckpt").unlink()
    os.utime(folder / "e2.ckpt", ns=(1, 1))
    done = run("verify", tree, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (
        3,
        {
            "ok": False,
            "missing": ["exp/checkpoints/new.ckpt"],
            "extra": ["exp/checkpoints/e1.ckpt"],
            "stale": ["exp/checkpoints/e2.ckpt"],
        },
    )


def test_rebuild_counts_what_it_did_and_writes_nothing_when_there_is_nothing_to_do(tree: Path) -> None:
    before = (tree / INDEX_NAME).read_bytes()
    answer = as_json("rebuild", tree)
    assert {k: answer[k] for k in ("total", "written", "skipped")} == {"total": 5, "written": 0, "skipped": 5}
    assert (tree / INDEX_NAME).read_bytes() == before
    (tree / INDEX_NAME).unlink()
    answer = as_json("rebuild", tree)
    assert {k: answer[k] for k in ("total", "written", "skipped", "failed")} == {
        "total": 5,
        "written": 5,
        "skipped": 0,
        "failed": 2,
    }


def test_a_rebuild_that_finds_nothing_says_what_is_there_and_what_would_see_it(tmp_path: Path) -> None:
    root = tmp_path / "outputs"
    for name in ("a/model.safetensors", "a/config.json", "b/model.pt", "b/best.pth.tar", "b/model.safetensors"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    told = (
        f"nothing below {root} ends in .ckpt; other files there: 2 .safetensors, 1 .pt, 1 .pth.tar, 1 .json; "
        "--suffixes .safetensors,.pt,.pth.tar would see 4\n"
    )
    assert run("rebuild", root, "--dry-run").stderr == told
    assert run("rebuild", root).stderr == told  # our own files are not among them
    assert as_json("rebuild", root, "-n")["other_files"] == {".safetensors": 2, ".pt": 1, ".pth.tar": 1, ".json": 1}
    assert as_json("rebuild", root, "-n", "--suffixes", ".pt,.safetensors")["total"] == 3


def test_other_files_are_those_of_people_and_their_names_may_be_no_text(tmp_path: Path) -> None:
    for name in (".git/objects/x.pack", ".checkpoint_index.daemon.json", "gone.ckpt.metadata.yaml", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/x.\xff")).write_bytes(b"")
    assert as_json("rebuild", tmp_path, "-n")["other_files"] == {".\\xff": 1, ".txt": 1}
    assert "other files there: 1 .\\xff, 1 .txt\n" in run("rebuild", tmp_path, "-n").stderr


def test_a_rebuild_of_a_folder_without_any_file_says_so(tmp_path: Path) -> None:
    told = f"nothing below {tmp_path} ends in .pt or .pth, and there are no other files\n"
    assert run("rebuild", tmp_path, "-n", "--suffixes", ".pt,.pth").stderr == told
    (tmp_path / "notes.txt").write_text("x")
    told = f"nothing below {tmp_path} ends in .ckpt; other files there: 1 .txt\n"
    assert run("rebuild", tmp_path, "-n").stderr == told


def test_a_second_rebuild_says_the_same_of_the_same_files(tree: Path) -> None:
    (tree / INDEX_NAME).unlink()
    first, second = run("rebuild", tree), run("rebuild", tree)
    assert [done.stdout.partition(", in ")[0] for done in (first, second)] == [
        "5 checkpoints: 3 good, 2 broken; 5 written, 0 up to date",
        "5 checkpoints: 3 good, 2 broken; 0 written, 5 up to date",
    ]
    assert second.stderr == first.stderr != ""
    answers = [as_json("rebuild", tree), as_json("generate", tree), as_json("rebuild", tree, "-n")]
    for answer in answers:
        assert answer["total"] == answer["good"] + answer["broken"] + answer["unread"]
        assert answer["total"] == answer["written"] + answer["up_to_date"]
    assert [(answer["good"], answer["broken"]) for answer in answers] == [(3, 2)] * 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "{tree}"],
        ["list", "{tree}", "--json"],
        ["list", "{tree}", "-q"],
        ["show", "exp/checkpoints/e1.ckpt", "--root", "{tree}"],
        ["status", "{tree}"],
        ["verify", "{tree}", "--json"],
        ["validate", "{tree}"],
        ["rebuild", "{tree}"],
        ["generate", "{tree}", "--json"],
        ["sync", "{tree}", "--json"],
        ["--help"],
        ["list", "--help"],
    ],
    ids=" ".join,
)
def test_a_closed_pipe_is_no_error(prepared: Path, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `| head -1` does, only sooner
    try:
        command = [COMMAND, *(argument.format(tree=prepared) for argument in arguments)]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(tree: Path) -> None:
    (tree / "exp/checkpoints/e1.ckpt.metadata.yaml").unlink()
    before = sorted(p.name for p in tree.rglob("*")), (tree / INDEX_NAME).read_bytes()
    for command in ("rebuild", "generate"):
        answer = as_json(command, tree, "--dry-run")
        assert {k: answer[k] for k in ("total", "written", "skipped")} == {"total": 5, "written": 1, "skipped": 4}
    assert run("generate", tree, "-n", "-q").stdout == "exp/checkpoints/e1.ckpt\n"
    assert (sorted(p.name for p in tree.rglob("*")), (tree / INDEX_NAME).read_bytes()) == before


def test_generate_only_adds_whatever_is_gone(tree: Path) -> None:
    folder = tree / "exp/checkpoints"
    for name in ("link1.ckpt", "link2.ckpt"):
        os.link(folder / "e0.ckpt", folder / name)
    assert run("rebuild", tree).returncode == 0
    before = {each["path"] for each in as_json("list", tree)["checkpoints"]}
    (folder / "link1.ckpt").unlink()
    data = (folder / "e1.ckpt").read_bytes()
    with (folder / "e0.ckpt").open("r+b") as file:  # in place: both names that are left change
        file.write(data)
    assert run("generate", tree).returncode == 0
    assert {each["path"] for each in as_json("list", tree)["checkpoints"]} == before
    assert "exp/checkpoints/link1.ckpt" in before


def test_generate_writes_the_missing_sidecars_only(tree: Path) -> None:
    folder = tree / "exp/checkpoints"
    (folder / "e1.ckpt.metadata.yaml").unlink()
    kept = (folder / "e0.ckpt.metadata.yaml").stat().st_mtime_ns
    answer = as_json("generate", tree)
    assert {k: answer[k] for k in ("total", "written", "skipped", "failed")} == {
        "total": 5,
        "written": 1,
        "skipped": 4,
        "failed": 0,
    }
    assert yaml.safe_load((folder / "e1.ckpt.metadata.yaml").read_text())["training"]["epoch"] == 1
    assert (folder / "e0.ckpt.metadata.yaml").stat().st_mtime_ns == kept
    assert run("verify", tree).returncode == 0


def test_rebuild_with_force_reads_everything_again(tree: Path) -> None:
    sidecar = tree / "exp/checkpoints/e0.ckpt.metadata.yaml"
    document = yaml.safe_load(sidecar.read_text())
    sidecar.write_text(yaml.safe_dump({**document, "exp_name": "by hand"}))
    run("rebuild", tree)
    assert yaml.safe_load(sidecar.read_text())["exp_name"] == "by hand"
    run("rebuild", tree, "--force", "--workers", "2")
    assert yaml.safe_load(sidecar.read_text())["exp_name"] == "exp"


def test_validate_reports_problems_with_exit_3_and_what_is_missing_as_warnings(prepared: Path) -> None:
    folder = prepared / "exp/checkpoints"
    done = run("validate", folder, "--json")
    results = {
        Path(r["path"]).name: (r["status"], (r["problem"] or {}).get("code"))
        for r in json.loads(done.stdout)["results"]
    }
    assert (done.returncode, results) == (
        3,
        {
            "e0.ckpt": ("ok", None),
            "e1.ckpt": ("ok", None),
            "e2.ckpt": ("ok", None),
            "cut.ckpt": ("incomplete", "truncated"),
            "page.ckpt": ("unsupported", "not-a-checkpoint"),
        },
    )
    one = run("validate", folder / "e0.ckpt", "--json")
    (result,) = json.loads(one.stdout)["results"]
    assert (one.returncode, json.loads(one.stdout)["ok"]) == (0, True)
    assert {name: result[name] for name in ("path", "status", "problem", "warnings", "level")} == {
        "path": str(folder / "e0.ckpt"),
        "status": "ok",
        "problem": None,
        "warnings": [],
        "level": "quick",
    }


def test_status_without_a_daemon_says_stopped(prepared: Path) -> None:
    answer = as_json("status", prepared)
    assert (answer["state"], answer["daemon"], answer["counts"], answer["sidecar_coverage"]) == (
        "stopped",
        {"pid": None, "alive": False},
        {"incomplete": 1, "ok": 3, "unsupported": 1},
        1.0,
    )


def test_sync_without_a_daemon_looks_itself(tree: Path) -> None:
    (tree / "exp/checkpoints/e0.ckpt").unlink()
    assert run("sync", tree).returncode == 0
    assert run("verify", tree).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (
            ["list", "{empty}"],
            10,
            "ckpt-indexer: no index at {empty}/.checkpoint_index.json: run `ckpt-indexer watch` or",
        ),
        (["status", "{empty}"], 10, "ckpt-indexer: no index at {empty}/.checkpoint_index.json: run"),
        (["verify", "{empty}"], 10, "ckpt-indexer: no index at {empty}/.checkpoint_index.json: run"),
        (["watch", "{missing}"], 1, "ckpt-indexer: outputs root {missing}: there is no such folder"),
        (["rebuild", "{missing}"], 1, "ckpt-indexer: outputs root {missing}: there is no such folder"),
        (["generate", "{file}"], 1, "ckpt-indexer: outputs root {file}: it is not a folder"),
        (["watch", "{file}"], 1, "ckpt-indexer: outputs root {file}: it is not a folder"),
        (["validate", "{missing}"], 1, "ckpt-indexer: outputs root {missing}: there is no such file or folder"),
        (["list", "{tree}", "--nonsense"], 2, "Error: No such option '--nonsense'."),
        (["nonsense"], 2, "Error: No such command 'nonsense'."),
        (["list", "{tree}", "-f", "hmean"], 2, "ckpt-indexer: filter 'hmean': use FIELD OP VALUE"),
        (
            ["list", "{tree}", "-f", "monitor.x=1"],
            2,
            "ckpt-indexer: filter 'monitor.x=1': there is no field 'monitor.x'",
        ),
        (
            ["list", "{tree}", "--columns", "path,epoch:desc"],
            2,
            "ckpt-indexer: column 'epoch:desc': a column has no direction: use epoch, and --sort",
        ),
        (["list", "{tree}", "--sort", "epoch:up"], 2, "ckpt-indexer: sort 'epoch:up': the direction is asc or desc"),
        (["watch", "{tree}", "--scan-interval", "0"], 2, "ckpt-indexer: setting scan_interval: "),
        (["watch", "{tree}", "--config", "{missing}"], 2, "ckpt-indexer: setting {missing}: No such file or directory"),
        (["watch", "{tree}", "--config", "{config}"], 2, "ckpt-indexer: setting scan_intervall: Extra inputs"),
        (["show", "nothing.ckpt", "--root", "{tree}"], 1, "ckpt-indexer: nothing.ckpt is not in the index of {tree}"),
    ],
)
def test_bad_input_is_one_clear_line_and_its_exit_code(
    prepared: Path, tmp_path: Path, arguments: list[str], code: int, line: str
) -> None:
    places = {
        "tree": prepared,
        "empty": tmp_path / "empty",
        "missing": tmp_path / "missing",
        "file": tmp_path / "file",
        "config": tmp_path / "config.yaml",
    }
    places["empty"].mkdir()
    places["file"].touch()
    places["config"].write_text("scan_intervall: 5\n")
    done = run(*[argument.format(**places) for argument in arguments])
    told = [text for text in done.stderr.splitlines() if not text.startswith("{")]
    assert (done.returncode, done.stdout) == (code, "")
    assert told[-1].startswith(line.format(**places))
    assert "Traceback" not in done.stderr


def test_an_index_of_a_newer_major_version_is_left_alone(tree: Path) -> None:
    index = tree / INDEX_NAME
    index.write_text('{"version": "2.0", "entries": {}}')
    for command in ("list", "rebuild", "watch", "verify"):
        done = run(command, tree)
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)
        assert f"ckpt-indexer: {index} has version 2.0" in done.stderr
    assert index.read_text() == '{"version": "2.0", "entries": {}}'


def test_jq_reads_the_index(prepared: Path) -> None:
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    program = '.entries | map(select(.status == "ok")) | max_by(.metrics.hmean).path'
    done = subprocess.run(["jq", "-r", program, prepared / INDEX_NAME], capture_output=True, text=True, check=True)
    assert done.stdout == "exp/checkpoints/e1.ckpt\n"


def test_list_imports_nothing_heavy(prepared: Path) -> None:
    script = (
        "import sys; sys.argv = ['x']\n"
        "from ckpt_indexer.cli import main\n"
        "try: main(['list', sys.argv[0] and %r, '-q'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'pydantic', 'structlog', 'watchdog', 'rich', 'yaml'} & set(sys.modules)))"
    ).replace("%r", repr(str(prepared)))
    python = Path(COMMAND).with_name("python")
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_control_sequences_in_names_never_reach_the_terminal(tree: Path) -> None:
    folder = tree / "exp/checkpoints"
    shutil.copy(folder / "e0.ckpt", folder / "\x1b[2Jevil\n.ckpt")
    run("rebuild", tree)
    for arguments in (["list", tree], ["list", tree, "-q"], ["validate", tree], ["verify", tree, "-q"]):
        done = run(*arguments)
        assert "\x1b" not in done.stdout + done.stderr
        assert done.stdout.count("evil") == (0 if arguments[0] == "verify" else 1)
