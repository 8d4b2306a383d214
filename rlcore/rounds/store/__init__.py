"""What stages made: content-hashed, found by key, resumable."""
