"""Short-lived processes for untrusted or fragile code, forked from a clean one: verifiers and environments."""
