"""Parts are found by name, or it is said why not."""

import os

import pytest

from spikec.extend import loader
from spikec.ir.errors import CompileError


def test_a_folder_that_cannot_be_listed_is_no_empty_one(monkeypatch):
    def no_more_files(path="."):
        raise OSError(24, "Too many open files")

    loader.passes()
    loader._listed.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", no_more_files)
        with pytest.raises(CompileError, match="passes cannot be read"):
            loader.pass_named("fold-batchnorm")
    assert loader.pass_named("fold-batchnorm").name == "fold-batchnorm"


def test_plugins_whose_import_is_interrupted_are_imported_anew(monkeypatch):
    calls = []

    def interrupted(found):
        calls.append("import")
        if len(calls) == 1:
            found.append("half")
            raise KeyboardInterrupt

    monkeypatch.setattr(loader, "_imported", None)
    monkeypatch.setattr(loader, "_import_plugins", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loader._plugins()
    assert loader._plugins() == []
    assert len(calls) == 2
