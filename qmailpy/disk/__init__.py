"""The only code that opens, syncs, links or maps files."""
