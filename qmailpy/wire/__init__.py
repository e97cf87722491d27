"""Protocol grammars and state machines without I/O."""
