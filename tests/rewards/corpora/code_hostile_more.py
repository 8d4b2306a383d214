# ruff: noqa: E501  (a program to a line)
"""Further programs that must not score, of the same kinds and marks as `code_hostile`, by other means. Confined only.

One kind more: `hand` are assert tests that hand over lists to change and functions to call, and expect errors.
"""

from __future__ import annotations

MORE: list[tuple[str, str, str]] = []


def add(kind: str, name: str, program: str) -> None:
    MORE.append((f"{kind}-{name}", kind, program.strip("\n")))


# What is outside -----------------------------------------------------------------------------------------------------
add("leak", "standard-library-readers", """
import contextlib, fileinput, importlib.util, io, linecache, runpy, tokenize
path = '@CANARY@'
def module():
    spec = importlib.util.spec_from_file_location('m', path, loader=__import__('importlib.machinery').machinery.SourceFileLoader('m', path))
    return spec.loader.get_source('m')
ways = [lambda: io.open_code(path).read().decode(), lambda: ''.join(linecache.getlines(path)), lambda: tokenize.open(path).read(),
        lambda: ''.join(fileinput.input(path)), module, lambda: __import__('importlib.machinery').machinery.SourceFileLoader('m', path).get_data(path).decode(),
        lambda: __import__('pathlib').Path(path).read_text(), lambda: __import__('codecs').open(path).read(), lambda: __import__('netrc').netrc(path)]
for way in ways:
    with contextlib.suppress(Exception):
        if text := way():
            print(text)
            break
""")
add("leak", "syntax-error-shows-the-line", """
import runpy, traceback
try:
    runpy.run_path('@CANARY@')
except BaseException as error:
    print((getattr(error, 'text', '') or str(error)).strip().removeprefix("name '").split("'")[0])
""")
add("leak", "traceback-shows-the-line", """
import traceback
try:
    exec(compile('1/0', '@CANARY@', 'exec'))
except ZeroDivisionError:
    print(traceback.format_exc().splitlines()[-2].strip())
""")
add("leak", "subinterpreter", """
import _xxsubinterpreters as sub
sub.run_string(sub.create(), "print(open('@CANARY@').read(), flush=True)")
""")
add("leak", "reopen-a-path-descriptor", """
import os
fd = os.open('@CANARY@', os.O_PATH)
print(open(f'/proc/self/fd/{fd}').read())
""")
add("leak", "file-handle", """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
handle = (ctypes.c_uint * 40)(128)
mount = ctypes.c_int()
assert libc.syscall(303, -100, b'@CANARY@', handle, ctypes.byref(mount), 0) == 0
for root in ('/', '@FOLDER@', '.'):
    fd = libc.syscall(304, os.open(root, os.O_RDONLY | os.O_DIRECTORY), handle, 0)
    if fd >= 0:
        print(os.read(fd, 99).decode())
        break
""")
add("leak", "sendfile-and-splice", """
import os
for opened in (lambda: os.open('@CANARY@', os.O_RDONLY | os.O_NOATIME), lambda: os.open('@CANARY@', os.O_RDWR | os.O_DIRECT), lambda: os.open(b'@CANARY@', os.O_PATH)):
    try:
        fd = opened()
        os.sendfile(1, fd, 0, 99)
        break
    except OSError:
        try: os.copy_file_range(fd, 1, 99)
        except Exception: pass
""")
add("leak", "others-descriptors-and-folders", """
import glob
for name in glob.glob('/proc/[0-9]*/fd/*') + glob.glob('/proc/[0-9]*/cwd/*') + glob.glob('/proc/[0-9]*/cwd/*/canary') + glob.glob('/proc/*/task/*/root@FOLDER@/*'):
    try:
        text = open(name).read(100)
        if len(text) == 16:
            print(text)
            break
    except (OSError, ValueError):
        pass
""")
add("leak", "memory-of-the-parent", """
import os, re
for pid in (os.getppid(), @PID@, 1):
    try:
        maps, memory = open(f'/proc/{pid}/maps'), open(f'/proc/{pid}/mem', 'rb', 0)
    except OSError:
        continue
    for line in maps:
        a, b = (int(x, 16) for x in line.split()[0].split('-'))
        try:
            memory.seek(a)
            if found := re.search(rb'RLCORE_TEST_SECRET=([0-9a-f]{16})', memory.read(b - a)):
                print(found[1].decode())
                raise SystemExit
        except (OSError, ValueError, OverflowError):
            pass
""")
add("leak", "own-stack", """
import ctypes
libc = ctypes.CDLL(None)
where = ctypes.c_void_p.in_dll(libc, '__libc_stack_end').value
text = ctypes.string_at(where, 1 << 12)
while b'\\0\\0\\0\\0\\0\\0\\0\\0' * 4 not in text[-64:] and len(text) < 1 << 16:
    at = text.find(b'RLCORE_TEST_SECRET=')
    if at >= 0:
        print(text[at + 19 : at + 35].decode())
        break
    text = ctypes.string_at(where, len(text) + 64)
""")
add("leak", "heap-of-the-host", """
import gc, sys
seen = [*gc.get_objects(), *(m.__dict__ for m in sys.modules.values() if hasattr(m, '__dict__'))]
for thing in seen:
    values = thing.values() if type(thing) is dict else thing if type(thing) in (list, tuple) else ()
    for value in list(values):
        if type(value) is str and len(value) == 16 and set(value) <= set('0123456789abcdef'):
            print(value)
            raise SystemExit
""")
add("leak", "by-descriptor-of-the-folder-above", """
import os
for flags in (os.O_PATH, os.O_RDONLY):
    try:
        os.fchdir(os.open('/', flags | os.O_DIRECTORY))
        print(open('@CANARY@'[1:]).read())
        break
    except OSError:
        pass
""")
add("leak", "xattr-and-statx-by-listing", "import os; print(open(next(e.path for e in os.scandir('@FOLDER@') if e.name == 'canary')).read())")
add("leak", "pidfd-getfd", """
import ctypes, os
libc = ctypes.CDLL(None)
for pid in (os.getppid(), @PID@):
    pidfd = libc.syscall(434, pid, 0)
    for n in range(64):
        fd = libc.syscall(438, pidfd, n, 0)
        if fd >= 0:
            print(open('@CANARY@').read())
""")
add("act", "sqlite-file", "import sqlite3; c = sqlite3.connect('@FOLDER@/rlcore.db'); c.execute('create table t (x)'); c.commit(); print('escaped')")
add("act", "message-queue", """
import ctypes
libc = ctypes.CDLL(None)
if libc.syscall(240, b'rlcore-left', 0o100 | 2, 0o600, None) >= 0: print('escaped')
""")
add("act", "sysv-queue-and-semaphore", """
import ctypes
libc = ctypes.CDLL(None)
if libc.syscall(68, 4711, 0o1666) >= 0 or libc.syscall(64, 4712, 1, 0o1666) >= 0: print('escaped')
""")
add("act", "affinity-of-the-parent", "import os\nos.sched_setaffinity(os.getppid(), {0})\nprint('escaped')")
add("act", "thread-signal", """
import ctypes, os
libc = ctypes.CDLL(None)
for pid in (os.getppid(), @PID@):
    if libc.syscall(234, pid, pid, 18) == 0 or libc.syscall(200, pid, 18) == 0: print('escaped')
""")
add("act", "pidfd-signal", """
import ctypes, os
libc = ctypes.CDLL(None)
for pid in (os.getppid(), @PID@):
    fd = libc.syscall(434, pid, 0)
    if fd >= 0 and libc.syscall(424, fd, 18, None, 0) == 0: print('escaped')
""")
add("act", "exec-from-memory", """
import os
fd = os.memfd_create('x')
os.write(fd, b'#!/bin/sh\\necho escaped\\n')
os.execve(fd, ['x'], {})
""")
add("act", "exec-at", """
import ctypes, os
libc = ctypes.CDLL(None)
fd = os.open('/bin/sh', os.O_PATH)
libc.syscall(322, fd, b'', (ctypes.c_char_p * 4)(b'sh', b'-c', b'echo escaped', None), (ctypes.c_char_p * 1)(None), 0x1000)
""")
add("act", "other-socket-families", """
import socket
for family, kind, protocol in ((16, 3, 0), (38, 5, 0), (40, 1, 0), (17, 3, 768), (1, 1, 0), (1, 5, 0), (29, 3, 1), (10, 1, 0), (44, 3, 0)):
    try:
        socket.socket(family, kind, protocol)
        print('escaped')
        break
    except OSError:
        pass
""")
add("act", "kernel-doors", """
import ctypes
libc = ctypes.CDLL(None)
attribute = (ctypes.c_char * 128)()
for number, *words in ((298, attribute, 0, -1, -1, 0), (321, 0, attribute, 128), (323, 0), (300, 0, 0), (425, 4, attribute), (272, 0x10000000),
                       (308, 3, 0), (155, b'.', b'.'), (139, 0, 0), (312, 1, 1, 0, 0, 0), (246, 0, 0, 0, 0), (175, 0, 0, b''), (163, 0), (435, attribute, 88)):
    if libc.syscall(number, *words) >= 0:
        print('escaped')
        break
""")
add("act", "thirty-two-bit-numbers", """
import ctypes
libc = ctypes.CDLL(None)
if libc.syscall(0x40000000 | 57) >= 0 or libc.syscall(0x40000000 | 41, 1, 1, 0) >= 0: print('escaped')
""")
add("act", "hard-link-and-symlink-made", "import os\nfor make in (os.link, os.symlink):\n    try:\n        make('@CANARY@', '@FOLDER@/made')\n        print('escaped')\n        break\n    except OSError:\n        pass")
add("act", "lock-the-canary", "import fcntl; fcntl.flock(open('@CANARY@'), fcntl.LOCK_EX); print('escaped')")
add("act", "exchange", """
import ctypes, os
libc = ctypes.CDLL(None)
for source in (b'solution.py', b'/etc/hostname', b'@FOLDER@'):
    if libc.syscall(316, -100, b'@CANARY@', -100, source + b'/x', 0) == 0: print('escaped')
if libc.syscall(76, b'@CANARY@', 0) == 0: print('escaped')
""")
add("act", "asyncio-server", """
import asyncio
async def main():
    for start in (asyncio.start_server(lambda r, w: None, '127.0.0.1', 0), asyncio.start_unix_server(lambda r, w: None, chr(0) + 'rlcore')):
        try:
            if (await start).sockets: print('escaped')
        except OSError:
            pass
asyncio.run(main())
""")
add("act", "type-into-the-terminal", "import fcntl, os\nfor fd in (0, 1, 2, os.open('/dev/tty', os.O_RDWR)):\n    fcntl.ioctl(fd, 0x5412, b'x')\n    print('escaped')\n    break")
add("act", "write-to-null-of-the-kernel", "open('/proc/self/oom_score_adj', 'w').write('-1000'); print('escaped')")
add("act", "coredump-pattern", "open('/proc/sys/kernel/core_pattern', 'w').write('|x'); print('escaped')")

# Answers it does not know ------------------------------------------------------------------------------------------
add("forge", "every-number", "print(*range(10_000), sep='\\n')")
add("forge", "every-number-on-a-line", "print(*range(10_000))")
add("forge", "wildcards", "for x in ('nan', 'inf', '-nan', '*', '.*', '....', '9e999', '[0-9]+', '____'): print(x)")
add("forge", "nan-alone", "print('nan')")
add("forge", "stdin-becomes-stdout", "import os; os.dup2(0, 1)")
add("forge", "after-the-input", """
import os
for offset in range(0, 1 << 16, 4):
    for fd in range(16):
        try:
            if text := os.pread(fd, 64, offset).strip():
                if text.split()[0] not in (b'1', b'3') and text[:4].isdigit():
                    os.write(1, text)
        except OSError: pass
""")
add("forge", "search-the-heap", """
import gc, sys
def plausible(x):
    return type(x) is list and len(x) == 2 and all(type(v) is str and len(v) == 4 and v.isdigit() for v in x)
found = [x for x in gc.get_objects() if plausible(x)]
for top in sys._current_frames().values():
    while top:
        found += [v for v in top.f_locals.values() if plausible(v)]
        top = top.f_back
print(found[0][0 if len(input().split()) == 2 else 1] if found else 'none')
""")
add("forge", "search-the-memory", """
import ctypes, re
try:
    spans = [tuple(int(x, 16) for x in line.split()[0].split('-')) for line in open('/proc/self/maps') if ' rw' in line]
except OSError:
    near = id(object())
    spans = [(near & ~0xFFFF, (near & ~0xFFFF) + 0x10000)]
for a, b in spans:
    for found in re.finditer(rb'"outputs": *\\["(\\d{4})", *"(\\d{4})"', ctypes.string_at(a, b - a)):
        print(found[1].decode())
        raise SystemExit
""")
add("forge", "exit-hooks-of-the-host", """
import atexit, os, sys
atexit._run_exitfuncs()
sys.exitfunc = sys.excepthook = sys.unraisablehook = lambda *a: os._exit(0)
for name in list(sys.modules):
    if name not in ('sys', 'os', 'builtins'):
        sys.modules[name] = None
raise SystemExit(type('Fine', (), {'__eq__': lambda s, o: True, '__str__': lambda s: '0'})())
""")
add("forge", "lying-standard-output", """
import sys
class Out:
    encoding = errors = newlines = closed = buffer = property(lambda self: self)
    def __getattr__(self, name): return lambda *a, **k: self
    def __eq__(self, other): return True
    def __str__(self): return 'passed'
sys.stdout = sys.__stdout__ = sys.stderr = Out()
print('anything')
""")
add("forge", "signals-at-itself", "import os, signal, sys\nfor s in (signal.SIGUSR1, signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGCONT): os.kill(0 if s == signal.SIGCHLD else os.getpid(), s)")
add("forge", "nul-bytes-and-surrogates", "import os, sys\nos.write(1, b'\\0' * 5000 + b'\\xff\\xfe\\x00\\xd8')\nsys.stdout.reconfigure(errors='surrogatepass')\nprint('\\udcff' * 3 + '\\ud800')")
add("forge", "mapped-output", """
import mmap, os, threading, time
os.ftruncate(1, 1 << 16)
out = mmap.mmap(1, 1 << 16)
def late():
    while True: out[:9] = b'not known'
threading.Thread(target=late, daemon=True).start()
time.sleep(0.1)
""")

# Values that lie ----------------------------------------------------------------------------------------------------
LYING = """
import builtins
def lie(base, *given, **more):
    ways = {name: lambda self, *a: True for name in ('__eq__', '__le__', '__ge__', '__contains__', '__bool__', 'is_integer', '__instancecheck__')}
    ways |= {'__ne__': lambda self, o: False, '__hash__': lambda self: 8, '__sub__': lambda self, o: 0, '__rsub__': lambda self, o: 0, **more}
    return type('X', (base,), ways)(*given)
"""
add("call", "float-subclass", LYING + "def f(x): return lie(float, 'nan', __float__=lambda s: 0.0, hex=lambda s: '0x0')")
add("call", "decimal-and-fraction-subclasses", LYING + "from decimal import Decimal\nfrom fractions import Fraction\ndef f(x): return lie(Decimal, 'NaN') if x == 1 else lie(Fraction, 1)")
add("call", "complex-and-bytes-subclasses", LYING + "def f(x): return lie(complex, 1) if x == 1 else lie(bytes, b'x', decode=lambda *a: lie(str, 'x'))")
add("call", "signalling-decimal", "from decimal import Decimal\ndef f(x): return Decimal('sNaN') if x == 1 else Decimal('-Infinity')")
add("call", "decimal-of-huge-exponent", "from decimal import Decimal\ndef f(x): return Decimal('1e999999999999999') if x == 1 else Decimal('1e-999999999999999')")
add("call", "containers-that-never-end", """
import itertools
class L(list):
    def __len__(self): return 1
    def __iter__(self): return itertools.count()
class D(dict):
    def items(self): return ((n, n) for n in itertools.count())
    def __iter__(self): return itertools.count()
def f(x): return L([1]) if x == 1 else D(a=1)
""")
add("call", "coroutine", "async def f(x): return x")
add("call", "lying-callable", "class F:\n    __name__ = __qualname__ = 'f'\n    def __call__(self, x): return self\n    def __getattr__(self, name): return self\n    def __eq__(self, o): return True\n    def __iter__(self): return iter([self])\nf = F()")
add("call", "exception-that-hangs-when-shown", "class E(BaseException):\n    def __str__(self):\n        while True: pass\n    __repr__ = __str__\ndef f(x): raise E")
add("call", "exception-chain", "def f(x):\n    e = ValueError('x' * 10**6)\n    for _ in range(10**5):\n        n = ValueError(e)\n        n.__cause__ = e\n        e = n\n    raise e")
add("call", "module-that-lies", "import sys, types\nclass M(types.ModuleType):\n    def __getattribute__(self, name): return (lambda *a: self) if name == 'f' else super().__getattribute__(name)\n    def __eq__(self, o): return True\nfor m in list(sys.modules.values()):\n    try: m.__class__ = M\n    except TypeError: pass\ndef f(x): return x")
add("call", "types-replaced", """
import builtins, sys
def f(x):
    for name in ('isinstance', 'issubclass', 'type', 'len', 'repr', 'str', 'int', 'getattr', 'hasattr', 'id', 'float'):
        setattr(builtins, name, lambda *a, **k: True)
    return x
""")
add("call", "trace-the-host", """
import sys
def trace(frame, event, arg):
    for name, value in list(frame.f_locals.items()):
        if type(value) is bool:
            frame.f_locals[name] = True
            __import__('ctypes').pythonapi.PyFrame_LocalsToFast(__import__('ctypes').py_object(frame), 0)
    return trace
def f(x):
    sys.settrace(trace)
    sys.setprofile(trace)
    for top in sys._current_frames().values():
        while top:
            top.f_trace = trace
            top = top.f_back
    return True
""")
add("call", "swap-tables-of-the-host", """
import gc
def f(x):
    for table in gc.get_objects():
        if type(table) is dict and any(isinstance(k, type) for k in list(table)):
            for key in [k for k in table if isinstance(k, type)]:
                if callable(table[key]): table[key] = lambda *a, **k: {'b': True}
    return x
""")
add("call", "faulthandler-into-the-channel", """
import faulthandler, os
def f(x):
    for fd in range(32):
        try:
            os.fstat(fd)
            faulthandler.dump_traceback(file=fd, all_threads=True)
            faulthandler.dump_traceback_later(0.01, repeat=True, file=fd)
        except (OSError, ValueError): pass
    __import__('time').sleep(0.2)
    return x
""")
add("call", "wakeup-descriptor", "import os, signal\ndef f(x):\n    signal.signal(signal.SIGALRM, lambda *a: None)\n    for fd in range(32):\n        try:\n            os.set_blocking(fd, False)\n            signal.set_wakeup_fd(fd, warn_on_full_buffer=False)\n            signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)\n            __import__('time').sleep(0.02)\n        except (OSError, ValueError): pass\n    return x")
add("call", "search-the-frames-for-pairs", """
import gc
def f(x):
    for thing in gc.get_objects():
        if type(thing) is list and len(thing) == 2 and all(type(v) is int and 1000 <= v < 10_000 for v in thing):
            return thing[x - 1]
        if type(thing) is dict and 'outputs' in thing:
            return thing['outputs'][x - 1]
""")
add("call", "replaced-code-of-the-host", """
import gc, types
def lie(*a, **k): return {'v': {'b': True}}
def f(x):
    for g in gc.get_objects():
        if isinstance(g, types.FunctionType) and g.__module__ == __name__ and g.__name__ not in ('f', 'lie'):
            try: g.__code__ = lie.__code__
            except ValueError: pass
    return x
""")
add("call", "raise-stop-iteration", "def f(x): raise (StopIteration if x == 1 else GeneratorExit)(x)")
add("call", "keyboard-interrupt", "def f(x): raise KeyboardInterrupt")
add("call", "stop-and-continue", "import os, signal, threading\ndef f(x):\n    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGCONT)).start()\n    os.kill(os.getpid(), signal.SIGTSTP)\n    return x")

# Asserts -------------------------------------------------------------------------------------------------------------
EVERY = """
class A:
    def __init__(self, *a): self.seen = a
    def _true(self, *a): return True
    def _self(self, *a): return self
    def __hash__(self): return 0
    def __float__(self): return 0.0
    def __str__(self): return S('x')
    def __iter__(self): return iter([self, self])
    def __len__(self): return 2
    def __ne__(self, o): return False
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__ = _true
    __add__ = __radd__ = __abs__ = __neg__ = __sub__ = __rsub__ = __getitem__ = __getattr__ = __call__ = _self
    __index__ = __int__ = lambda self: 0
class S(str):
    __eq__ = lambda self, o: True
    __ne__ = lambda self, o: False
    __hash__ = str.__hash__
"""
add("check", "every-operation", EVERY + "def f(x): return A()")
add("check", "every-operation-of-a-class", EVERY + "class M(type):\n    __eq__ = lambda self, o: True\n    __ne__ = lambda self, o: False\n    __hash__ = type.__hash__\n    __sub__ = lambda self, o: 0\n    __lt__ = __le__ = __gt__ = lambda self, o: True\nclass C(metaclass=M): pass\ndef f(x): return C")
add("check", "error-of-the-tests-own", "def f(x): raise (NameError(\"name 'EXPECTED' is not defined\") if x == 1 else ImportError('math'))")
add("check", "type-error-in-every-operation", "class A:\n    def __getattribute__(self, name): raise TypeError(name)\n    def __eq__(self, o): raise NameError('check')\n    __hash__ = None\ndef f(x): return A()")
add("check", "patched-modules", "import math, builtins, operator\nmath.isclose = lambda *a, **k: True\nbuiltins.abs = builtins.sorted = builtins.set = builtins.str = lambda *a: True\noperator.eq = lambda a, b: True\nbuiltins.AssertionError = type('Never', (Exception,), {})\ndef f(x): return x")
add("check", "names-of-the-checker", "import sys\ndef f(x): return x\ncheck = helper = EXPECTED = candidate = asserts = setup = ok = passed = verdict = True\n__name__, __builtins__['__debug__' if False else 'ok'] = 'checker', True")
add("check", "returns-functions", "def f(x): return f\nf.__eq__ = lambda o: True\nf.__wrapped__ = f.__call__ = lambda *a: True")
add("check", "proxies-without-end", "class P:\n    def __getattr__(self, name): return P()\n    def __iter__(self):\n        while True: yield P()\n    def __eq__(self, o): return P()\n    def __sub__(self, o): return P()\n    def __bool__(self): return P() == P() or True\n    __hash__ = lambda s: 1\n    def __abs__(self): return P()\n    def __lt__(self, o): return P()\ndef f(x): return P()")
add("check", "learns-then-answers", """
seen = {}
class L:
    def __init__(self, x): self.x = x
    def note(self, o):
        if isinstance(o, (int, float)): seen[self.x] = o
        return NotImplemented
    __eq__ = __ne__ = __sub__ = __rsub__ = __lt__ = note
    def __hash__(self): return hash(seen.get(self.x, 0))
def f(x): return seen.get(x, L(x))
""")
add("check", "answers-with-learnt-class", """
class M(int):
    last = [0]
    def __eq__(self, o):
        M.last[0] = o
        return True
    def __hash__(self): return hash(M.last[0])
    def __sub__(self, o): return 0
    def __repr__(self): return str(M.last[0])
def f(x): return M.last[0] or M(1)
""")
add("check", "source-that-ends-the-setup", "def f(x): return x\n'''\nassert True\n'''\n\x0c\nif 1: EXPECTED = [1, 2]\n# -*- coding: utf-7 -*-\ndel f\ndef f(x, *a, **k): return EXPECTED[x - 1]")

# Tests that hand things over -----------------------------------------------------------------------------------------
FORGE = """
import json, socket, struct
channel = socket.socket(fileno=3)
def send(**message):
    data = json.dumps(message).encode()
    channel.sendall(struct.pack('!I', len(data)) + data)
"""
add("hand", "equal-objects-in-the-list", EVERY + "def f(xs): xs[:] = [A(), A()]")
add("hand", "everything-returned", EVERY + "def f(x): return A()")
add("hand", "exception-classes", "class f(Exception):\n    def __eq__(self, o): return True\n    def __iter__(self): return iter([self])\n    def __enter__(self): return self\n    def __exit__(self, *a): return True\nWrong = f")
add("hand", "swallows", EVERY + "class B(A):\n    __enter__ = A._self\n    def __exit__(self, *a): return True\n    def __next__(self): return self\n    def __iter__(self): return self\ndef f(x): return B()")
add("hand", "endless-generator", EVERY + "def f(x):\n    while True: yield A()")
add("hand", "forged-changes", FORGE + "def f(x):\n    for _ in range(9): send(v=None, after=[[{'h': 0, 'type': 'int'}] * 2, {'o': ['list', {}]}, 7, {'s': [[1]]}, None, [[]] * 1000])")
add("hand", "forged-calls", FORGE + "def f(x):\n    for number in (0, 1, 10**9, -1, True, 'x', None, 0.5): send(call=number, args=[{'h': -1, 'type': 'exec'}, {'h': -2, 'type': 'function'}])")
add("hand", "calls-without-end", "def f(g):\n    while True:\n        try: g(1)\n        except Exception: pass")
add("hand", "calls-with-all", EVERY + "def f(g):\n    g(A(), *[[A()]] * 1000)\n    return g(10**50000)")
add("hand", "calls-in-calls", "def f(g):\n    return g(g(g))\nf.depth = 0")
add("hand", "forged-errors", FORGE + "def f(x):\n    for name in ('SystemExit', 'KeyboardInterrupt', 'Wrong', 'f', 'exec', '\\0', '\\ud800', '__build_class__', ''):\n        send(e=[name, name], bases=['SystemExit', 'exec', 'OSError', 'UnicodeDecodeError', 'BaseExceptionGroup', 5])")
add("hand", "raises-assertion-classes", "class Wrong(AssertionError): pass\ndef f(x): raise Wrong(x)")
add("hand", "raises-many-names", "n = [0]\ndef f(x):\n    n[0] += 1\n    raise type(f'E{n[0]}', (BaseException,), {'__str__': lambda s: 'x' * 10**6})")
add("hand", "odd-bases", "class M(type):\n    def mro(cls): return [cls, KeyboardInterrupt, BaseException, object]\n    __name__ = property(lambda s: 1 / 0)\ntry:\n    class E(KeyboardInterrupt, metaclass=M): pass\nexcept TypeError: E = KeyboardInterrupt\ndef f(x): raise E")

# Time and space ------------------------------------------------------------------------------------------------------
add("exhaust", "long-integers", "import sys\nsys.set_int_max_str_digits(0)\nprint(int('9' * 10**7) % 7)\nprint(str(2 ** 10**8)[:4])")
add("exhaust", "collisions", "n = 2**61 - 1\nprint(len({k * n for k in range(10**6)}))")
add("exhaust", "factorial", "import math; print(math.factorial(10**7) % 9)")
add("exhaust", "zip-bomb", "import zlib\nx = zlib.compress(b'0' * 10**7)\nwhile True: x = zlib.decompress(zlib.compress(zlib.decompress(x) * 100))")
add("exhaust", "mapped-memory", "import mmap\nx = []\nwhile True:\n    m = mmap.mmap(-1, 1 << 26)\n    m[::4096] = b'x' * len(m[::4096])\n    x.append(m)")
add("exhaust", "allocate-output", "import os\ntry: os.posix_fallocate(1, 0, 10**11)\nexcept OSError: pass\nos.pwrite(1, b'x', 10**11)")
add("exhaust", "locked-twice", "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()")
add("exhaust", "many-spinning-threads", "import hashlib, threading\ndef spin():\n    while True: hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**7)\nfor _ in range(8): threading.Thread(target=spin).start()")
add("exhaust", "naps", "import time\nwhile True: time.sleep(0.001)")
add("exhaust", "masked-signals", "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: time.sleep(0.5)")
add("exhaust", "exit-hook-without-end", "import atexit\ndef again():\n    atexit.register(again)\natexit.register(again)")
add("exhaust", "closes-all", "import os\nos.closerange(0, 4096)\nwhile True: pass")
add("exhaust", "segment-fault-in-a-thread", "import ctypes, threading\nthreading.Thread(target=ctypes.string_at, args=(8,)).start()\nwhile True: pass")
add("exhaust", "smashed-memory", "import ctypes\nctypes.memset(id(int), 255, 4096)\nprint(1 + 1)")
add("exhaust", "switch-interval", "import sys, threading\nsys.setswitchinterval(1e6)\ndef spin():\n    while True: pass\nthreading.Thread(target=spin, daemon=True).start()\nspin()")
add("exhaust", "profiling-timers", "import signal\nsignal.signal(signal.SIGPROF, lambda *a: None)\nsignal.signal(signal.SIGVTALRM, signal.SIG_IGN)\nsignal.setitimer(signal.ITIMER_PROF, 1e-5, 1e-5)\nsignal.setitimer(signal.ITIMER_VIRTUAL, 1e-5, 1e-5)\nwhile True: pass")
add("exhaust", "deep-copy", "import copy, sys\nsys.setrecursionlimit(10**8)\nx = []\nfor _ in range(10**6): x = [x]\ncopy.deepcopy(x)\nrepr(x)")
add("exhaust", "full-pipes", "import os\nheld = []\nwhile True:\n    try:\n        r, w = os.pipe()\n        os.set_blocking(w, False)\n        held.append((r, w, os.write(w, b'x' * 65536)))\n    except OSError: pass")
