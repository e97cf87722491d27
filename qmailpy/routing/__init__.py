"""From an address to a channel: rewrite rules and directory, as functions of values."""
