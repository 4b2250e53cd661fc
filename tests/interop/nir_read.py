"""Runs under a Python that has nir or snn-mlir, and no torch: who reads a file without running it.

``nir_read.py TOOL FILE...`` reads each of the files, by ``nir`` of whatever version or by the parser of ``snn-mlir``.
"""

import sys

import nir


def snn_mlir(path):
    from snn_mlir import parse_graph

    return parse_graph(path)


if __name__ == "__main__":
    tool, *files = sys.argv[1:]
    for file in files:
        {"nir": nir.read, "snn-mlir": snn_mlir}[tool](file)
