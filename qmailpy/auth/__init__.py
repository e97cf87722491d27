"""Logins: twisted.cred over the directory, and the brake on guessing."""
