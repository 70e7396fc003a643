"""Keeping the index equal to the disk.

    emitter ─▶ observer ─▶ hints ─▶ session ─▶ passes ─▶ index
    (inotify)  (paths to    (where    (a turn)   (scan, reconcile,
                subjects)   to scan)              read, commit)

``daemon`` owns signals and settings and begins a ``session`` for each root it meets; ``schedules`` and ``barriers`` say
when a session writes, scans and answers, and are pure; ``state`` writes what ``daemon_state`` reads.
"""
