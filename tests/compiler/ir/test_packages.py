"""Packages that are missing, or too old because another package pins them."""

import pytest

import spikec
from spikec.ir import packages


def asking_for(tmp_path, monkeypatch, attribute):
    name = f"asks_for_{attribute}".lower()
    (tmp_path / f"{name}.py").write_text(f"import nir\nnir.{attribute}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return packages.needed(name, "the target nir")


@pytest.mark.parametrize("attribute", ["IF", "OfTheFuture"])  # there in old versions too, or not
def test_a_nir_that_another_package_has_pinned_is_named(attribute, tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "version", {"nir": "1.0.4"}.__getitem__)
    with pytest.raises(
        spikec.MissingDependencyError, match=r"needs nir 1\.0\.7 or newer, and 1\.0\.4 is installed"
    ) as e:
        asking_for(tmp_path, monkeypatch, attribute)
    assert e.value.hint.startswith('pip install "nir>=1.0.7"; sinabs and rockpool ask for nir 1.0.4')


def test_a_fault_that_is_not_the_versions_stays_what_it_is(tmp_path, monkeypatch):
    with pytest.raises(AttributeError, match="OfTheFuture"):
        asking_for(tmp_path, monkeypatch, "OfTheFuture")
    assert asking_for(tmp_path, monkeypatch, "LIF").nir


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    (tmp_path / "asks_for_more.py").write_text("import not_to_be_found_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(spikec.MissingDependencyError, match="needs the package not_to_be_found_anywhere") as error:
        packages.needed("asks_for_more", "a test")
    assert error.value.hint == 'pip install "not_to_be_found_anywhere"'
