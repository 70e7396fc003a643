"""Whether a daemon lives on a root: the one answer that readers, commands and the web server share.

Owns the question only. It asks for the lock that a daemon holds as long as it lives, so a killed daemon is seen as dead
at once. It imports nothing heavy, because every reader of the index may ask; what the daemon says of itself is read
elsewhere (``watch/state.py``, ``web/account.py``).
"""

from __future__ import annotations

import fcntl
import os

from ckpt_indexer import paths

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def is_daemon_alive(root: str | os.PathLike[str]) -> bool:
    """Return whether a daemon holds its lock on *root* now; False where that cannot be seen."""
    try:
        fd = os.open(os.path.join(root, paths.DAEMON_LOCK_NAME), _FLAGS)
    except OSError:
        return False
    try:
        # Shared, so that two askers do not see each other; a starting daemon waits out the moment this takes.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        os.close(fd)
