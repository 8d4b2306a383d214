"""The process group of a model's ranks."""

from __future__ import annotations

import logging
import os
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore


def init_distributed(
    rank: int,
    world_size: int,
    master_addr: str,
    master_port: int,
    device: str,
    timeout_s: float,
    store: TCPStore | None = None,
) -> None:
    """Joins the process group (gloo on CPU, nccl on CUDA) and registers it with DeepSpeed. Once per process.

    DeepSpeed's shared-memory all-reduce, which it would compile with g++ at first use, serves tensor-parallel
    inference alone; it is switched off, so no compiler is needed.

    Args:
        device: "cpu" or "cuda"; with "cuda" the process must see its own GPU as device 0.
        timeout_s: of the rendezvous and of every later collective.
        store: rank 0's, if it listens already at that address; otherwise it starts to.

    Raises:
        torch.distributed.DistError: the others did not come in time.
    """
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK="0")
    os.environ.update(MASTER_ADDR=master_addr, MASTER_PORT=str(master_port))
    if device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    else:
        torch.cuda.set_device(0)
    limit = timedelta(seconds=timeout_s)
    if store is None:
        store = TCPStore(master_addr, master_port, None, rank == 0, limit, wait_for_workers=False)
    store.set_timeout(limit)
    backend = "gloo" if device == "cpu" else "nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.WARNING)
    # DeepSpeed's calls, one warning per step
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, timeout=limit)


def leave_distributed() -> None:
    """Leaves the process group, if any."""
    if dist.is_initialized():
        dist.destroy_process_group()
