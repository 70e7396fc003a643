"""Keeping the index equal to the disk.

    emitter ─▶ hints ─▶ scan ─▶ reconcile ─▶ indexer ─▶ index
    (inotify)  (where    (what    (what to    (read, write
               to look)  is there) do: pure)   sidecars, commit)

``daemon`` is the loop around it, ``notify`` its word to systemd.
"""
