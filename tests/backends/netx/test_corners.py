"""Where netx does something else than a file seems to say, and the test that we stay clear of it.

netx, or slayer                                  we                        test
-----------------------------------------------  ------------------------  ------------------------------------------------
a dense layer of zeros: OverflowError            refuse model and file     test_a_layer_of_zeros_is_refused_by_its_name
                                                                           test_what_netx_does_not_run_is_refused_by_name
-256 with no positive weight becomes -255 or 0   refuse                    test_what_netx_does_not_run_is_refused_by_name
fractions of weights are cut off                 write integers, warn      test_files_are_the_same_twice_and_hold_what_netx_reads
                                                                           test_fractions_are_cut_off_with_a_warning
weights of kernels are not clipped               refuse                    test_what_netx_does_not_run_is_refused_by_name
a layer of a type that it has not is skipped     refuse                    test_a_layer_that_netx_would_skip_is_refused
a vector is flattened: an error                  refuse                    test_what_netx_does_not_run_is_refused_by_name
dense behind conv without flatten: an error      write it, refuse          test_files_are_the_same_twice_and_hold_what_netx_reads
                                                                           test_what_netx_does_not_run_is_refused_by_name
conv behind dense: an error                      refuse                    test_what_netx_does_not_run_is_refused_by_name
a conv's shape that is wrong: an error           refuse                    test_what_netx_does_not_run_is_refused_by_name
it computes in floats unless told                tell it                   test_lava_runs_our_file_spike_for_spike
numbers that are no spikes count as 1            refuse                    test_a_file_of_lava_is_read_and_takes_spikes
a bias beyond 16 bits breaks                     refuse                    test_what_netx_does_not_run_is_refused_by_name
a step's sum beyond 2^17 wraps                   simulate, warn            test_sums_of_a_convolution_wrap_as_lava_s
                                                                           test_currents_wrap_and_voltages_saturate
a current that adds up wraps, a voltage          simulate, warn            test_overflow_and_decay_are_lava_s
saturates                                                                  test_an_overflow_is_reported
recurrent blocks of slayer go on between calls   start every call anew     test_blocks_neurons_synapses_and_the_target_are_slayers_spike_for_spike
the file stays open                              close it                  test_random_nets_on_inputs_that_change_over_time_are_lava_s
"""  # noqa: E501

import re
from pathlib import Path

import h5py
import pytest
import torch
from torch import nn

import spikec
from spikec import InvalidModelError, UnsupportedOpError
from spikec.backends.netx import NetxNetwork

TESTS = Path(__file__).parents[2]


def test_every_corner_s_test_is_there():
    files = [*Path(__file__).parent.glob("test_*.py"), *(TESTS / "interop").glob("test_*.py")]
    written = {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)}
    named = re.findall(r"\btest_\w+", __doc__)
    assert len(named) == 21
    assert not set(named) - written


@pytest.mark.slow
@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_a_layer_of_zeros_is_refused_by_its_name(reset):
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        model[2].weight.zero_()
    with pytest.raises(UnsupportedOpError, match="weights are zero, which netx cannot load") as error:
        spikec.compile(model, "netx", calibration=torch.rand(8, 4), timesteps=16, reset=reset)
    assert error.value.location.startswith("2")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm", "Dense", "average", "concat", "unpool"])
def test_a_layer_that_netx_would_skip_is_refused(kind, tmp_path):
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    net = spikec.compile(model, "netx", calibration=torch.rand(8, 4), timesteps=16, reset="hard")
    net.save(tmp_path / "x.net")
    with h5py.File(tmp_path / "x.net", "a") as file:
        del file["layer/2/type"]
        file["layer/2/type"] = kind
    with pytest.raises(InvalidModelError, match=f"'{kind}', which netx has not") as error:
        NetxNetwork.load(tmp_path / "x.net")
    assert error.value.location == "/layer/2"
