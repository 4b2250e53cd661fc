"""What must hold of every network: each property takes a model in eval mode and its data, and raises where it fails.

A property returns what it saw, ``"equal"`` or the refusal. A file that repeats a failure holds the text of its property
and of what that calls, so these functions use nothing but each other, torch, numpy, and the libraries imported here.
"""

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from pathlib import Path

import nir
import numpy as np
import onnx
import onnxruntime
import torch

import spikec
from nir_numpy import evaluate
from spikec.interpreter.results import outputs

#: of the spread of an output over the batch
EXACT = 1e-9
#: the same for ONNX, which holds numbers such as a slope or an epsilon as float32
ONNX = 1e-6
#: the same for computation in float32
FLOAT32 = 1e-4
#: opsets of ONNX that torch's older exporter writes
OPSETS = range(7, 21)


def flat(result):
    """The tensors in a container, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [x for each in (result.values() if isinstance(result, dict) else result) for x in flat(each)]


def answers(model, xs):
    with torch.no_grad():
        return [y.clone() for y in flat(model(*(x.clone() for x in xs)))]


def apart(found, wanted):
    """The largest difference, as a share of the spread of the output that differs most."""
    assert len(found) == len(wanted), f"{len(found)} outputs instead of {len(wanted)}"
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape, f"an output of shape {tuple(a.shape)} instead of {tuple(b.shape)}"
        spread = max(float((b - b.mean(0)).abs().max()), 1e-3 * max(1.0, float(b.abs().max())))
        worst = max(worst, float((a - b).abs().max().nan_to_num(1e300)) / spread)
    return worst


@contextlib.contextmanager
def quiet():
    """Torch's exporters warn, log and print."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def refusal(error):
    """What a refusal says: a located one with a hint. That an import or a pass was found to be wrong is none."""
    if isinstance(error, spikec.VerificationError):
        raise error
    for problem in error.problems:
        assert problem.location or problem.op, f"a refusal without a place: {problem}"
        assert problem.hint, f"a refusal without a hint: {problem}"
    return f"refused: {error.problems[0].message}"


def import_equals_torch(model, xs, seed=0):
    """The graph that ``spikec.load`` gives of the model is the model."""
    return graph_equals(answers(model, xs), model, xs, EXACT)


def graph_equals(wanted, read, xs, tolerance):
    """What is read is a graph with these answers."""
    try:
        graph = spikec.load(read, tuple(x[:2].clone() for x in xs))
    except spikec.CompileError as error:
        return refusal(error)
    found = flat(spikec.run(graph, xs))
    assert apart(found, wanted) <= tolerance, f"the import differs by {apart(found, wanted):.2g} of the spread"
    return "equal"


def exported_program_equals_torch(model, xs, seed=0):
    """So is the graph of a program of torch.export."""
    try:
        with quiet():
            batch = {0: torch.export.Dim.AUTO}
            program = torch.export.export(model, tuple(x.clone() for x in xs), dynamic_shapes=tuple(batch for _ in xs))
    except Exception as error:
        return f"torch.export: {type(error).__name__}"
    return graph_equals(answers(model, xs), program, xs, EXACT)


def onnx_equals_torch(model, xs, seed=0):
    """So is the graph of what torch's older exporter writes, at any opset, with an open batch size or a fixed one."""
    names = [f"in{i}" for i in range(len(xs))]
    options = {"dynamic_axes": {name: {0: "batch"} for name in names}} if seed % 2 else {}

    def export(model, xs):
        file = io.BytesIO()
        opset = OPSETS[seed % len(OPSETS)]
        torch.onnx.export(model, xs, file, opset_version=opset, input_names=names, dynamo=False, **options)
        return onnx.load_from_string(file.getvalue())

    return onnx_graph_equals(model, xs, export)


def dynamo_onnx_equals_torch(model, xs, seed=0):
    """So is the graph of what torch's newer exporter writes."""
    names = [f"in{i}" for i in range(len(xs))]

    def export(model, xs):
        return torch.onnx.export(model, xs, input_names=names, dynamo=True, verbose=False).model_proto

    return onnx_graph_equals(model, xs, export)


def onnx_graph_equals(model, xs, export):
    """The graph of an ONNX model is what torch has exported; where the exporter errs, what onnxruntime makes of it."""

    def exported(model, xs):
        with quiet():
            proto = export(model, tuple(x.clone() for x in xs))
        left = [each.name for each in proto.graph.input]  # an input that nothing uses is not written
        return proto, {f"in{i}": x for i, x in enumerate(xs) if f"in{i}" in left}

    try:
        proto, feeds = exported(model, xs)
    except Exception as error:
        return f"torch.onnx: {type(error).__name__}"
    try:
        return graph_equals(answers(model, xs), proto, tuple(feeds.values()), ONNX)
    except AssertionError:
        proto, feeds = exported(copy.deepcopy(model).float(), [x.float() for x in xs])  # it has few kernels for float64
        try:
            session = onnxruntime.InferenceSession(proto.SerializeToString())
            wanted = session.run(None, {name: x.numpy() for name, x in feeds.items()})
        except Exception as error:
            return f"torch.onnx: {type(error).__name__}, as onnxruntime says"
        found = graph_equals([torch.tensor(y) for y in wanted], proto, tuple(feeds.values()), FLOAT32)
        return found if found != "equal" else "torch.onnx: another network"


def compiled(target, model, xs, **options):
    """The compilation for a target, each of its passes held to its contract."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", spikec.SpikecWarning)
        data = [tuple(x.clone() for x in xs)] if len(xs) > 1 else xs[0].clone()
        return spikec.Compiler(target, calibration=data, verify="each", **options).run(model)


def exact_passes_keep_the_model(run, model, xs):
    """Every graph of the compilation that is an ANN still is the model."""
    wanted = answers(model, xs)
    for stage in run.stages:
        if not stage.graph.is_spiking:
            found = apart(outputs(stage.graph, xs, 1), wanted)
            assert found <= EXACT, f"{stage.name} is {found:.2g} of the spread off"


def interpreted(graph, train):
    """The outputs [T, B, ...] in the graph's own units; one without neurons is run on each step alone."""
    if graph.is_spiking:
        return flat(spikec.run(graph, train))
    steps = [flat(spikec.run(graph, x)) for x in zip(*train, strict=True)]
    return [torch.stack(each) for each in zip(*steps, strict=True)]


def over_time(xs, steps=6):
    """Inputs [T, B, ...] that change from step to step."""
    return tuple(torch.stack([x.roll(t, 0) * (1 + t % 3) for t in range(steps)]) for x in xs)


def module_equals_interpreter(model, xs, seed=0):
    """The spiking module, in both step modes, is its final graph; every exact pass keeps the model."""
    timesteps = (None, 4, 8)[seed % 3]
    try:
        run = compiled("spikingjelly", model, xs, timesteps=timesteps)
    except spikec.CompileError as error:
        return refusal(error)
    exact_passes_keep_the_model(run, model, xs)
    train = over_time(xs)
    scales = run.output_scale if len(run.graph.outputs) > 1 else (run.output_scale,)
    raw = interpreted(run.graph, train)
    wanted = [y * torch.tensor(scale, dtype=y.dtype) for y, scale in zip(raw, scales, strict=True)]
    net = run.artifact
    with torch.no_grad():
        for _ in range(2):
            steps = [flat(net(*step)) for step in zip(*train, strict=True)]
            assert apart([torch.stack(each) for each in zip(*steps, strict=True)], wanted) <= EXACT, "step by step"
            net.reset()
        net.step_mode = "m"
        assert apart(flat(net(*train)), wanted) <= EXACT, "all steps at once"
    return "equal"


class Unrolled(torch.nn.Module):
    """A spiking module from its reset state over some steps, as it would be exported: the sum of each output."""

    def __init__(self, net, steps=3):
        super().__init__()
        self.net, self.steps = net, steps

    def forward(self, *xs):
        self.net.reset()
        found = [flat(self.net(*xs)) for _ in range(self.steps)]
        self.net.reset()
        return tuple(sum(each) for each in zip(*found, strict=True))


def module_survives_export(model, xs, seed=0):
    """The spiking module is the same behind TorchScript, or behind torch.export."""
    try:
        run = compiled("spikingjelly", model, xs, timesteps=4)
    except spikec.CompileError as error:
        return refusal(error)
    net = Unrolled(run.artifact).eval()
    wanted, given = answers(net, xs), tuple(x.clone() for x in xs)
    with quiet():
        exported = (
            torch.jit.trace(net, given, check_trace=False) if seed % 4 else torch.export.export(net, given).module()
        )
        found = apart(answers(exported, xs), wanted)
    assert found <= EXACT, f"what was exported is {found:.2g} of the spread off"
    return "equal"


def error_falls(model, xs, seed=0):
    """With thresholds that clip nothing, sixteen times the steps leave at most a third of the error, or 2 %."""
    try:
        run = compiled("spikingjelly", model, xs, normalization="max")
    except spikec.CompileError as error:
        return refusal(error)
    wanted = answers(model, xs)
    few, many = (apart(outputs(run.graph, xs, steps), wanted) for steps in (32, 512))
    assert many <= max(few / 3, 0.02), f"{many:.3g} of the spread off after 512 steps, {few:.3g} after 32"
    return "equal"


def laid_out(values, node, port):
    """What the model takes as [T, B, ...] as the file's input does, or what its output gives as the model's does."""
    values = np.asarray(values)
    if "axes" not in node.metadata:
        return values
    shape = node.input_type["input"] if port == "input" else node.metadata["model_shape"]
    return values.transpose(0, 1, *(axis + 2 for axis in node.metadata["axes"])).reshape(*values.shape[:2], *shape)


def nir_file_equals_interpreter(model, xs, seed=0):
    """The NIR file means the final graph: by an evaluator of our own, and read back by spikec."""
    try:
        run = compiled("nir", model, xs, timesteps=(None, 8)[seed % 2])
    except spikec.CompileError as error:
        return refusal(error)
    exact_passes_keep_the_model(run, model, xs)
    train = over_time(xs)
    wanted = interpreted(run.graph, train)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", spikec.SpikecWarning)
        path = Path(folder) / "net.nir"
        spikec.save(run.artifact, path)
        written, again = nir.read(path), spikec.load(path)
    names = sorted(written.inputs)
    feeds = {name: laid_out(x, written.nodes[name], "input") for name, x in zip(names, train, strict=True)}
    found = evaluate(written, feeds, v_init=written.metadata.get("v_init", 0.0))
    found = [torch.tensor(laid_out(found[name], written.nodes[name], "output")) for name in sorted(written.outputs)]
    # NIR has no samples without an axis: one number a sample is a vector of one in the file
    vectors = [x.unsqueeze(-1) if x.ndim == 2 else x for x in wanted]
    assert apart(found, vectors) <= EXACT, f"the file is {apart(found, vectors):.2g} of the spread off"
    found = interpreted(again, train)
    assert apart(found, wanted) <= EXACT, f"the file read back is {apart(found, wanted):.2g} of the spread off"
    return "equal"


def netx_file_equals_interpreter(model, xs, seed=0):
    """The netx model is its final graph, number for number, and the file is the model."""
    reset = ("auto", "soft", "hard")[seed % 3]
    try:
        run = compiled("netx", model, xs, timesteps=8, reset=reset)
    except spikec.CompileError as error:
        return refusal(error)
    wanted = spikec.run(run.graph, xs, 8).sum(0).numpy()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", spikec.SpikecWarning)
        path = Path(folder) / "net.net"
        spikec.save(run.artifact, path)
        again = type(run.artifact).load(path)
        for net in (run.artifact, again):
            trace = net.simulate(xs[0], 8)
            assert trace.overflows or np.array_equal(trace.total.reshape(wanted.shape), wanted), "the integers differ"
        assert torch.equal(run.artifact.run(xs[0], 8), again.run(xs[0], 8)), "the file differs"
    return "equal"
