"""What commands, HTTP and Python callers do to a root: each action takes a request and returns a value.

Owns the steps of ``rebuild`` (and ``generate``), ``verify``, ``validate``, ``show`` and ``sync``. Promises that nothing
here prints or parses arguments, and that ``plan`` writes nothing. Knows neither the command line nor HTTP. Where the
program has not set up a log, warnings go to standard error.

    from ckpt_indexer.actions.rebuild import Rebuild, apply, plan

    plan(Rebuild("outputs")).written   # keys of the checkpoints whose entry or sidecar would be written
    apply(Rebuild("outputs")).broken   # key -> why it cannot be used
"""
