"""Mail to other hosts: MX order, SMTP client, connection pool."""
