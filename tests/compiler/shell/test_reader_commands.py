"""check --profile, diagnose --snn and repair: what the reader of a file makes of it."""

import json

import nir
import numpy as np
import pytest

import spikec


@pytest.mark.slow
def test_check_lists_what_a_reader_does_otherwise(shell):
    said = shell("check", "mlp.nir", "--profile", "norse", code=1).output
    assert "a spike resets the potential to v_reset, and not by subtraction" in said
    assert "--option reset=hard" in said
    found = json.loads(shell("check", "mlp.nir", "--profile", "sinabs", "--json", code=1).stdout)
    assert any("fires as often" in problem["message"] for problem in found["problems"])
    assert "neurons of each layer, by target" in shell("check", "mlp.nir").output


@pytest.mark.slow
def test_check_with_a_target_takes_its_profile(shell):
    assert "nothing keeps" in shell("check", "mlp.nir", "--target", "nir", "--profile", "portable").output
    assert "no profile of NIR" in shell("check", "mlp.nir", "--target", "nir", "--profile", "brian", code=1).output


@pytest.mark.slow
def test_diagnose_foretells_what_a_reader_answers(shell):
    said = shell("diagnose", "own.py:mlp", "data.npz", "--snn", "mlp.nir", "--as", "sinabs").output
    assert "300 samples, as sinabs runs it" in said
    hard = shell("diagnose", "own.py:mlp", "data.npz", "--snn", "mlp.nir", "--as", "norse").output
    assert "--option reset=hard" in hard
    found = json.loads(
        shell("diagnose", "own.py:mlp", "data.npz", "--snn", "mlp.nir", "--as", "norse", "--json").stdout
    )
    assert (found["reader"], found["timesteps"], found["samples"]) == ("norse", 32, 300)
    assert found["agreement"] == found["accuracy"]  # the labels are the model's own answers
    assert found["ann_accuracy"] == 1


@pytest.mark.parametrize("options", [("--as", "sinabs"), ()])
def test_diagnose_says_what_is_missing(shell, options):
    assert "Missing option" in shell("diagnose", "own.py:mlp", "data.npz", *options, code=2).output


@pytest.mark.slow
def test_repair_writes_for_a_reader(shell, made):
    said = shell("repair", "mlp.nir", "-o", "sj.nir", "--profile", "spikingjelly").output
    assert "mended: " in said
    assert "r != 1/dt" in said
    assert "left: " in said
    left = spikec.check(made / "sj.nir", profile="spikingjelly")
    assert {problem.message.split(": ")[1] for problem in left} == {
        "a spike resets the potential to v_reset, and not by subtraction"
    }


@pytest.mark.slow
def test_options_in_what_is_said_of_a_file_are_those_of_the_shell(shell, made):
    """Which reset a file means, and that no metadata say it: repair and inspect print it, as warnings do."""
    lif = {"tau": np.full(2, 2e-3), "r": np.ones(2), "v_leak": np.zeros(2), "v_threshold": np.full(2, 0.1)}
    weights = nir.Affine(np.eye(2, dtype=np.float32), np.zeros(2, dtype=np.float32))
    nodes = (nir.Input({"input": np.array([2])}), weights, nir.LIF(**lif), nir.Output({"output": np.array([2])}))
    nir.write(made / "silent.nir", nir.NIRGraph.from_list(*nodes))
    repair = ("repair", "silent.nir", "-o", "norse.nir", "--profile", "norse", "--option", "dt=1e-4")
    for command in (repair, ("inspect", "silent.nir", "--option", "dt=1e-4")):
        said = " ".join(shell(*command).stdout.split())
        assert "by subtraction is --option reset=subtract" in said
        assert "reset='subtract'" not in said
        data = json.loads(shell(*command, "--json").stdout)
        assert all("reset='subtract'" not in note for note in data.get("notes", ()))
