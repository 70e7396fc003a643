"""The ``checkpoints`` section: the same bytes as if all entries were listed anew, and no entry decoded for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from ckpt_indexer.index.codec import Listed
from ckpt_indexer.index.listings import Listings
from ckpt_indexer.paths import Key
from tests.index.entries import entry

if TYPE_CHECKING:
    from collections.abc import Iterable

    import msgspec

_names = st.sampled_from(
    ["a.ckpt", "a.ckpt.b.ckpt", "a.ckpt.n.ckpt", "b", 'q".ckpt', "\n", "é.ckpt", "\U0001f600", "../x"]
)
_listed = st.builds(
    Listed,
    experiment=st.sampled_from(["one", "two"]),
    name=_names,
    status=st.sampled_from(["ok", "corrupt"]),
    mtime=st.sampled_from(["2026-01-01", "2026-01-02", "by hand", "", None]),
    metadata_file=st.sampled_from([None, "some.yaml"]),
)


def listed_anew(entries: Iterable[Listed]) -> dict[str, Any]:
    """List entries as a reader would describe it: grouped, filtered, sorted."""
    usable = sorted((each for each in entries if each.status == "ok"), key=lambda each: each.name)
    return {
        experiment: {
            "checkpoints": [each.name for each in usable if each.experiment == experiment],
            "metadata_files": [
                f"{each.name}.metadata.yaml"
                for each in usable
                if each.experiment == experiment and each.metadata_file is not None
            ],
            "last_modified": max(each.mtime or "" for each in usable if each.experiment == experiment),
        }
        for experiment in {each.experiment for each in usable}
    }


def decoded(encoded: Any) -> dict[str, Any]:
    raw: dict[str, msgspec.Raw] = dict(encoded)
    return {experiment: json.loads(bytes(value)) for experiment, value in raw.items()}


@given(st.lists(st.tuples(st.lists(_listed, max_size=5), st.integers(0, 2**16)), max_size=6))
def test_changes_come_to_what_listing_everything_anew_would(batches: list[tuple[list[Listed], int]]) -> None:
    listings, present = Listings(), list[Listed]()
    for added, choice in batches:
        gone = [each for i, each in enumerate(present) if choice >> i & 1]
        present = [each for i, each in enumerate(present) if not choice >> i & 1] + added
        for each in gone:
            listings.remove(each)
        for each in added:
            listings.add(each)
        listings.apply()
        assert decoded(listings.encoded) == listed_anew(present)


def test_a_listing_names_the_usable_checkpoints_in_order() -> None:
    listings = Listings()
    listings.add(entry("e/checkpoints/b.ckpt", mtime="2026-01-02T00:00:00.000000Z"))
    listings.add(entry("e/checkpoints/a.ckpt", metadata_file=None))
    listings.add(entry("e/checkpoints/c.ckpt", status="corrupt", mtime="2027-01-01T00:00:00.000000Z"))
    listings.add(entry("other/checkpoints/c.ckpt", status="corrupt"))
    listings.apply()
    assert decoded(listings.encoded) == {
        "e": {
            "checkpoints": ["a.ckpt", "b.ckpt"],
            "metadata_files": ["b.ckpt.metadata.yaml"],
            "last_modified": "2026-11-21T10:30:00.000000Z",
        }
    }


def test_of_two_names_that_are_the_same_the_right_one_goes() -> None:
    older = Listed("e", "x.ckpt", mtime="2026-01-01", metadata_file=None)
    newer = Listed("e", "x.ckpt", mtime="2026-01-02", metadata_file=Key("x.yaml"))
    for first, second in ((older, newer), (newer, older)):
        listings = Listings()
        listings.add(first)
        listings.add(second)
        listings.apply()
        listings.remove(newer)
        listings.apply()
        assert decoded(listings.encoded) == listed_anew([older])
