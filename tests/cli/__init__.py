"""Tests of qmailpy.cli."""
