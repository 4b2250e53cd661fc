"""``python -m spikec``."""

from spikec.cli import main

main(prog_name="spikec")
