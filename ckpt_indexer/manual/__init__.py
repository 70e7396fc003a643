"""The manual: one Markdown file a topic, beside this module and shipped with the package.

Owns the list of topics and their order. ``ckpt-indexer help`` (``cli.help``), ``/manual`` of the server
(``web.manual``) and GitHub show the same files, so a page links to another one by its file's name. The parts between
``<!-- generated -->`` comments are written by ``python -m tests.manual.generate``; the tests in ``tests/manual`` hold
all the text to the code. Knows nothing of terminals, HTML or the rest of the package.
"""

from __future__ import annotations

import difflib
import os
import re

FOLDER = os.path.dirname(os.path.abspath(__file__))
TOPICS = {  # topic -> what its page is about, in the order of the lists
    "start": "the first ten minutes, with a picture of the page",
    "howto": "recipes: find the best, resume after a crash, free disk space, notebooks, CI",
    "page": "the page in the browser",
    "command-line": "commands, filters, exit codes, JSON answers",
    "settings": "every setting: flag, environment variable, key of the YAML file",
    "python": "reading the index from Python",
    "http": "the HTTP API, and the router for a backend of your own",
    "training": "the callback for Lightning",
    "index-and-sidecar": "the files on disk: a specification",
    "formats": "which checkpoint formats are read",
    "facts": "where each fact comes from",
    "health": "what is wrong with a checkpoint, and how to check all of them",
    "operations": "systemd, metrics, dashboard, alerts",
    "log-events": "what the daemon logs",
    "promises": "what is promised, and what happens when something fails",
    "performance": "measured speed, and tuning",
    "troubleshooting": "symptom, cause, cure",
    "migration": "from an older catalogue to this index",
    "architecture": "how the package is built",
    "glossary": "the words, one meaning each",
}
FILES = ("page.png", "grafana-dashboard.json", "alert-rules.yml")  # what pages show, or link to
_COMMENT = re.compile(r"^<!--.*?-->\n+", re.MULTILINE)


def read_page(topic: str) -> str:
    """Read the Markdown of a page, without its comments.

    Raises:
        KeyError: there is no such topic.

    """
    if topic not in TOPICS:
        raise KeyError(topic)
    with open(os.path.join(FOLDER, f"{topic}.md"), encoding="utf-8") as file:
        return _COMMENT.sub("", file.read())


def find_nearest(topic: str, known: list[str]) -> list[str]:
    """Return the at most three names that *topic* may have been meant to be, the nearest first.

    >>> find_nearest("trouble", list(TOPICS)), find_nearest("log", ["log-events", "list"])
    (['troubleshooting'], ['log-events'])
    """
    wanted = topic.lower()
    parts = [name for name in known if wanted and wanted in name]
    return [*parts, *(near for near in difflib.get_close_matches(wanted, known, n=3) if near not in parts)][:3]
