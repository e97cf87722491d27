"""The files of etc/ as one frozen Config; every error names file and line."""
