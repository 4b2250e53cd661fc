"""``python -m spikec``."""

from spikec.shell.cli import main

main(prog_name="spikec")
