"""Any order of operations on files and folders, against the real daemon, with a plain scan as the oracle."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from ckpt_indexer import read_index
from ckpt_indexer.passes.scan import scan
from tests.process import Daemon, index_equals_disk

FOLDERS = st.sampled_from(["a", "a/checkpoints", "b/checkpoints", "a/checkpoints/epoch=1-val", "b/s.ckpt"])
NAMES = st.sampled_from(["x.ckpt", "last.ckpt", "hmean=0.5.ckpt", "x.tmp"])
_sample: bytes = b""


class Tree(RuleBasedStateMachine):
    """A folder with a daemon, and another one outside to move things to and from."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.root, self.outside = self.folder / "outputs", self.folder / "outside"
        self.root.mkdir()
        self.outside.mkdir()
        self.daemon = Daemon(self.root)
        self.daemon.__enter__()

    def teardown(self) -> None:
        try:
            self.agree()
        finally:
            self.daemon.__exit__()
            shutil.rmtree(self.folder)

    @rule(folder=FOLDERS, name=NAMES, whole=st.booleans())
    def write(self, folder: str, name: str, whole: bool) -> None:
        path = self.root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            if path.is_symlink():
                path.unlink()
            path.write_bytes(_sample if whole else _sample[:200])

    @rule(folder=FOLDERS, name=NAMES)
    def truncate(self, folder: str, name: str) -> None:
        path = self.root / folder / name
        if path.is_file() and not path.is_symlink():
            with path.open("r+b") as file:
                file.truncate(100)

    @rule(source=FOLDERS, name=NAMES, goal=FOLDERS, new_name=NAMES)
    def rename(self, source: str, name: str, goal: str, new_name: str) -> None:
        old, new = self.root / source / name, self.root / goal / new_name
        if old.is_file() and new.parent.is_dir() and not new.is_dir():
            old.replace(new)

    @rule(folder=FOLDERS, name=NAMES, to=NAMES)
    def link(self, folder: str, name: str, to: str) -> None:
        path = self.root / folder / name
        if path.parent.is_dir() and not path.is_dir():
            path.unlink(missing_ok=True)
            path.symlink_to(to)

    @rule(folder=FOLDERS, name=NAMES, to=NAMES)
    def hard_link(self, folder: str, name: str, to: str) -> None:
        old, new = self.root / folder / name, self.root / folder / to
        if old.is_file() and not os.path.lexists(new):
            os.link(old, new)

    @rule(folder=FOLDERS, name=NAMES)
    def delete(self, folder: str, name: str) -> None:
        path = self.root / folder / name
        if os.path.lexists(path) and not path.is_dir():
            path.unlink()

    @rule(folder=FOLDERS, name=NAMES)
    def delete_sidecar(self, folder: str, name: str) -> None:
        (self.root / folder / f"{name}.metadata.yaml").unlink(missing_ok=True)

    @rule(folder=FOLDERS)
    def delete_folder(self, folder: str) -> None:
        # rm, not rmtree: the daemon may write a sidecar meanwhile, and rm tries as a person would.
        subprocess.run(["rm", "-rf", self.root / folder], check=False, capture_output=True)

    @rule(folder=FOLDERS, number=st.integers(0, 2))
    def move_folder_out(self, folder: str, number: int) -> None:
        target = self.outside / str(number)
        if (self.root / folder).is_dir() and not target.exists():
            (self.root / folder).rename(target)

    @rule(folder=FOLDERS, number=st.integers(0, 2))
    def move_folder_in(self, folder: str, number: int) -> None:
        source, target = self.outside / str(number), self.root / folder
        if source.exists() and not os.path.lexists(target) and target.parent.is_dir():
            source.rename(target)

    @rule(source=FOLDERS, goal=FOLDERS)
    def move_folder(self, source: str, goal: str) -> None:
        old, new = self.root / source, self.root / goal
        if old.is_dir() and not new.exists() and new.parent.is_dir() and not new.is_relative_to(old):
            old.rename(new)

    @rule(folder=st.sampled_from(["", "a", "b"]), text=st.sampled_from(["exp_name: x", "model: {encoder: y}", "["]))
    def configure(self, folder: str, text: str) -> None:
        if (self.root / folder).is_dir():
            (self.root / folder / "config.yaml").write_text(text)

    @rule()
    def agree(self) -> None:
        self.daemon.sync()
        assert index_equals_disk(self.root)
        entries = read_index(self.root).entries
        oracle = scan(str(self.root))
        beside = {key for key, found in oracle.found.items() if found.stamp.sidecar is not None}
        described = {key for key, entry in entries.items() if entry.metadata_file is not None}
        # What cannot be read just now keeps the sidecar of what it was; everything else has one, or none.
        assert described <= beside
        assert {entries[key].status for key in beside - described} <= {"incomplete", "unreadable"}
        assert oracle.orphans == {}
        assert oracle.temporaries == []
        assert not self.daemon.events("turn_failed")
        assert not self.daemon.events("checkpoint_failed")
        assert [path for path in self.outside.rglob("*.tmp") if path.name.startswith(".ckpt")] == []


@pytest.mark.parametrize(
    ("examples", "steps"), [(5, 30), pytest.param(300, 60, marks=pytest.mark.soak)], ids=["bounded", "soak"]
)
def test_after_any_operations_the_index_equals_a_fresh_scan(
    tmp_path_factory: pytest.TempPathFactory, examples: int, steps: int
) -> None:
    import torch

    path = tmp_path_factory.mktemp("sample") / "sample.ckpt"
    torch.save({"epoch": 3, "state_dict": {"w": torch.zeros(4, 5)}}, path)
    global _sample  # noqa: PLW0603 - hypothesis makes the machines itself
    _sample = path.read_bytes()
    run_state_machine_as_test(
        Tree,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate] if examples < 100 else list(Phase),
        ),
    )
