"""Frontends: one file each, found by its name; README.md says how to add one."""
