"""Tests of qmailpy.queue."""
