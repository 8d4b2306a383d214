"""Seccomp filters: the system calls a program may make. Built as classic BPF, installed through ctypes.

Two filters. `strict` lists allowed calls, for Python programs that compute, read and print, with threads. `broad` lists
denied calls, for other languages with unknown runtimes. Both deny new processes (threads are allowed), sockets, signals
to and inspection of other processes, mounts and namespaces. This module is also loaded inside the sandbox: it imports
only the standard library. See seccomp(2) and the kernel's unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

NUMBERS = """
read 0 63|write 1 64|readv 19 65|writev 20 66|pread64 17 67|pwrite64 18 68|preadv 295 69|pwritev 296 70
preadv2 327 286|pwritev2 328 287|close 3 57|close_range 436 436|lseek 8 62|mmap 9 222|munmap 11 215|mprotect 10 226
mremap 25 216|madvise 28 233|brk 12 214|mincore 27 232|msync 26 227|open 2 -|openat 257 56|stat 4 -|fstat 5 80
lstat 6 -|newfstatat 262 79|statx 332 291|access 21 -|faccessat 269 48|faccessat2 439 439|readlink 89 -
readlinkat 267 78|getcwd 79 17|chdir 80 49|fchdir 81 50|getdents64 217 61|getdents 78 -|fcntl 72 25|dup 32 23
dup2 33 -|dup3 292 24|pipe 22 -|pipe2 293 59|ioctl 16 29|ftruncate 77 46|fsync 74 82|fdatasync 75 83|flock 73 32
statfs 137 43|fstatfs 138 44|fadvise64 221 223|sendfile 40 71|copy_file_range 326 285|splice 275 76
rt_sigaction 13 134|rt_sigprocmask 14 135|rt_sigreturn 15 139|rt_sigpending 127 136|rt_sigtimedwait 128 137
rt_sigsuspend 130 133|sigaltstack 131 132|alarm 37 -|setitimer 38 103|getitimer 36 102|pause 34 -|nanosleep 35 101
clock_nanosleep 230 115|clock_gettime 228 113|clock_getres 229 114|gettimeofday 96 169|time 201 -|times 100 153
getpid 39 172|gettid 186 178|getppid 110 173|getuid 102 174|geteuid 107 175|getgid 104 176|getegid 108 177
getgroups 115 158|getresuid 118 148|getresgid 120 150|getpgrp 111 -|getpgid 121 155|getsid 124 156|uname 63 160
sysinfo 99 179|getrusage 98 165|getrlimit 97 163|prlimit64 302 261|getrandom 318 278|futex 202 98
set_robust_list 273 99|get_robust_list 274 100|set_tid_address 218 96|rseq 334 293|arch_prctl 158 -|sched_yield 24 124
sched_getaffinity 204 123|sched_getparam 143 121|sched_getscheduler 145 120|sched_get_priority_max 146 125
sched_get_priority_min 147 126|getcpu 309 168|exit 60 93|exit_group 231 94|membarrier 324 283|restart_syscall 219 128
poll 7 -|ppoll 271 73|select 23 -|pselect6 270 72|epoll_create 213 -|epoll_create1 291 20|epoll_ctl 233 21
epoll_wait 232 -|epoll_pwait 281 22|epoll_pwait2 441 441|eventfd2 290 19|timerfd_create 283 85|timerfd_settime 286 86
timerfd_gettime 287 87|socketpair 53 199|sendto 44 206|recvfrom 45 207|sendmsg 46 211|recvmsg 47 212|shutdown 48 210
getsockopt 55 209|getsockname 51 204|getpeername 52 205|clone 56 220|clone3 435 435|kill 62 129|tkill 200 130
tgkill 234 131|umask 95 166|prctl 157 167|fork 57 -|vfork 58 -|execve 59 221|execveat 322 281|ptrace 101 117
process_vm_readv 310 270|process_vm_writev 311 271|kcmp 312 272|process_madvise 440 440|socket 41 198|connect 42 203
bind 49 200|listen 50 201|accept 43 202|accept4 288 242|mount 165 40|sendmmsg 307 269|umount2 166 39|pivot_root 155 41
chroot 161 51|unshare 272 97|setns 308 268|bpf 321 280|userfaultfd 323 282|perf_event_open 298 241|keyctl 250 219
add_key 248 217|request_key 249 218|io_uring_setup 425 425|io_uring_enter 426 426|io_uring_register 427 427
pidfd_open 434 434|pidfd_getfd 438 438|pidfd_send_signal 424 424|rt_sigqueueinfo 129 138|rt_tgsigqueueinfo 297 240
setsid 112 157|setpgid 109 154|chmod 90 -|fchmod 91 52|fchmodat 268 53|fchmodat2 452 452|chown 92 -|fchown 93 55
lchown 94 -|fchownat 260 54|setxattr 188 5|lsetxattr 189 6|fsetxattr 190 7|removexattr 197 14|lremovexattr 198 15
fremovexattr 199 16|utime 132 -|utimes 235 -|utimensat 280 88|futimesat 261 -|reboot 169 142|swapon 167 224
swapoff 168 225|kexec_load 246 104|init_module 175 105|finit_module 313 273|delete_module 176 106|acct 163 89
settimeofday 164 170|clock_settime 227 112|adjtimex 159 171|clock_adjtime 305 266|sethostname 170 161
setdomainname 171 162|open_by_handle_at 304 265|name_to_handle_at 303 264|quotactl 179 60|syslog 103 116
move_mount 429 429|open_tree 428 428|fsopen 430 430|fsmount 432 432|fsconfig 431 431|fspick 433 433
mount_setattr 442 442|setpriority 141 140|sched_setaffinity 203 122|sched_setscheduler 144 119|sched_setattr 314 274
sched_setparam 142 118|ioprio_set 251 30|memfd_create 319 279|memfd_secret 447 447|shmget 29 194|shmat 30 196
shmctl 31 195|msgget 68 186|semget 64 190|mq_open 240 180|mq_unlink 241 181|ioperm 173 -|iopl 172 -|modify_ldt 154 -
migrate_pages 256 238|move_pages 279 239|truncate 76 45|vhangup 153 58|fanotify_init 300 262|inotify_init 253 -
inotify_init1 294 26|openat2 437 437|setxattrat 463 463|removexattrat 466 466|personality 135 92
"""
FORKS = "fork vfork"
EXECS = "execve execveat"
CHMODS = "chmod fchmod fchmodat fchmodat2 utime utimes utimensat futimesat"  # the linker needs them
REFUSED = (
    "ptrace process_vm_readv process_vm_writev kcmp process_madvise socket connect bind listen accept accept4 "
    "sendmmsg mount umount2 pivot_root chroot unshare setns bpf userfaultfd perf_event_open keyctl add_key "
    "request_key io_uring_setup io_uring_enter io_uring_register pidfd_open pidfd_getfd pidfd_send_signal "
    "rt_sigqueueinfo rt_tgsigqueueinfo setsid setpgid chown fchown lchown fchownat setxattr lsetxattr fsetxattr "
    "removexattr lremovexattr fremovexattr reboot swapon swapoff kexec_load init_module finit_module "
    "delete_module acct settimeofday clock_settime adjtimex clock_adjtime sethostname setdomainname "
    "open_by_handle_at name_to_handle_at quotactl syslog move_mount open_tree fsopen fsmount fsconfig fspick "
    "mount_setattr setpriority sched_setaffinity sched_setscheduler sched_setattr sched_setparam ioprio_set "
    "memfd_secret shmget shmat shmctl msgget semget mq_open mq_unlink ioperm iopl modify_ldt migrate_pages "
    "move_pages vhangup fanotify_init inotify_init inotify_init1 openat2 setxattrat removexattrat personality "
    "truncate"
)
DECIDED = "clone clone3 kill tgkill tkill prctl prlimit64 socketpair fcntl ioctl open openat memfd_create"

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH_*, column of NUMBERS
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, EQUAL, AT_LEAST, AND, RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
CLONE_THREAD, CLONE_NAMESPACES = 0x10000, 0x7E020080
CREATE = os.O_CREAT | 0o20000000  # and __O_TMPFILE
FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032, 1034)  # duplicate, flags, locks, sizes; no F_SETOWN, which signals others
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # terminal?, window size, FIONREAD, FIONBIO, FIO(N)CLEX
PRCTLS = (15, 16)  # the thread's name


def _numbers() -> dict[str, int]:
    machine = os.uname().machine
    if machine not in MACHINES:
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")
    rows = (row.split() for row in NUMBERS.replace("\n", "|").split("|") if row)
    return {row[0]: int(row[1 + MACHINES[machine][1]]) for row in rows if row[1 + MACHINES[machine][1]] != "-"}


class Filter:
    """Builder of a classic BPF program over `struct seccomp_data`."""

    def __init__(self) -> None:
        self.code: list[tuple[int, int, int, int]] = []
        self.numbers = _numbers()
        self.op(LOAD, 4)
        self.op(EQUAL, MACHINES[os.uname().machine][0], 1, 0)
        self.op(RETURN, KILL)
        self.op(LOAD, 0)
        self.op(AT_LEAST, 0x40000000, 0, 1)  # the x32 calls, under the same architecture
        self.op(RETURN, KILL)

    def op(self, op: int, k: int, yes: int = 0, no: int = 0) -> None:
        self.code.append((op, yes, no, k))

    def always(self, names: str, action: int) -> None:
        for name in names.split():
            if name in self.numbers:
                self.op(EQUAL, self.numbers[name], 0, 1)
                self.op(RETURN, action)

    def masked(self, names: str, argument: int, mask: int, values: tuple[int, ...], then: int, other: int) -> None:
        """Returns `then` if the masked low word of the argument is one of `values`, otherwise `other`."""
        for name in names.split():
            if name not in self.numbers:
                continue
            self.op(EQUAL, self.numbers[name], 0, 3 + 2 * len(values))
            self.op(LOAD, 16 + 8 * argument)
            self.op(AND, mask)
            for value in values:
                self.op(EQUAL, value, 0, 1)
                self.op(RETURN, then)
            self.op(RETURN, other)

    def end(self, action: int) -> bytes:
        self.op(RETURN, action)
        return b"".join(struct.pack("HBBI", *op) for op in self.code)


NO = ERRNO | errno.EPERM
WORD = 0xFFFFFFFF


def _decided(made: Filter, pid: int, creates: bool) -> None:
    """Rules that depend on arguments, equal in both filters."""
    thread = CLONE_THREAD | CLONE_NAMESPACES
    made.masked("clone", 0, thread, (CLONE_THREAD,), ALLOW, NO)
    made.always("clone3", ERRNO | errno.ENOSYS)  # its flags are in memory, unreadable here; libc falls back to clone
    made.masked("kill tgkill", 0, WORD, (pid,), ALLOW, NO)
    made.always("tkill", NO)
    made.masked("prlimit64", 0, WORD, (0, pid), ALLOW, NO)
    made.masked("fcntl", 1, WORD, FCNTLS, ALLOW, NO)
    # not read-only with O_TRUNC: the one way to change a file that Landlock before version 3 does not see
    write = (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_TRUNC)
    mask = os.O_ACCMODE | os.O_TRUNC | (0 if creates else CREATE)
    made.masked("open", 1, mask, (os.O_RDONLY, *write), ALLOW, NO)
    made.masked("openat", 2, mask, (os.O_RDONLY, *write), ALLOW, NO)
    if "socketpair" in made.numbers:
        _unix_streams(made)


def strict(pid: int, creates: bool) -> bytes:
    """The filter for a Python program in process `pid`. Unlisted calls fail with EPERM.

    Args:
        creates: allows opening with O_CREAT, because Landlock controls it.
    """
    made = Filter()
    named = set(f"{FORKS} {EXECS} {CHMODS} {REFUSED} {DECIDED}".split())
    made.always(" ".join(name for name in made.numbers if name not in named), ALLOW)
    _decided(made, pid, creates)
    made.masked("prctl", 0, WORD, PRCTLS, ALLOW, NO)
    made.masked("ioctl", 1, WORD, IOCTLS, ALLOW, ERRNO | errno.ENOTTY)
    return made.end(NO)


def _unix_streams(made: Filter) -> None:
    """Allows pairs of AF_UNIX streams (asyncio needs one); a datagram socket could send to any address."""
    made.op(EQUAL, made.numbers["socketpair"], 0, 7)
    made.op(LOAD, 16)
    made.op(EQUAL, 1, 0, 4)
    made.op(LOAD, 24)
    made.op(AND, 0xFF)
    made.op(EQUAL, 1, 0, 1)
    made.op(RETURN, ALLOW)
    made.op(RETURN, NO)


def broad(pid: int, forks: bool) -> bytes:
    """The filter for a command in process `pid`: denies only calls that could reach out of the sandbox.

    Args:
        forks: for compilers, which start processes and set modes; these stay in their process group.
    """
    made = Filter()
    made.always(REFUSED, NO)
    if forks:
        made.masked("clone", 0, CLONE_NAMESPACES, (0,), ALLOW, NO)
    else:
        made.always(f"{FORKS} {CHMODS}", NO)
    _decided(made, pid, True)
    made.masked("prctl", 0, WORD, (1, 4, 36), NO, ALLOW)  # the signal at our end, dumpable, subreaper
    made.masked("ioctl", 1, WORD, (0x5412, 0x541C), NO, ALLOW)  # TIOCSTI, TIOCLINUX
    return made.end(ALLOW)


def install(code: bytes) -> None:
    """Applies a filter permanently to the calling thread.

    Raises:
        OSError: refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp: " + os.strerror(ctypes.get_errno()))


assert sys.byteorder == "little"  # little-endian: the low word comes first, on both architectures
