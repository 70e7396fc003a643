"""Settings: who wins, and that each mistake is one line that names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ckpt_indexer.errors import EXIT_USAGE, SettingInvalid
from ckpt_indexer.settings import ENVIRONMENT_PREFIX, Settings, load_settings

if TYPE_CHECKING:
    from pathlib import Path


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("workers: 2\nscan_interval: 10\nlog_level: debug\n")
    environment = {"CKPT_INDEXER_WORKERS": "3", "CKPT_INDEXER_SCAN_INTERVAL": "20", "OTHER": "x"}
    settings = load_settings(Settings, {"workers": 4, "scan_interval": None}, environment, file)
    assert settings == Settings(workers=4, scan_interval=20.0, log_level="debug")


def test_without_anything_there_are_the_defaults(tmp_path: Path) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing\n")
    assert load_settings(Settings, {}, {}, None) == load_settings(Settings, {}, {}, empty) == Settings()


@pytest.mark.parametrize("text", ["0", "false", "no", "off"])
def test_a_switch_can_be_turned_off_by_the_environment(text: str) -> None:
    assert load_settings(Settings, {}, {"CKPT_INDEXER_SIDECARS": text}, None) == Settings(sidecars=False)


def test_every_setting_has_a_variable_and_a_description() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description
        if field.default is not None:
            environment = {ENVIRONMENT_PREFIX + name.upper(): str(field.default)}
            assert load_settings(Settings, {}, environment, None) == Settings()


@pytest.mark.parametrize(
    ("text", "suffixes"), [(".pt", (".pt",)), (".ckpt, .pth.tar,.bin", (".ckpt", ".pth.tar", ".bin"))]
)
def test_suffixes_are_split_at_commas(text: str, suffixes: tuple[str, ...]) -> None:
    assert load_settings(Settings, {"suffixes": text}, {}, None).suffixes == suffixes


@pytest.mark.parametrize("text", ["", "pt", ".yaml", ".metadata.yaml", ".pt,", "*.pt", ".json", ". pt", "./x"])
def test_a_suffix_that_would_take_our_own_files_or_everything_is_refused(text: str) -> None:
    with pytest.raises(SettingInvalid, match="suffix"):
        load_settings(Settings, {"suffixes": text}, {}, None)


@pytest.mark.parametrize(
    ("content", "setting", "reason"),
    [
        ("workers: 0", "workers", "greater than or equal to 1"),
        ("workers: many", "workers", "valid integer"),
        ("scan_interval: 0", "scan_interval", "greater than or equal to 1"),
        ("scan_interval: .nan", "scan_interval", "Input should be"),
        ("log_level: loud", "log_level", "Input should be 'debug', 'info', 'warning' or 'error'"),
        ("colour: red", "colour", "Extra inputs are not permitted"),
        ("a: [", "FILE", "not YAML"),
        ("- workers", "FILE", "it is no mapping of settings"),
        ("1: 2", "FILE", "it is no mapping of settings"),
        ("x: !!python/name:os.system", "FILE", "not YAML"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_the_reason(tmp_path: Path, content: str, setting: str, reason: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(content)
    with pytest.raises(SettingInvalid) as raised:
        load_settings(Settings, {}, {}, file)
    assert raised.value.setting == setting.replace("FILE", str(file))
    assert reason in raised.value.reason
    assert (raised.value.exit_code, str(raised.value).count("\n")) == (EXIT_USAGE, 0)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="No such file or directory"):
        load_settings(Settings, {}, {}, tmp_path / "gone.yaml")


@pytest.mark.parametrize("flags", [{"workers": 65}, {"scan_interval": 0.5}, {"log_format": "xml"}])
def test_a_flag_out_of_range_is_named(flags: dict[str, Any]) -> None:
    with pytest.raises(SettingInvalid) as raised:
        load_settings(Settings, flags, {}, None)
    assert raised.value.setting == next(iter(flags))
