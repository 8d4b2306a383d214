"""Programs in other languages."""

import shutil

import pytest

from rlcore.rewards.code import score
from rlcore.rewards.sandbox import commands
from rlcore.types import Status
from tests.rewards.code.cases import STDIN


def test_other_languages(tier):
    c = '```c\n#include <stdio.h>\nint main(void) { int a; scanf("%d", &a); printf("%d\\n", a + 1); return 0; }\n```'
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    assert score(c, {**STDIN, "language": "c"}, sandbox=tier, time_limit_s=8.0).score == 1.0
    broken = score("```c\nint main(void) { return x; }\n```", STDIN, language="c", sandbox=tier)
    assert broken.score == 0.0
    assert "does not compile" in broken.info["failed"]
    forks = '```c\n#include <unistd.h>\n#include <stdio.h>\nint main(void) { puts(fork() < 0 ? "no" : "2"); }\n```'
    assert score(forks, STDIN, language="c", sandbox=tier).score == 0.0
    assert score("x", STDIN, language="cobol", sandbox=tier).status is Status.ERROR
    own = {**tier, "languages": {"shout": {"file": "main.pl", "run": ["perl", "{source}"]}}}
    assert score("```shout\nprint <STDIN> + 1;\n```", STDIN, language="shout", sandbox=own).score == 1.0


PLUS_ONE_IN = {
    "c": '#include <stdio.h>\nint main(void) { int a; scanf("%d", &a); printf("%d\\n", a + 1); }',
    "cpp": "#include <bits/stdc++.h>\nint main() { int a; std::cin >> a; std::cout << std::vector<int>{a + 1}[0]; }",
    "javascript": "const a = require('fs').readFileSync(0, 'utf8');\nconsole.log(Number(a) + 1);",
    "perl": "print <STDIN> + 1, qq{\\n};",
    "ruby": "puts gets.to_i + 1",
    "go": 'package main\nimport "fmt"\nfunc main() { var a int; fmt.Scan(&a); fmt.Println(a + 1) }',
    "rust": "fn main() { let mut s = String::new(); std::io::stdin().read_line(&mut s).unwrap(); "
    'println!("{}", s.trim().parse::<i32>().unwrap() + 1); }',
    "java": "import java.util.Scanner;\npublic class Main { public static void main(String[] a) "
    "{ System.out.println(new Scanner(System.in).nextInt() + 1); } }",
}


@pytest.mark.parametrize("language", PLUS_ONE_IN)
def test_every_language_that_is_installed(tier, language):
    command = commands.TABLE[language]
    needed = {words[0] for words in (command.run, command.compile) if words and "{" not in words[0]}
    missing = sorted(word for word in needed if not (shutil.which(word) or "").startswith("/usr/"))
    if missing:
        pytest.skip(f"not installed in /usr: {', '.join(missing)}")
    source, tests = PLUS_ONE_IN[language], {"type": "stdin", "inputs": ["1", "41\n"], "outputs": ["2", "42"]}
    options = {"sandbox": tier, "language": language, "time_limit_s": 10.0, "deadline_s": 60.0}
    right = score(f"```{language}\n{source}\n```", tests, **options)
    assert (right.score, right.status) == (1.0, Status.OK), right.info
    wrong = score(f"```{language}\n{source.replace('1', '3')}\n```", tests, **options)
    assert (wrong.score, wrong.status) == (0.0, Status.OK), wrong.info
