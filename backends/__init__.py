"""Backends: a file or a folder each, found by its name; README.md says how to add one."""
