"""Writes sharded checkpoints as training on several processes does; run as ``python -m tests.formats.distributed``.

The processes find each other by a file, and talk over the loopback interface.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict, get_state_dict
from torch.distributed.fsdp import fully_shard

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = timedelta(seconds=60)


class Model(nn.Module):
    """A model with a part called "model", and one that is not in it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
        self.head = nn.Linear(6, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.model(x))


class App(dcp.stateful.Stateful):
    """Model and optimiser as one, as torch's tutorial has it."""

    def __init__(self, model: Any, optimizer: Any) -> None:
        self.model, self.optimizer = model, optimizer

    def state_dict(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optim": optimizer}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        raise NotImplementedError


def write_shards(root: str, rank: int, world_size: int) -> None:
    """Train a sharded model for a step and save it in the ways that people do."""
    store = dist.FileStore(f"{root}/store", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=PATIENCE)
    mesh = dist.device_mesh.init_device_mesh("cpu", (world_size,))
    model = Model()
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    whole = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
        "epoch": 3,
        "global_step": 128,
        "step": 5,
        "note": "text",
    }
    dcp.save(whole, checkpoint_id=f"{root}/fsdp2.ckpt")
    dcp.save({"app": App(model, optimizer)}, checkpoint_id=f"{root}/app.ckpt")
    dcp.save(get_model_state_dict(model), checkpoint_id=f"{root}/flat.ckpt")
    dist.destroy_process_group()


def write_lightning(root: str) -> None:
    """Let Lightning's ModelParallel save a folder while it trains.

    It takes the process group that is there: its own would open a port on every interface.
    """
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.strategies import ModelParallelStrategy

    from tests.samples import Data, Tiny

    class Sharded(Tiny):
        def configure_model(self) -> None:
            fully_shard(self.encoder, mesh=self.device_mesh["data_parallel"])

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=PATIENCE)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, default_root_dir=root, logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
        strategy=ModelParallelStrategy(process_group_backend="gloo", timeout=PATIENCE),
        callbacks=[ModelCheckpoint(root, "lightning", monitor="val/hmean", mode="max", enable_version_counter=False)],
    )  # fmt: skip
    trainer.fit(Sharded(lr=0.1), datamodule=Data())
    dist.destroy_process_group()


def forked(function: Callable[..., None], *arguments: Any) -> int:
    """Run a function in a process of its own, which starts with what is imported by now."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function(*arguments)
            code = 0
        except Exception:  # noqa: BLE001 - a child must not go on as its parent
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


if __name__ == "__main__":
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    children = [forked(write_shards, sys.argv[1], rank, 2) for rank in range(2)]
    children.append(forked(write_lightning, sys.argv[1]))
    sys.exit(max([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], key=abs))
