"""From facts, configuration and what others wrote to one document about a checkpoint, its sidecar.

``schema`` is the document, ``sidecar`` its form on disk, ``config``, ``score`` and ``encoder`` find one thing each,
``compose`` puts the tiers together, ``entry`` derives the index's record. All of it is pure: nothing here opens a file,
but for ``backbones`` its table, which is a part of the package.
"""
