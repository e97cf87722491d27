"""The fakes we ship and test; only tests import them."""
