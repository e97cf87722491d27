"""What an operator may want to be told of: the catalogue of events, and the file they are written to."""
