"""AMP commands between the command line and the running processes."""
