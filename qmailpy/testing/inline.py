"""
The channels' work without threads, for tests without a reactor: L{qmailpy.local.inline}.
"""

from qmailpy.local.inline import InlineThreads, InlineWriter

__all__ = ["InlineThreads", "InlineWriter"]
