"""Artefacts of stages: content-hashed, found by key, resumable."""
