"""The plan of a multi-round run: stages per round, their order and their inputs."""
