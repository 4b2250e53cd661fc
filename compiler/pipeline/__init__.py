"""Passes in their order: which, how they are run, and who watches."""
