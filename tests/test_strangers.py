"""Files of strangers, made by hand or mutated: a spikec error or a result, within 5 s and 1 GB."""

import functools

import pytest

import hostile_files
import mutated_files


@functools.cache
def hostile_outcomes():
    return hostile_files.outcomes()


@pytest.mark.parametrize("name", hostile_files.FILES)
def test_a_hostile_file_is_refused_soon_and_in_little_memory(name):
    found, (*_, says) = hostile_outcomes()[name], hostile_files.FILES[name]
    assert found["said"].startswith("refused: ")
    assert says in found["said"]
    assert found["seconds"] < 5
    assert found["peak"] < 1 << 30


@pytest.mark.parametrize("kind", mutated_files.USES)
def test_mutated_files_give_a_spikec_error_or_a_result(kind):
    found, _, peak = mutated_files.outcomes(kind, 40)
    assert found.keys() <= {"a result", "a spikec error"}
    assert peak < mutated_files.MEMORY
