"""The qmailpy command."""
