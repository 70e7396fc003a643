"""``ckpt-indexer serve``: the index over HTTP."""

from __future__ import annotations

import gc
import importlib.util
import os
from typing import Any

import click

from ckpt_indexer.cli.flags import settings_options
from ckpt_indexer.cli.options import note, root_argument
from ckpt_indexer.errors import ExtraMissing
from ckpt_indexer.printable import printable
from ckpt_indexer.systemd_notify import ServiceManager
from ckpt_indexer.tree.local import check_root
from ckpt_indexer.web.settings import NOT_FLAGS, ServerSettings, load_server_settings

_NEEDED = ("fastapi", "uvicorn", "httptools", "prometheus_client")


@click.command("serve")
@root_argument
@click.option(
    "--config", type=click.Path(dir_okay=False), envvar="CKPT_INDEXER_SERVE_CONFIG", help="YAML file of settings."
)
@settings_options(ServerSettings, exclude=NOT_FLAGS)
def command(root: str, config: str | None, **flags: Any) -> None:
    """Serve the index of ROOT as a page and an HTTP API, until SIGTERM or Ctrl-C.

    It only reads the index: no daemon is needed, nothing is written, and the tree is not walked. The token that an
    address other than loopback needs is the first line of --token-file, or $CKPT_INDEXER_TOKEN.
    """
    gc.disable()  # until all is there: a tenth of the start, and none of it is garbage
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ExtraMissing(missing=", ".join(missing))
    settings = load_server_settings(flags, os.environ, config)
    check_root(root)

    from ckpt_indexer.web.app import create_app
    from ckpt_indexer.web.server import listen, serve

    manager = ServiceManager(os.environ)
    with listen(settings) as listener:
        app = create_app(root, settings)
        app.api.preload()
        gc.freeze()  # what is loaded by now is not looked through again and again
        gc.enable()
        host, port = listener.getsockname()[:2]
        address = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

        def ready() -> None:
            manager.ready(f"serving {address}")
            note(f"serving {printable(root)} at {address}")

        serve(app, settings, listener, ready)
