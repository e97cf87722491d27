"""Builds the service tree; alone names the global reactor."""
