"""The transaction log: its record, its text form, its files."""
