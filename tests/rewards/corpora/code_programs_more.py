# ruff: noqa: E501  (a program to a line)
"""Further programs with right verdicts, in odd but valid styles: (name, program, tests, score)."""

from __future__ import annotations

from typing import Any

MORE: list[tuple[str, str, dict[str, Any], float]] = []


def stdin(name: str, score: float, program: str, *cases: tuple[str, str], **limits: Any) -> None:
    tests = {"type": "stdin", "inputs": [i for i, _ in cases], "outputs": [o for _, o in cases], **limits}
    MORE.append((f"stdin-{name}", program.strip("\n"), tests, score))


def function(name: str, score: float, program: str, fn_name: str, *cases: tuple[list[Any], Any], **limits: Any) -> None:
    tests = {"type": "function", "fn_name": fn_name, "inputs": [i for i, _ in cases], "outputs": [o for _, o in cases]}
    MORE.append((f"function-{name}", program.strip("\n"), {**tests, **limits}, score))


def asserts(name: str, score: float, program: str, *statements: str, setup: str = "") -> None:
    tests: dict[str, Any] = {"type": "assert", "asserts": list(statements)}
    MORE.append((f"assert-{name}", program.strip("\n"), {**tests, "setup": setup} if setup else tests, score))


# Input and output ----------------------------------------------------------------------------------------------------
stdin("crlf-lines", 1.0, "n = input()\nprint(repr(n), repr(input()))", ("ab\r\ncd\r\n", "'ab' 'cd'"))
stdin("crlf-in-bytes", 1.0, "import sys\nprint(sys.stdin.buffer.read())", ("a\r\nb", "b'a\\r\\nb'"))
stdin("no-last-newline", 1.0, "while True:\n    try:\n        print(int(input()) * 2)\n    except EOFError:\n        break", ("1\n2", "2\n4"), ("", ""), ("5\n", "10"))
stdin("input-until-zero", 1.0, "while (x := input().strip()) != '0':\n    print(x.upper())", ("a\nb b\n0\nc\n", "A\nB B"))
stdin("prompt-is-output", 0.0, "n = int(input('How many? '))\nprint(n)", ("3", "3"))
stdin("empty-prompt", 1.0, "n = int(input(''))\nprint(n)", ("3", "3"))
stdin("iter-sentinel", 1.0, "for line in iter(input, 'end'): print(len(line))", ("ab\n\nend\n", "2\n0"))
stdin("readline-alias", 1.0, "import sys\ninput = sys.stdin.readline\nn = int(input())\nprint(sum(int(input()) for _ in range(n)), repr(input()))", ("2\n3\n4", "7 ''"))
stdin("readlines-and-map", 1.0, "import sys\n_, *rows = sys.stdin.readlines()\nfor a, b in (map(int, r.split()) for r in rows): print(a * b)", ("2\n3   4\n  5 6  \n", "12\n30"))
stdin("fileinput", 1.0, "import fileinput\nprint(sum(int(line) for line in fileinput.input()))", ("1\n2\n", "3"))
stdin("split-of-everything-as-iterator", 1.0, "import sys\nnext_int = lambda it=iter(sys.stdin.read().split()): int(next(it))\nprint(next_int() - next_int())", ("9\n\n\n 4", "5"))
stdin("numbers-from-buffer-lines", 1.0, "import sys\nread = sys.stdin.buffer.readline\nt = int(read())\nfor _ in range(t): sys.stdout.write('%d\\n' % sum(map(int, read().split())))", ("2\n1 2\n3 4\n", "3\n7\n"))
stdin("text-wrapper", 1.0, "import io, os, sys\nsys.stdin = io.TextIOWrapper(io.BytesIO(os.read(0, 1 << 20)))\nsys.stdout = io.StringIO()\nprint(input()[::-1])\nos.write(1, sys.stdout.getvalue().encode())", ("abc\n", "cba"))
stdin("fast-io-class", 1.0, """
import os, sys
from io import BytesIO, IOBase
class FastIO(IOBase):
    newlines = 0
    def __init__(self, file):
        self._fd = file.fileno()
        self.buffer = BytesIO()
        self.writable = 'x' in file.mode or 'r' not in file.mode
        self.write = self.buffer.write if self.writable else None
    def readline(self):
        while self.newlines == 0:
            b = os.read(self._fd, max(os.fstat(self._fd).st_size, 8192))
            self.newlines = b.count(b'\\n') + (not b)
            ptr = self.buffer.tell()
            self.buffer.seek(0, 2), self.buffer.write(b), self.buffer.seek(ptr)
        self.newlines -= 1
        return self.buffer.readline()
    def flush(self):
        if self.writable:
            os.write(self._fd, self.buffer.getvalue())
            self.buffer.truncate(0), self.buffer.seek(0)
stdin, stdout = FastIO(sys.stdin), FastIO(sys.stdout)
for _ in range(int(stdin.readline())):
    stdout.write(b'%d\\n' % (int(stdin.readline()) + 1))
stdout.flush()
""", ("2\n10\n20\n", "11\n21"))
stdin("end-and-sep", 1.0, "for i in range(3): print(i, end=' ' if i < 2 else '')\nprint()\nprint(1, 2, 3, sep=', ', end='!\\n')", ("", "0 1 2\n1, 2, 3!"))
stdin("print-to-file-and-flush", 1.0, "import sys\nprint('a', file=sys.stdout, flush=True)\nsys.stdout.flush()\nprint(*[], sep='')\nprint('b')", ("", "a\nb"))
stdin("lines-without-number", 1.0, "import sys\nsys.stdout.writelines(f'{x}\\n' for x in input())", ("xyz", "x\ny\nz"))
stdin("float-formats", 1.0, "x = 2 / 3\nprint('%.3f' % x, f'{x:.5f}', '{:8.2f}'.format(x), round(x, 4), f'{1234567.891:,.1f}')", ("", "0.667 0.66667     0.67 0.6667 1,234,567.9"))
stdin("float-too-few-places", 0.0, "print('%.2f' % (2 / 3))", ("", "0.666667"))
stdin("minus-zero", 1.0, "print(-0.0)", ("", "0.0"))
stdin("leading-zeros-are-text", 0.0, "print(7)", ("", "007"))
stdin("decimal", 1.0, "from decimal import Decimal, getcontext\ngetcontext().prec = 50\nprint(Decimal(2).sqrt())", ("", "1.4142135623730950488016887242096980785696718753769"))
stdin("fraction-sum", 1.0, "from fractions import Fraction as F\nprint(sum(map(F, input().split()), F()))", ("1/2 1/3", "5/6"), ("1 1", "2"))
stdin("complex-and-bytes", 1.0, "print(complex(1, -2) * 1j, b'\\x00a', bytearray(b'z'))", ("", "(2+1j) b'\\x00a' bytearray(b'z')"))
stdin("unicode-names", 1.0, "größe, 数 = input().split()\nprint(f'{größe}—{数}😀', len(数))", ("naïve 日本語\n", "naïve—日本語😀 3"))
stdin("yes-with-other-blanks", 1.0, "print('YES', end='\\t\\n \\n')", ("", "YES"))
stdin("matrix-with-blanks", 1.0, "for i in range(2): print(''.join(f'{i * j:4d}' for j in range(3)))", ("", "0 0 0\n0 1 2\n"))
stdin("million-lines", 1.0, "print('\\n'.join(map(str, range(200_000))))", ("", "\n".join(map(str, range(200_000)))))
stdin("million-lines-one-wrong", 0.0, "print('\\n'.join(str(i if i != 150_000 else 7) for i in range(200_000)))", ("", "\n".join(map(str, range(200_000)))))
stdin("many-prints", 1.0, "for i in range(100_000): print(i % 10, end='')\nprint()", ("", "0123456789" * 10_000))
stdin("numbers-in-millions", 1.0, "n = int(input())\na = list(map(int, input().split()))\nprint(n, sum(a), max(a))", ("200000\n" + " ".join(map(str, range(200_000))) + "\n", "200000 19999900000 199999"))
stdin("recursion-with-threads-stack", 1.0, "import sys, threading\nthreading.stack_size(256 * 1024 * 1024)\nsys.setrecursionlimit(1 << 25)\ndef main():\n    def walk(n): return n and 1 + walk(n - 1)\n    print(walk(200_000))\nthreading.Thread(target=main).start()", ("", "200000"))
stdin("bootstrap-generators", 1.0, """
from types import GeneratorType
def bootstrap(f, stack=[]):
    def wrapped(*args):
        if stack: return f(*args)
        to = f(*args)
        while True:
            if type(to) is GeneratorType:
                stack.append(to)
                to = next(to)
            else:
                stack.pop()
                if not stack: return to
                to = stack[-1].send(to)
    return wrapped
@bootstrap
def depth(n):
    yield 0 if n == 0 else 1 + (yield depth(n - 1))
print(depth(50_000))
""", ("", "50000"))
stdin("match-and-walrus", 1.0, "match input().split():\n    case ['add', a, b]: print(int(a) + int(b))\n    case [cmd, *rest] if (n := len(rest)) > 2: print(cmd, n)\n    case _: print('?')", ("add 1 2", "3"), ("x 1 2 3", "x 3"), ("x", "?"))
stdin("own-exit", 1.0, "import sys\ndef solve():\n    if input() == '1':\n        print('one')\n        raise SystemExit\n    print('other')\n    sys.exit()\nsolve()", ("1", "one"), ("2", "other"))
stdin("exit-with-text", 0.0, "import sys\nprint(1)\nsys.exit('done')", ("", "1"))
stdin("warning-on-stderr", 1.0, "import sys, warnings\nwarnings.warn('old')\nsys.stderr.write('x' * 100_000)\nif 1 is 1: print('ok')", ("", "ok"))
stdin("tabs-and-form-feeds", 1.0, "if True:\n\tfor i in range(2):\n\t\tprint(i)\n\x0c\nprint('end')", ("", "0\n1\nend"))
stdin("carriage-returns-in-source", 1.0, "n = int(input())\r\nif n:\r\n    print(n)\r\n", ("4", "4"))
stdin("coding-line-and-docstring", 1.0, "#!/usr/bin/env python3\n# -*- coding: utf-8 -*-\n'''Solution.'''\nfrom __future__ import annotations\nprint(__doc__, __name__)", ("", "Solution. __main__"))
stdin("globals-and-exec", 1.0, "exec('x = 5')\nprint(eval('x + 1'), globals()['x'], 'x' in vars())", ("", "6 5 True"))
stdin("signal-alarm-of-ones-own", 1.0, "import signal, time\ndef stop(*_): raise TimeoutError\nsignal.signal(signal.SIGALRM, stop)\nsignal.setitimer(signal.ITIMER_REAL, 0.1)\ndef search():\n    while True: pass\ntry:\n    search()\nexcept TimeoutError:\n    print('best found')", ("", "best found"))
stdin("executor-of-threads", 1.0, "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as pool: print(sum(pool.map(lambda x: x * x, range(10))))", ("", "285"))
stdin("random-with-seed", 1.0, "import random\nrandom.seed(7)\nprint(random.randint(1, 10**9) == random.Random(7).randint(1, 10**9))", ("", "True"))
stdin("resource-limits-asked-for", 1.0, "import resource, sys\nsys.setrecursionlimit(10**6)\ntry: resource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\nexcept (ValueError, OSError): pass\nprint('ok')", ("", "ok"))
stdin("quadratic-but-fine", 1.0, "n = 700\nd = [[i ^ j for j in range(n)] for i in range(n)]\nprint(sum(map(sum, d)) % 1000)", ("", str(sum(i ^ j for i in range(700) for j in range(700)) % 1000)))

# Calls ---------------------------------------------------------------------------------------------------------------
function("leetcode-with-listnode-comment", 1.0, "# Definition for singly-linked list.\n# class ListNode:\n#     def __init__(self, val=0, next=None):\n#         self.val = val\nclass Solution:\n    def isValid(self, s: str) -> bool:\n        st = []\n        for c in s:\n            if c in '([{': st.append(c)\n            elif not st or '([{'.index(st.pop()) != ')]}'.index(c): return False\n        return not st", "isValid", (["()[]{}"], True), (["(]"], False), ([""], True))
function("leetcode-helpers-and-cache", 1.0, "class Solution:\n    M = 10**9 + 7\n    def ways(self, n: int, k: Optional[int] = 2) -> int:\n        @cache\n        def go(i): return 1 if i <= 1 else sum(go(i - j) for j in range(1, k + 1) if i - j >= 0) % self.M\n        return go(n)\nfrom functools import cache\nfrom typing import Optional", "ways", ([5], 8), ([4, 3], 7))
function("static-and-class-methods", 1.0, "class Solution:\n    base = 3\n    @staticmethod\n    def f(x): return x + 1\n    @classmethod\n    def g(cls, x): return cls.base + x", "g", ([1], 4))
function("static-method", 1.0, "class Solution:\n    @staticmethod\n    def f(x): return x + 1", "f", ([1], 2))
function("function-and-class-of-the-task", 1.0, "class Solution:\n    def helper(self): return 1\ndef f(x):\n    return Solution().helper() + x", "f", ([1], 2))
function("in-place-returns-nothing", 0.0, "def f(xs):\n    xs.sort()", "f", ([[2, 1]], [1, 2]))
function("arguments-are-fresh", 1.0, "def f(xs):\n    xs.append(1)\n    return len(xs)", "f", ([[]], 1), ([[]], 1), ([[5]], 2))
function("default-list-grows", 0.5, "def f(x, seen=[]):\n    seen.append(x)\n    return len(seen)", "f", ([1], 1), ([1], 1))
function("deque-range-and-views", 1.0, "from collections import deque\ndef f(k): return {'d': lambda: list(deque([1, 2])), 'r': lambda: list(range(3)), 'v': lambda: list({'a': 1}.values())}[k]()", "f", (["d"], [1, 2]), (["r"], [0, 1, 2]), (["v"], [1]))
function("dict-order", 1.0, "def f(n): return {str(k): k * k for k in reversed(range(n))}", "f", ([3], {"0": 0, "1": 1, "2": 4}))
function("dict-missing-key", 0.0, "def f(n): return {'a': 1}", "f", ([3], {"a": 1, "b": None}))
function("nested-floats", 1.0, "def f(x): return [[x / 3, {'r': (x / 7, None, True)}], -x / 9]", "f", ([1], [[0.3333333333, {"r": [0.14285714285, None, True]}], -0.1111111111]))
function("nested-float-off", 0.0, "def f(x): return [[x / 3], x / 7]", "f", ([1], [[0.3333], 0.142857142857]))
function("infinities", 1.0, "def f(x): return [float('inf'), -float('inf')]", "f", ([1], [float("inf"), float("-inf")]))
function("none-in-lists", 1.0, "def f(xs): return [x or None for x in xs]", "f", ([[0, 1, ""]], [None, 1, None]))
function("bools-in-lists", 1.0, "def f(xs): return [x > 1 for x in xs], any(xs)", "f", ([[0, 2]], [[False, True], True]))
function("empty-things", 1.0, "def f(k): return [[], {}, '', 0, None, False, [[]]][k]", "f", ([0], []), ([1], {}), ([2], ""), ([3], 0), ([4], None), ([5], False), ([6], [[]]))
function("empty-for-other-empty", 0.0, "def f(k): return [None, {}, '', [[]]][k]", "f", ([0], []), ([1], []), ([2], []), ([3], []))
function("int-subclass-and-enum", 1.0, "from enum import IntEnum\nclass C(IntEnum):\n    RED = 4\ndef f(x): return C.RED", "f", ([1], 4))
function("str-subclass", 1.0, "class S(str): pass\ndef f(x): return S(x)", "f", (["ab"], "ab"))
function("ordered-and-default-dicts", 1.0, "from collections import OrderedDict, defaultdict\ndef f(x):\n    d = defaultdict(list)\n    d['a'].append(x)\n    return OrderedDict(d)", "f", ([1], {"a": [1]}))
function("large-list", 1.0, "def f(n): return list(range(n))", "f", ([50_000], list(range(50_000))))
function("large-argument", 1.0, "def f(xs): return sum(xs)", "f", ([list(range(100_000))], 4999950000))
function("surrogates-and-nuls", 1.0, "def f(s): return s + chr(0) + '\\u2028'", "f", (["a\n\t\"'\\"], "a\n\t\"'\\\0\u2028"))
function("deep-list", 1.0, "def f(n):\n    x = []\n    for _ in range(n): x = [x]\n    return x", "f", ([20], [[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]))
function("decorated", 1.0, "import functools\ndef log(g):\n    @functools.wraps(g)\n    def inner(*a, **k):\n        print('called', a)\n        return g(*a, **k)\n    return inner\n@log\ndef f(x, *, y=2): return x * y", "f", ([4], 8))
function("partial-and-callable-object", 1.0, "from functools import partial\nclass Add:\n    def __call__(self, a, b): return a + b\nf = partial(Add(), 10)", "f", ([4], 14))
function("reads-stdin-too", 1.0, "import sys\ndef f(x):\n    return x + len(sys.stdin.read())", "f", ([4], 4))
function("numbers-as-text-keys", 0.0, "def f(x): return '12'", "f", ([1], 12))
function("rounding-noise", 1.0, "def f(xs): return sum(xs) / len(xs)", "f", ([[0.1, 0.2, 0.3]], 0.2))
function("global-state", 1.0, "from collections import Counter\nCOUNT = Counter()\ndef f(w):\n    COUNT[w] += 1\n    return w", "f", (["a"], "a"), (["b"], "b"))
function("raises-late", 2 / 3, "def f(n):\n    if n == 2: raise KeyboardInterrupt\n    return n", "f", ([1], 1), ([2], 2), ([3], 3))

# Asserts -------------------------------------------------------------------------------------------------------------
asserts("mbpp-tuples", 1.0, "def f(a, b): return tuple(sorted(set(a) & set(b)))", "assert f((3, 4, 5, 6), (5, 7, 4, 10)) == (4, 5)", "assert f([1], []) == ()")
asserts("sets-any-order", 1.0, "def f(xs): return {x % 3 for x in xs}", "assert f([5, 4, 3]) == {0, 1, 2}", "assert f([]) == set()", "assert len(f([3, 6])) == 1")
asserts("true-equals-one", 1.0, "def f(x): return x > 0", "assert f(1) == 1", "assert f(-1) == 0")
asserts("dict-any-order", 1.0, "def f(x): return {'b': 1, 'a': [x]}", "assert f(2) == {'a': [2], 'b': 1}", "assert list(f(2)) == ['b', 'a']")
asserts("floats", 0.5, "def f(x): return x * 0.1", "assert f(3) == 0.3", "assert abs(f(3) - 0.3) < 1e-9")
asserts("round-and-format", 1.0, "def f(x): return x / 3", "assert round(f(1), 4) == 0.3333", "assert f'{f(2):.2f}' == '0.67'", "assert int(f(9)) == 3")
asserts("setup-with-assertions", 1.0, "def f(xs): return sorted(xs, key=abs)", "assert f(DATA) == WANT", "for d, w in CASES:\n    assert f(d) == w", setup="import random\nDATA = [3, -1, 2]\nWANT = [-1, 2, 3]\nCASES = [([1], [1]), ([-2, 1], [1, -2])]\nassert len(DATA) == 3")
asserts("human-eval-tolerance", 1.0, "from typing import List\ndef f(numbers: List[float]) -> float:\n    m = sum(numbers) / len(numbers)\n    return sum(abs(x - m) for x in numbers) / len(numbers)", "check(f)", setup="METADATA = {'author': 'x'}\n\ndef check(candidate):\n    assert abs(candidate([1.0, 2.0, 3.0]) - 2.0/3.0) < 1e-6\n    assert abs(candidate([1.0, 2.0, 3.0, 4.0]) - 1.0) < 1e-6, 'second'\n    assert True")
asserts("human-eval-none-and-is", 1.0, "def f(d):\n    return None if not d else max(d, key=d.get)", "check(f)", setup="def check(candidate):\n    assert candidate({}) is None\n    assert candidate({'a': 1, 'b': 2}) == 'b'\n    assert not candidate({}) == 'b'")
asserts("doctest-like", 1.0, "def f(x):\n    '''\n    >>> f(2)\n    4\n    '''\n    return x * x", "assert f.__doc__ is not None and '>>> f(2)' in f.__doc__", "assert repr(f(2)) == '4'", "assert str(f(3)).zfill(3) == '009'")
asserts("unittest-style", 1.0, "def f(a, b):\n    if b == 0: raise ZeroDivisionError('no')\n    return a // b", "t = unittest.TestCase()\nt.assertEqual(f(7, 2), 3)\nwith t.assertRaises(ZeroDivisionError):\n    f(1, 0)", setup="import unittest")
asserts("generators", 1.0, "def f(n):\n    for i in range(n): yield i * i", "assert list(f(4)) == [0, 1, 4, 9]", "assert sum(f(3)) == 5", "assert next(f(1)) == 0")
asserts("comprehension-of-calls", 1.0, "def f(x): return x % 2", "assert [f(i) for i in range(4)] == [0, 1, 0, 1]", "assert all(f(i) == i % 2 for i in range(5))", "assert all(f(i) in (0, 1) for i in range(5))")
asserts("comprehension-of-calls-wrong", 0.0, "def f(x): return x % 3", "assert [f(i) for i in range(4)] == [0, 1, 0, 1]", "assert all(f(i) in (0, 1) for i in range(5))")
asserts("chained", 1.0, "def f(x): return x / 2", "assert 0 < f(1) < 1", "assert 0.5 == f(1) != f(2)", "assert f(2) >= 1 and f(2) <= 1 or False")
asserts("in-place", 1.0, "def f(xs): xs.reverse()", "xs = [1, 2, 3]\nf(xs)\nassert xs == [3, 2, 1]")
asserts("nested-functions-returned", 1.0, "def adder(n):\n    return lambda x: x + n", "assert adder(2)(3) == 5", "g = adder(10)\nassert [g(i) for i in (1, 2)] == [11, 12]")
asserts("callback-argument", 1.0, "def apply(g, xs): return [g(x) for x in xs]", "assert apply(lambda x: x + 1, [1, 2]) == [2, 3]", "assert apply(str, [1]) == ['1']")
asserts("context-manager-and-iteration", 1.0, "class Box:\n    def __init__(self, *xs): self.xs = list(xs)\n    def __enter__(self): return self\n    def __exit__(self, *a): self.xs.clear()\n    def __iter__(self): return iter(self.xs)\n    def __getitem__(self, i): return self.xs[i]\n    def __setitem__(self, i, v): self.xs[i] = v", "b = Box(1, 2)\nb[0] = 5\nassert list(b) == [5, 2] and b[-1] == 2\nwith b as c:\n    assert sum(c) == 7\nassert b.xs == []")
asserts("properties-and-classmethods", 1.0, "class T:\n    def __init__(self, c): self.c = c\n    @property\n    def f(self): return self.c * 9 / 5 + 32\n    @classmethod\n    def cold(cls): return cls(-10)", "assert T(100).f == 212", "assert T.cold().c == -10", "assert hasattr(T(1), 'f') and not hasattr(T(1), 'k')")
asserts("lru-cache-of-three-calls", 1.0, "class LRUCache:\n    def __init__(self, n):\n        from collections import OrderedDict\n        self.n, self.d = n, OrderedDict()\n    def get(self, k):\n        if k not in self.d: return -1\n        self.d.move_to_end(k)\n        return self.d[k]\n    def put(self, k, v):\n        self.d[k] = v\n        self.d.move_to_end(k)\n        if len(self.d) > self.n: self.d.popitem(last=False)", "c = LRUCache(2)\nc.put(1, 1)\nc.put(2, 2)\nassert c.get(1) == 1\nc.put(3, 3)\nassert c.get(2) == -1\nassert [c.get(k) for k in (1, 3)] == [1, 3]")
asserts("decimal-and-date", 1.0, "from decimal import Decimal\nfrom datetime import date, timedelta\ndef price(x): return Decimal(x) * 2\ndef later(d, n): return d + timedelta(n)", "assert price('1.10') == Decimal('2.20')", "assert later(date(2024, 2, 28), 2) == date(2024, 3, 1)", setup="from decimal import Decimal\nfrom datetime import date")
asserts("large-integers-and-text", 1.0, "def f(n): return 10 ** n + 1\ndef g(n): return 'ab' * n", "assert f(500) % 10 == 1 and f(500) > 10 ** 500", "assert g(10_000).count('a') == 10_000", "assert len(g(3)) == 6")
asserts("exception-type-and-text", 1.0, "class Bad(ValueError):\n    pass\ndef f(x):\n    if x < 0: raise Bad(f'{x} is negative')\n    return x", "try:\n    f(-3)\nexcept ValueError as error:\n    assert 'negative' in str(error)\nelse:\n    assert False", "try:\n    f(-3)\nexcept Bad:\n    pass\nelse:\n    raise AssertionError('no Bad')")
asserts("prints-and-returns", 1.0, "def f(x):\n    print('f', x)\n    return x", "assert f(1) == 1", "out = [f(i) for i in range(3)]\nassert out == [0, 1, 2]")
asserts("solution-object", 1.0, "class Solution:\n    def add(self, a, b): return a + b", "assert Solution().add(a=1, b=2) == 3", "s = Solution()\nassert s.add(1, 2) == 3")
asserts("solution-check", 1.0, "class Solution:\n    def add(self, a, b): return a + b", "check(Solution().add)", setup="def check(candidate):\n    assert candidate(a = 1,b = 2) == 3\n    assert candidate(a = -1,b = 1) == 0")
asserts("tree-built-by-the-setup", 1.0, "class Solution:\n    def total(self, root: Optional[TreeNode]) -> int:\n        return 0 if not root else root.val + self.total(root.left) + self.total(root.right)", "check(Solution().total)", setup="from typing import Optional\nclass TreeNode:\n    def __init__(self, val=0, left=None, right=None):\n        self.val = val\n        self.left = left\n        self.right = right\ndef tree(xs):\n    if not xs or xs[0] is None: return None\n    root = TreeNode(xs[0])\n    queue, i = [root], 1\n    while queue and i < len(xs):\n        node = queue.pop(0)\n        for side in ('left', 'right'):\n            if i < len(xs) and xs[i] is not None:\n                setattr(node, side, TreeNode(xs[i]))\n                queue.append(getattr(node, side))\n            i += 1\n    return root\ndef check(candidate):\n    assert candidate(tree([1, 2, 3, None, 4])) == 10\n    assert candidate(None) == 0")
asserts("mutating-a-dictionary", 1.0, "def tally(d, k): d[k] = d.get(k, 0) + 1", "d = {}\ntally(d, 'a')\ntally(d, 'a')\nassert d == {'a': 2}")
asserts("half-of-a-block", 0.5, "def f(x): return x if x < 3 else 0", "assert f(1) == 1\nassert f(2) == 2", "assert f(1) == 1\nassert f(3) == 3")
asserts("recursion-limit", 1.0, "import sys\nsys.setrecursionlimit(50_000)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)", "assert f(20_000) == 20_000", "assert f(3) - 3 == 0")
