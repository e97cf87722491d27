"""qmailpy: an all-in-one mail server on Twisted with a qmail-style crash-safe queue."""

__version__ = "0.1.0"
