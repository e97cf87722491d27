"""The other ends of real conversations: a raw client, a raw sink, Postfix."""
