"""Adapters: octets from a transport to a pure core and back."""
