"""Checkpoints side by side, from entries and documents alone."""

from __future__ import annotations

from ckpt_indexer.index.compare import ROWS_MAX, Row, compare
from ckpt_indexer.model import Monitor
from tests.index.entries import entry

ONE = entry("a/checkpoints/x.ckpt", epoch=1, metrics={"f1": 0.5}, monitor=Monitor("f1", "max", 0.5))
TWO = entry("b/checkpoints/x.ckpt", epoch=2, metrics={"f1": 0.5, "loss": 2})
DOCUMENT = {
    "training": {"max_epochs": 9},
    "model": {"encoder": {"name": "resnet18", "weights": []}},
    "indexer": {"hyper_parameters": {"optimizer": {"lr": 0.1}}, "datamodule_hyper_parameters": {"size": 4}},
}


def test_what_is_known_of_one_is_a_row_and_what_differs_is_marked() -> None:
    rows = {(row.group, row.name): row for row in compare([ONE, TWO], [DOCUMENT, None], only_differences=False)}
    assert rows["metrics", "f1"] == Row("metrics", "f1", [0.5, 0.5], differs=False)
    assert rows["metrics", "loss"] == Row("metrics", "loss", [None, 2], differs=True)
    assert rows["training", "monitor.name"].values == ["f1", None]
    assert rows["training", "max_epochs"].values == [9, None]
    assert rows["model", "encoder.name"].values == ["resnet18", None]
    assert rows["hyper_parameters", "optimizer.lr"].values == [0.1, None]
    assert rows["hyper_parameters", "datamodule.size"].values == [4, None]
    assert ("model", "encoder.weights") not in rows


def test_groups_come_in_one_order_and_only_differences_on_request() -> None:
    rows = compare([ONE, TWO], [None, DOCUMENT], only_differences=False)
    assert list(dict.fromkeys(row.group for row in rows)) == [
        "checkpoint", "metrics", "training", "model", "hyper_parameters"
    ]  # fmt: skip
    assert [row for row in rows if row.differs] == compare([ONE, TWO], [None, DOCUMENT], only_differences=True)


def test_a_document_that_anybody_wrote_is_bounded_and_breaks_nothing() -> None:
    wide = {"indexer": {"hyper_parameters": {str(n): n for n in range(ROWS_MAX + 10)}}, "model": "odd", "training": []}
    assert len(compare([ONE, TWO], [wide, None], only_differences=False)) == ROWS_MAX
