"""An entry's stamp, the entry's other way round; what an entry says of a document stands in test_compose."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ckpt_indexer.metadata.entry import bare_entry, stamp_of, write_stamp
from ckpt_indexer.model import OtherSidecar, Stamp
from ckpt_indexer.paths import Key

FINGERPRINTS = st.tuples(*[st.integers(0, 1 << 40)] * 3)
FILES = st.none() | st.tuples(st.sampled_from(["config.yaml", "wandb/run-1"]), FINGERPRINTS)
STAMPS = st.builds(
    Stamp,
    FINGERPRINTS,
    st.none() | st.just("best.ckpt"),
    st.none() | FINGERPRINTS,
    FILES,
    FILES,
    st.none() | st.builds(OtherSidecar, st.just("best.metadata.yaml"), FINGERPRINTS, st.booleans()),
)


def test_a_time_that_cannot_be_written_is_none() -> None:
    times = [bare_entry(Key("a.ckpt"), (1, mtime_ns, 1), None, None).mtime for mtime_ns in (0, 253_402_300_800 * 10**9)]
    assert times == ["1970-01-01T00:00:00.000000Z", None]


@given(STAMPS, st.sets(st.sampled_from(["config", "wandb"])))
def test_the_stamp_of_an_entry_is_the_one_that_was_written_into_it(stamp: Stamp, unused: set[str]) -> None:
    entry = bare_entry(Key("a/last.ckpt"), stamp.fingerprint, stamp.link_target, None)
    write_stamp(entry, stamp, unused=unused)
    assert stamp_of(entry) == stamp
    assert entry.config_path == (stamp.config[0] if stamp.config and "config" not in unused else None)
    assert entry.wandb_path == (stamp.run[0] if stamp.run and "wandb" not in unused else None)
