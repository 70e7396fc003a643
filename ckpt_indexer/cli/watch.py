"""``ckpt-indexer watch``: the daemon."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

import click

from ckpt_indexer.cli.flags import settings_options
from ckpt_indexer.cli.options import root_argument
from ckpt_indexer.errors import SettingInvalid
from ckpt_indexer.log import configure_log
from ckpt_indexer.settings import Settings, load_settings
from ckpt_indexer.systemd_notify import ServiceManager
from ckpt_indexer.watch.daemon import Daemon


@click.command("watch")
@root_argument
@click.option("--config", type=click.Path(dir_okay=False), envvar="CKPT_INDEXER_CONFIG", help="YAML file of settings.")
@click.option("--json", "as_json", is_flag=True, help="Log JSON lines: the same as --log-format=json.")
@settings_options(Settings)
def command(root: str, config: str | None, as_json: bool, **flags: Any) -> None:
    """Watch ROOT and keep its index and sidecars equal to the disk, until SIGTERM or Ctrl-C.

    SIGHUP reads the settings again.
    """
    if as_json:
        flags["log_format"] = "json"

    def load() -> Settings:
        settings = load_settings(Settings, flags, os.environ, config)
        if settings.wandb_api and importlib.util.find_spec("wandb") is None:
            raise SettingInvalid(setting="wandb_api", reason="it needs wandb: pip install 'ckpt-indexer[wandb]'")
        configure_log(settings.log_level, settings.log_format, is_terminal=sys.stderr.isatty())
        return settings

    Daemon(root, load, ServiceManager(os.environ)).run()
