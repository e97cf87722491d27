"""Speed beside another mail server, and promises under kill -9 and power cuts: on the real daemon, from the outside."""
