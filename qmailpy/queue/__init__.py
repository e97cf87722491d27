"""The crash-safe queue: journal, directories, schedule (docs/queue.md is its specification)."""
