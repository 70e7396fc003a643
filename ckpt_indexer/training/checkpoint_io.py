"""A strategy's ``CheckpointIO`` with the callback informed of every save and removal, whoever asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckpt_indexer.training.framework import CheckpointIO
from ckpt_indexer.training.places import REMOVED, stat

if TYPE_CHECKING:
    from ckpt_indexer.training.callback import MetadataCallback


class RecordingIO(CheckpointIO):  # type: ignore[misc]
    """A strategy's ``CheckpointIO``, and the callback told of what it does. Everything else is the inner one's.

    Lightning calls it on rank zero, on the thread that saves.
    """

    def __init__(self, inner: Any, callback: MetadataCallback, trainer: Any) -> None:
        super().__init__()
        self.inner = inner
        self.callback = callback
        self._trainer = trainer

    def save_checkpoint(self, checkpoint: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        before = self.callback.before_save(self._trainer, checkpoint, path)
        try:
            self.inner.save_checkpoint(checkpoint, path, *args, **kwargs)
        finally:
            self.callback.after_change(self._trainer, path, before)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner.load_checkpoint(*args, **kwargs)

    def remove_checkpoint(self, path: Any) -> None:
        before = stat(path)
        try:
            self.inner.remove_checkpoint(path)
        finally:
            if before is not None:  # OnExceptionCheckpoint removes at each end what it hardly ever saved
                self.callback.after_change(self._trainer, path, REMOVED)

    def teardown(self) -> None:
        try:
            self.inner.teardown()  # what is written asynchronously stands afterwards
        finally:
            self.callback.finish(self._trainer)

    def __getattr__(self, name: str) -> Any:
        if name == "inner" or name.startswith("__"):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.inner, name)
