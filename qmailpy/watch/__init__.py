"""A whole node seen from outside: what its processes, files and counters tell, and what in that is trouble."""
