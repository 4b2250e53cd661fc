"""Files of strangers, made by hand or mutated: a spikec error or a result, within 5 s and 1 GB."""

import pytest

import hostile_files
import mutated_files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    mutated_files.make(folder)
    return folder


@pytest.fixture(scope="module")
def outcomes(good):
    return hostile_files.outcomes(good)


@pytest.mark.parametrize("name", hostile_files.FILES)
def test_a_hostile_file_is_refused_soon_and_in_little_memory(outcomes, name):
    found, (*_, says) = outcomes[name], hostile_files.FILES[name]
    assert found["said"].startswith("refused: ")
    assert says in found["said"]
    assert "\n  try " in found["said"], "every refusal says what works"
    assert found["seconds"] < 5
    assert found["peak"] < 1 << 30


def test_the_worst_hostile_files(outcomes, record_property):
    slow, large = (max(outcomes.values(), key=lambda each: each[what]) for what in ("seconds", "peak"))
    record_property("slowest hostile file", f"{slow['name']}: {slow['seconds']:.2f} s of processor time")
    record_property("hostile file with the largest peak", f"{large['name']}: {large['peak'] / 2**20:.0f} MB")


@pytest.mark.parametrize("kind", mutated_files.USES)
def test_mutated_files_give_a_spikec_error_or_a_result(good, kind):
    found, _, peak = mutated_files.outcomes(good, kind, 60)
    assert found.keys() <= {"a result", "a spikec error"}
    assert peak < mutated_files.MEMORY
