"""The process of a model worker: threads, seeds, random states, address, memory."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import random
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch._C._distributed_c10d import TCPStore


def prepare(threads: int, seed: int) -> None:
    """Sets the CPU threads of this process and every random generator."""
    torch.set_num_threads(max(1, threads))
    torch.set_float32_matmul_precision("highest")  # TF32 would change float32 log-probs by 1e-2
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def open_store(timeout_s: float = 60.0) -> tuple[str, TCPStore]:
    """Address of this node in Ray (loopback outside of Ray), and a store that listens there.

    The store has its port from the system and keeps it, so that no other process can take the port before the peers
    connect.
    """
    import ray

    host = ray.util.get_node_ip_address() if ray.is_initialized() else "127.0.0.1"
    return host, TCPStore(host, 0, None, True, timedelta(seconds=timeout_s), wait_for_workers=False)


def identity() -> dict[str, Any]:
    """pid and node of this process."""
    import ray

    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else socket.gethostname()
    return {"pid": os.getpid(), "node": node}


def memory() -> dict[str, float]:
    """Memory in bytes: resident memory of the process; allocated, peak and reserved memory of its GPU."""
    import psutil

    used = {"rss": float(psutil.Process().memory_info().rss)}
    if torch.cuda.is_available() and torch.cuda.memory_allocated():
        used["gpu_allocated"] = float(torch.cuda.memory_allocated())
        used["gpu_peak"] = float(torch.cuda.max_memory_allocated())
        used["gpu_reserved"] = float(torch.cuda.memory_reserved())
    return used


def reset_peak() -> None:
    """Starts a new peak of GPU memory, for `memory`."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def release() -> None:
    """Returns GPU memory cached by torch to the driver."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def drop_pages(tensors: Iterable[torch.Tensor]) -> None:
    """Takes the pages of tensors that lie in mapped files out of resident memory; a later access reads them again.

    The tensors must not have been changed.
    """
    for tensor in tensors:
        begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        size = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - begin
        if size > 0:
            with suppress(AttributeError, OSError):  # not Linux
                ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def random_states() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_states(states: Mapping[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
