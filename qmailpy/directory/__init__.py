"""Who exists and where they live: the LDAP tree, its store, its server and its client."""
