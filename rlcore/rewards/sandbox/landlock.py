"""Landlock through ctypes: restricts the files that a process and its children may open (Linux 5.13 or newer).

This module is also loaded inside the sandbox: it imports only the standard library. See landlock(7) for the numbers.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

CREATE, ADD_RULE, RESTRICT = 444, 445, 446  # equal on x86_64 and aarch64
PR_SET_NO_NEW_PRIVS = 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
READ = READ_FILE | READ_DIR
ALL_V1 = (1 << 13) - 1
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def abi() -> int:
    """The Landlock version of the kernel; 0 without Landlock."""
    return int(max(0, libc.syscall(CREATE, None, ctypes.c_size_t(0), 1)))


def handled(version: int) -> int:
    """All file accesses that this version of Landlock can deny."""
    return ALL_V1 | (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0) | (IOCTL_DEV * (version >= 5))


def ruleset(rules: Iterable[tuple[str, int]]) -> int:
    """Descriptor of a ruleset that denies everything except `rules`: (path, rights beneath it). Missing paths are
    skipped.

    Version 4 and newer also deny TCP, version 6 and newer signals and abstract sockets to the outside.

    Raises:
        OSError: the kernel has no Landlock.
    """
    version = abi()
    fields = (handled(version), 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    made = libc.syscall(CREATE, struct.pack("QQQ", *fields), ctypes.c_size_t(size), 0)
    if made < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset: " + os.strerror(ctypes.get_errno()))
    for path, rights in rules:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            rights &= fields[0] if stat.S_ISDIR(os.fstat(fd).st_mode) else fields[0] & OF_FILES
            if libc.syscall(ADD_RULE, made, 1, struct.pack("=Qi", rights, fd), 0):
                raise OSError(ctypes.get_errno(), f"landlock_add_rule {path}: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(fd)
    return int(made)


def restrict(fd: int) -> None:
    """Applies a ruleset permanently to the calling thread and its children.

    Raises:
        OSError: refused.
    """
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(RESTRICT, fd, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self: " + os.strerror(ctypes.get_errno()))
