"""A right program and its tests."""

STDIN = {"type": "stdin", "inputs": ["1"], "outputs": ["2"]}
PLUS_ONE = "```python\nprint(int(input()) + 1)\n```"
