"""Every layer against torch."""

import pytest
import torch
from torch import nn

import nets
import spikec
from spikec.ir.errors import UnsupportedOpError
from spikec.ir.ops import Add, BatchNorm, Clamp, Conv, Identity, Pad, Relu

pytestmark = pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel:UserWarning")

LAYERS = {
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "linear without bias": (lambda: nn.Linear(5, 3, bias=False), (5,)),
    "linear over the last axis": (lambda: nn.Linear(5, 3), (4, 5)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (4, 7, 8)),
    "conv2d depthwise": (lambda: nn.Conv2d(4, 8, (1, 3), groups=4, bias=False), (4, 5, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 4, (3, 2, 1), stride=(1, 2, 1), padding=(1, 0, 2), groups=2), (2, 4, 5, 3)),
    "conv1d same": (lambda: nn.Conv1d(2, 3, 4, padding="same", dilation=3), (2, 12)),
    "conv2d same": (lambda: nn.Conv2d(2, 3, (4, 3), padding="same"), (2, 6, 5)),
    "conv2d valid": (lambda: nn.Conv2d(2, 3, (4, 3), padding="valid"), (2, 6, 5)),
    "conv3d same": (lambda: nn.Conv3d(2, 3, (2, 3, 4), padding="same"), (2, 4, 5, 6)),
    "batchnorm1d": (lambda: nn.BatchNorm1d(5), (5,)),
    "batchnorm1d sequence": (lambda: nn.BatchNorm1d(5, eps=0.1), (5, 4)),
    "batchnorm2d": (lambda: nn.BatchNorm2d(4), (4, 3, 2)),
    "batchnorm2d not affine": (lambda: nn.BatchNorm2d(4, affine=False), (4, 3, 2)),
    "batchnorm3d": (lambda: nn.BatchNorm3d(4), (4, 2, 3, 2)),
    "sync batchnorm": (lambda: nn.SyncBatchNorm(4), (4, 3, 2)),
    "instancenorm2d with its statistics": (lambda: nn.InstanceNorm2d(4, 1e-3, 0.1, True, True), (4, 3, 2)),
    "instancenorm1d not affine": (lambda: nn.InstanceNorm1d(4, track_running_stats=True), (4, 3)),
    "relu": (lambda: nn.ReLU(), (4, 3)),
    "relu inplace": (lambda: nn.ReLU(inplace=True), (4, 3)),
    "relu6": (lambda: nn.ReLU6(), (3, 4)),
    "hardtanh": (lambda: nn.Hardtanh(-0.5, 0.75), (4, 3)),
    "avgpool1d": (lambda: nn.AvgPool1d(3, 2, 1), (2, 9)),
    "avgpool2d": (lambda: nn.AvgPool2d((3, 2), (2, 1), (1, 0)), (2, 8, 7)),
    "avgpool2d ceil": (lambda: nn.AvgPool2d(2, ceil_mode=True), (2, 5, 7)),
    "avgpool2d without padding in the count": (lambda: nn.AvgPool2d(3, padding=1, count_include_pad=False), (2, 6, 9)),
    "avgpool2d divisor that changes nothing": (lambda: nn.AvgPool2d((1, 2), divisor_override=2), (2, 4, 6)),
    "avgpool2d divisor": (lambda: nn.AvgPool2d((1, 2), divisor_override=3), (2, 4, 6)),
    "avgpool2d divisor of windows at a border": (lambda: nn.AvgPool2d(2, 1, 1, False, False, 4), (2, 4, 6)),
    "softshrink": (lambda: nn.Softshrink(0.2), (2, 4, 6)),
    "avgpool3d": (lambda: nn.AvgPool3d((2, 1, 2)), (2, 4, 3, 4)),
    "adaptive1d": (lambda: nn.AdaptiveAvgPool1d(3), (2, 8)),
    "adaptive2d": (lambda: nn.AdaptiveAvgPool2d((3, None)), (2, 7, 5)),
    "adaptive2d one": (lambda: nn.AdaptiveAvgPool2d(1), (3, 4, 5)),
    "adaptive3d": (lambda: nn.AdaptiveAvgPool3d((1, 2, 3)), (2, 4, 4, 5)),
    "maxpool1d": (lambda: nn.MaxPool1d(3, 2, 1), (2, 9)),
    "maxpool2d": (lambda: nn.MaxPool2d((2, 3), (1, 2), (1, 0)), (2, 6, 7)),
    "maxpool2d dilated ceil": (lambda: nn.MaxPool2d(2, dilation=(1, 2), ceil_mode=True), (2, 7, 8)),
    "maxpool3d": (lambda: nn.MaxPool3d(2), (2, 4, 4, 6)),
    "flatten": (lambda: nn.Flatten(), (2, 3, 4)),
    "flatten part": (lambda: nn.Flatten(2, 3), (2, 3, 4, 5)),
    "flatten from behind": (lambda: nn.Flatten(-2), (2, 3, 4)),
    "flatten of a vector": (lambda: nn.Flatten(), (6,)),
    "identity": (lambda: nn.Identity(), (3, 2)),
    "dropout": (lambda: nn.Dropout(0.3, inplace=True), (3, 2)),
    "dropout1d": (lambda: nn.Dropout1d(), (3, 2)),
    "dropout2d": (lambda: nn.Dropout2d(), (3, 2, 2)),
    "dropout3d": (lambda: nn.Dropout3d(), (3, 2, 2, 2)),
    "alpha dropout": (lambda: nn.AlphaDropout(), (3, 2)),
    "feature alpha dropout": (lambda: nn.FeatureAlphaDropout(), (3, 2)),
    "zeropad1d": (lambda: nn.ZeroPad1d((1, 2)), (2, 3)),
    "zeropad2d": (lambda: nn.ZeroPad2d((1, 2, 3, 0)), (2, 3, 4)),
    "zeropad2d crop": (lambda: nn.ZeroPad2d((-1, 2, 0, -1)), (2, 3, 4)),
    "zeropad3d": (lambda: nn.ZeroPad3d((1, 0, 2, 1, 0, 1)), (2, 3, 4, 2)),
    "constantpad2d": (lambda: nn.ConstantPad2d((1, 2, 3, 0), 0.0), (2, 3, 4)),
    "reflectionpad1d": (lambda: nn.ReflectionPad1d((1, 2)), (2, 5)),
    "reflectionpad2d": (lambda: nn.ReflectionPad2d((1, 2, 0, 3)), (2, 5, 4)),
    "reflectionpad3d": (lambda: nn.ReflectionPad3d((1, 2, 0, 1, 2, 0)), (2, 5, 4, 3)),
    "replicationpad1d": (lambda: nn.ReplicationPad1d((3, 2)), (2, 4)),
    "replicationpad2d": (lambda: nn.ReplicationPad2d((1, 2, 0, 3)), (2, 5, 4)),
    "replicationpad3d": (lambda: nn.ReplicationPad3d(2), (2, 3, 4, 3)),
    "circularpad1d": (lambda: nn.CircularPad1d((3, 2)), (2, 4)),
    "circularpad2d": (lambda: nn.CircularPad2d((1, 2, 0, 3)), (2, 5, 4)),
    "circularpad3d": (lambda: nn.CircularPad3d((1, 2, 0, 3, 1, 1)), (2, 5, 4, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_inside_a_model(agrees, name):
    build, shape = LAYERS[name]
    torch.manual_seed(0)
    agrees(nets.randomize(nn.Sequential(build())), shape)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_as_the_whole_model(agrees, name):
    build, shape = LAYERS[name]
    torch.manual_seed(0)
    agrees(nets.randomize(build()), shape)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("conv", "shape"), [(nn.Conv1d, (2, 7)), (nn.Conv2d, (2, 7, 8)), (nn.Conv3d, (2, 4, 5, 6))], ids=["1d", "2d", "3d"]
)
@pytest.mark.parametrize("padding", ["pairs", "same"])
def test_padding_modes(agrees, mode, conv, shape, padding):
    rank = len(shape) - 1
    given = "same" if padding == "same" else (2, 1, 2)[:rank]
    kernel = (2, 3, 4)[:rank]
    torch.manual_seed(0)
    graph = agrees(nn.Sequential(conv(2, 3, kernel, padding=given, padding_mode=mode)), shape)
    assert len(graph.match(Pad)) == (mode != "zeros")


@pytest.mark.parametrize("name", nets.ZOO)
def test_zoo(agrees, name):
    agrees(nets.build(name), *nets.ZOO[name][1])


def test_plain_relu_is_relu_and_every_other_clip_is_clamp():
    graph = spikec.load(nn.Sequential(nn.ReLU(), nn.ReLU6()), torch.zeros(1, 3))
    assert [node.op.cap for node in graph.match(Relu)] == [None]
    assert [(node.op.low, node.op.high) for node in graph.match(Clamp)] == [(0.0, 6.0)]


def test_identity_layers_stay_for_the_pass_that_removes_them():
    graph = spikec.load(nn.Sequential(nn.Dropout(), nn.Linear(3, 2)).eval(), torch.zeros(1, 3))
    assert len(graph.match(Identity)) == 1


def test_parameters_are_the_models_own_numbers():
    model = nets.build("cnn")
    (conv, *_) = spikec.load(model, nets.batch("cnn")).match(Conv)
    assert (conv.op.weight == model[0].weight.detach().numpy()).all()
    assert not conv.op.weight.flags.writeable
    with torch.no_grad():
        model[0].weight.zero_()
    assert conv.op.weight.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(dtype):
    model = nets.build("mlp", dtype=dtype)
    graph = spikec.load(model)
    x = nets.batch("mlp")
    assert graph.type(graph.inputs[0]).dtype == "float32"
    assert torch.allclose(spikec.run(graph, x), model.float()(x), atol=1e-6)


def test_a_subclass_that_changes_nothing_is_read_as_its_base(agrees):
    class Named(nn.Conv2d):
        def __init__(self):
            super().__init__(2, 3, 3)

        def extra_repr(self):
            return "mine"

    agrees(nn.Sequential(Named()), (2, 5, 4))


def test_a_subclass_with_another_forward_is_traced_through(agrees):
    class Same(nn.Conv2d):
        def forward(self, x):
            return super().forward(nn.functional.pad(x, (1, 1, 0, 2)))

    graph = agrees(nn.Sequential(Same(2, 3, 3)), (2, 5, 4))
    assert [graph[name].kind for name in graph] == ["input", "pad", "conv", "output"]


def test_a_subclass_whose_weight_is_computed_is_read_as_what_it_computes(agrees):
    class Standardized(nn.Conv2d):
        def forward(self, x):
            weight = (self.weight - self.weight.mean()) / self.weight.std()
            return nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding)

    model = nn.Sequential(Standardized(2, 3, 3, padding=1))
    before = set(model.state_dict()) | set(dir(model))
    agrees(model, (2, 5, 4))
    assert set(model.state_dict()) | set(dir(model)) == before


def test_a_subclass_with_another_inner_convolution_is_not_read_as_its_base(agrees):
    class Doubled(nn.Conv2d):
        def _conv_forward(self, x, weight, bias):
            return super()._conv_forward(x, 2 * weight, bias)

    agrees(nn.Sequential(Doubled(2, 3, 3)), (2, 5, 4))


def test_a_batchnorm_with_another_forward_is_traced_through(agrees):
    class Shifted(nn.BatchNorm2d):
        def forward(self, x):
            statistics = (self.running_mean, self.running_var)
            return nn.functional.batch_norm(x, *statistics, self.weight, self.bias, False, 0.1, self.eps) + x

    agrees(nets.randomize(nn.Sequential(Shifted(3))), (3, 4, 5))


def test_parametrized_weights_are_read_as_they_are_used(agrees):
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    model = nn.Sequential(nn.Linear(3, 4))
    nn.utils.parametrize.register_parametrization(model[0], "weight", Double())
    agrees(model, (3,))


@pytest.mark.slow
def test_forward_replaced_on_the_instance_is_traced(agrees):
    for model in (nn.Sequential(nn.Linear(3, 4)), nn.Sequential(nn.Linear(3, 4))):
        model[0].forward = lambda x, layer=model[0]: nn.functional.linear(x, layer.weight).relu()
        agrees(model, (3,))
    model.forward = lambda x: model[0](x) + model[0](x)
    assert agrees(model, (3,)).match(Add)


@pytest.mark.parametrize(
    ("model", "shape", "match"),
    [
        (nn.MaxPool2d(2, return_indices=True), (2, 4, 4), "return_indices=True is not supported"),
        (nn.AvgPool2d(2, 3, ceil_mode=True, divisor_override=3), (2, 4, 4), "divisor_override"),
        (nn.ConstantPad2d(1, float("inf")), (2, 4, 4), "padding with inf"),
        (nn.BatchNorm2d(2, track_running_stats=False), (2, 4, 4), "without running statistics"),
        (nn.Flatten(0), (2, 4), "flattens the batch axis"),
    ],
)
def test_an_option_that_cannot_be_converted_is_refused(model, shape, match):
    with pytest.raises(UnsupportedOpError, match=match) as error:
        spikec.load(nn.Sequential(nn.ReLU(), model).eval(), torch.zeros(2, *shape))
    assert error.value.location.startswith("1")


def test_affine_free_batchnorm_has_neutral_weights():
    (node,) = spikec.load(nn.BatchNorm1d(3, affine=False).eval(), torch.zeros(1, 3)).match(BatchNorm)
    assert node.op.weight.tolist() == [1, 1, 1]
    assert node.op.bias.tolist() == [0, 0, 0]
