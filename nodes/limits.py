"""The largest requests that are taken on. Node schemas name these numbers, so nothing heavy is imported here."""

MAX_BATCH = 64  # images whose tokens are written at once
