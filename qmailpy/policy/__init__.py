"""Who may send us what: access tables, limits, and what can be told of a client before its mail is taken."""
