"""Environments that come with rlcore, by the name in `environment.fn`; imported only in the environment's process."""

MODULES = {
    "code_interpreter": "rlcore.agents.builtin.code",
    "mcp": "rlcore.agents.builtin.mcp",
    "reasoning_gym": "rlcore.agents.builtin.gym",
}
