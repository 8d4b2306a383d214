"""Help texts of the commands."""

from __future__ import annotations

import pytest

from actors import cli
from actors.commands.usage import COMMANDS_HELP
from actors.config import keys
from actors.config.schema import Config
from tests.actors.cases import run


@pytest.mark.parametrize("command", list(cli.COMMANDS))
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_explains_itself_and_starts_nothing(command, flag, monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, command, lambda arguments: pytest.fail("it ran"))
    for arguments in ([command, flag], [command, "seed=1", flag], ["help", command]):
        code, out, _ = run(monkeypatch, capsys, *arguments)
        assert code == 0
        assert out.startswith(f"rlcore {command}")
    assert set(COMMANDS_HELP) == set(cli.COMMANDS)
    assert "Hydra" not in out.split("\n")[0]


def test_keys_named_in_the_help_exist():
    known = {key.name for key in keys.keys(Config())}
    for text in COMMANDS_HELP.values():
        for line in text.split("Keys a new user meets")[1:]:
            for row in line.splitlines()[1:10]:
                for name in row.split("  ")[1].split(", ") if row.startswith("  ") else []:
                    assert name.strip() in known
