"""What a random network may do with a value: each step writes one expression, with options that its bytes choose."""

from torch import nn

from random_networks.network import arguments, product

#: name: step. A step takes a Writer and gives the text of the new value, or None where it does not fit.
STEPS = {}
#: the steps that each target can carry, or all; a network of them may still be refused, by how they are put together
FOR = {None: [], "nir": [], "netx": []}


def step(*targets, often=1):
    """Register a step, for networks of all kinds and for those of the targets."""

    def register(function):
        STEPS[function.__name__] = function
        for target in (None, *targets):
            FOR[target] += [function.__name__] * often
        return function

    return register


def maps(net):
    """Whether the value has one to three axes behind its channels, as layers with a kernel want it."""
    return 1 <= len(net.size) <= 3


def layer_or_function(net, layer, function, *given, **options):
    """A call of a layer that has these arguments, or of the function with the same ones."""
    text = arguments(*given, **options)
    return net.pick(lambda: net.layer(f"{layer}({text})"), lambda: f"{function}({', '.join([net.x, text])})")()


def divisors(number):
    return [each for each in range(1, number + 1) if number % each == 0]


# ------------------------------------------------------------------ layers with weights


@step("nir", "netx", often=3)
def conv(net):
    if not maps(net):
        return None
    d, groups = len(net.size), net.pick(1, 1, *divisors(net.channels))
    kernel, stride = net.some(3, 1, 2), net.some(1, 1, 2)
    options = {
        "stride": None if stride == 1 else stride,
        "padding": net.pick(None, 1, net.some(0, 1, 2), "same", 2),
        "dilation": net.pick(None, None, None, net.some(1, 2)),
        "groups": None if groups == 1 else groups,
        "bias": net.pick(None, None, False),
        "padding_mode": net.pick(None, None, None, None, "reflect", "replicate", "circular"),
    }
    text = arguments(net.channels, groups * net.pick(2, 1, 3), kernel, **options)
    return net.layer(f"nn.Conv{d}d({text})")


@step()
def functional_conv(net):
    if not maps(net):
        return None
    d, groups = len(net.size), net.pick(1, *divisors(net.channels))
    out = groups * net.pick(2, 1)
    kernel = net.choices.some(d, 2, 1, 3)
    weight = net.parameter(out, net.channels // groups, *kernel)
    bias = net.pick(lambda: net.parameter(out), lambda: None)()
    options = {"stride": net.pick(None, 2), "padding": net.pick(None, 1), "groups": None if groups == 1 else groups}
    return f"F.conv{d}d({arguments(net.x, weight, bias, **options)})"


@step("netx")
def transposed_conv(net):
    if not maps(net):
        return None
    d, groups, stride = len(net.size), net.pick(1, 1, *divisors(net.channels)), net.some(1, 2)
    options = {
        "stride": None if stride == 1 else stride,
        "padding": net.pick(None, 1),
        "output_padding": net.pick(None, None, 1),
        "groups": None if groups == 1 else groups,
        "bias": net.pick(None, False),
        "dilation": net.pick(None, None, 2),
    }
    text = arguments(net.channels, groups * net.pick(2, 1), net.some(2, 3, 1), **options)
    return net.layer(f"nn.ConvTranspose{d}d({text})")


@step("nir", "netx", often=2)
def linear(net):
    return net.layer(f"nn.Linear({arguments(net.shape[-1], net.pick(4, 2, 7), bias=net.pick(None, None, False))})")


@step("nir", "netx")
def flat_linear(net):
    size = product(net.shape[1:])
    channels_last = f".permute(0, {', '.join(map(str, range(2, len(net.shape))))}, 1).flatten(1)"
    flat = net.pick(
        ".flatten(1)",
        f".view({net.x}.size(0), -1)",
        f".reshape({net.x}.shape[0], -1)",
        f".reshape(-1, {size})",
        channels_last if len(net.shape) > 2 else "",
    )
    call = net.layer(f"nn.Linear({size}, {net.pick(4, 3)})")
    return call.replace(f"({net.x})", f"({net.x}{flat})")


@step()
def matrix(net):
    weight = net.parameter(net.shape[-1], net.pick(3, 2))
    return net.pick(f"{net.x} @ {weight}", f"torch.matmul({net.x}, {weight})", f"F.linear({net.x}, {weight}.t())")


@step()
def linear_over_channels(net):
    if len(net.shape) < 3:
        return None
    axis = net.axis()
    moved = net.pick(".transpose({a}, -1)", ".movedim({a}, -1)").format(a=axis)
    back = net.pick("", moved if "transpose" in moved else f".movedim(-1, {axis})")
    return net.layer(f"nn.Linear({net.length(axis)}, 3)").replace(f"({net.x})", f"({net.x}{moved})") + back


@step("nir", "netx", often=2)
def batchnorm(net):
    d = len(net.size)
    if d > 3:
        return None
    text = arguments(net.channels, eps=net.pick(None, 1e-3), affine=net.pick(None, None, False))
    return net.layer(f"nn.BatchNorm{max(d, 1)}d({text})")


@step()
def instance_norm(net):
    if not maps(net):
        return None
    text = arguments(net.channels, affine=net.pick(None, True), track_running_stats=True)
    return net.layer(f"nn.InstanceNorm{len(net.size)}d({text})")


@step("nir", "netx")
def block(net):
    if not maps(net):
        return None
    d, out = len(net.size), net.pick(2, 3)
    last = net.pick("nn.ReLU()", "nn.ReLU(inplace=True)", "nn.ReLU6()", "nn.LeakyReLU(0.2)")
    norm = net.pick(f", nn.BatchNorm{d}d({out})", "")
    return net.layer(f"nn.Sequential(nn.Conv{d}d({net.channels}, {out}, 3, padding=1){norm}, {last})")


@step("nir", "netx", often=2)
def again(net):
    """A layer that the network has used already."""
    fitting = [name for name, shape in net.taken.items() if shape == net.shape]
    return f"self.{net.pick(*fitting)}({net.x})" if fitting else None


@step()
def tied(net):
    """The weights of a layer that the network has used already."""
    layers = [(name, getattr(net.module, name)) for name in net.taken]
    fitting = [name for name, layer in layers if type(layer) is nn.Linear and layer.in_features == net.shape[-1]]
    return f"F.linear({net.x}, self.{net.pick(*fitting)}.weight)" if fitting else None


@step()
def normed_weight(net):
    kind = net.pick("nn.utils.parametrizations.weight_norm", "nn.utils.parametrizations.spectral_norm")
    return net.layer(f"{kind}(nn.Linear({net.shape[-1]}, 3))")


# ------------------------------------------------------------------ activations


@step("nir", "netx", often=4)
def relu(net):
    return net.pick(
        lambda: net.layer("nn.ReLU()"),
        lambda: f"F.relu({net.x})",
        lambda: f"torch.relu({net.x})",
        lambda: f"{net.x}.relu()",
        lambda: net.layer("nn.ReLU(inplace=True)"),
        lambda: f"{net.x}.relu_()",
        lambda: f"{net.x}.clamp(min=0)",
        lambda: f"F.relu({net.x}, inplace=True)",
        lambda: f"torch.maximum({net.x}, torch.zeros_like({net.x}))",
        lambda: f"F.threshold({net.x}, 0, 0)",
    )()


@step("nir", "netx")
def capped_relu(net):
    return net.pick(
        lambda: net.layer("nn.ReLU6()"),
        lambda: f"{net.x}.clamp(0, 1)",
        lambda: net.layer("nn.Hardtanh(0, 2)"),
        lambda: f"F.relu6({net.x})",
        lambda: f"torch.clamp({net.x}, min=0.0, max=0.7)",
        lambda: f"F.hardtanh({net.x}, 0.0, 1.5)",
    )()


@step("nir", "netx", often=2)
def leaky(net):
    slope = net.pick(0.25, 0.01, -0.5, 1.5)
    channels = net.pick(1, net.channels)
    return net.pick(
        lambda: net.layer(f"nn.LeakyReLU({slope})"),
        lambda: net.layer(f"nn.PReLU({arguments(channels, init=slope)})"),
        lambda: f"F.leaky_relu({net.x}, {slope})",
        lambda: net.layer("nn.RReLU()"),
        lambda: f"F.prelu({net.x}, {net.parameter(channels)})",
        lambda: f"F.leaky_relu_({net.x}, {slope})",
        lambda: net.layer(f"nn.LeakyReLU({slope}, inplace=True)"),
    )()


@step("nir", "netx")
def bent(net):
    """Other piecewise linear functions."""
    low, high = net.pick((-0.5, 0.5), (-1.0, 2.0), (0.2, 0.9), (-0.9, -0.1))
    return net.pick(
        lambda: f"{net.x}.clamp({low}, {high})",
        lambda: f"{net.x}.abs()",
        lambda: net.layer("nn.Hardtanh()"),
        lambda: net.layer("nn.Hardsigmoid()"),
        lambda: f"torch.abs({net.x})",
        lambda: f"{net.x}.clamp(max={high})",
        lambda: f"torch.clamp_min({net.x}, {low})",
        lambda: f"{net.x}.clamp_({low}, {high})",
        lambda: f"F.hardtanh({net.x}, {low}, {high}, inplace=True)",
        lambda: net.layer(f"nn.Softshrink({abs(low)})"),
        lambda: f"F.relu({net.x}) - F.relu(-{net.x})",
        lambda: f"F.threshold({net.x}, {low}, {low})",
        lambda: f"torch.clamp({net.x}, min={net.parameter(*net.shape[1:])})",
        lambda: f"torch.clip({net.x}, {low}, {high})",
        lambda: f"-{net.x}.clamp({low}, {high}).neg()",
    )()


@step("nir", "netx")
def larger_or_smaller(net):
    function = net.pick("torch.maximum", "torch.minimum", "torch.max", "torch.min")
    others = {net.other(), f"{net.x}.flip(1)" if net.channels > 1 else f"-{net.x}", f"-{net.x}"} - {net.x}
    return f"{function}({net.x}, {net.pick(*sorted(others))})"


@step("nir", "netx")
def nothing(net):
    return net.pick(
        lambda: net.layer("nn.Identity()"),
        lambda: net.layer("nn.Dropout(0.5)"),
        lambda: f"F.dropout({net.x}, 0.3, self.training)",
        lambda: f"{net.x}.contiguous()",
        lambda: net.layer("nn.Dropout2d()") if len(net.shape) == 4 else f"{net.x}.clone()",
        lambda: f"{net.x} * 1.0",
        lambda: f"{net.x} + 0",
        lambda: f"{net.x}.to({net.x}.dtype)",
        lambda: f"{net.x}.detach()",
    )()


# ------------------------------------------------------------------ pools


def window(net):
    return net.some(2, 3, 1), net.pick(None, net.some(1, 2, 3)), net.pick(None, 1), net.pick(None, True)


@step("nir", "netx", often=2)
def max_pool(net):
    if not maps(net):
        return None
    kernel, stride, padding, ceil = window(net)
    options = {"stride": stride, "padding": padding, "ceil_mode": ceil, "dilation": net.pick(None, None, 2)}
    d = len(net.size)
    return layer_or_function(net, f"nn.MaxPool{d}d", f"F.max_pool{d}d", kernel, **options)


@step("nir", "netx", often=2)
def average_pool(net):
    if not maps(net):
        return None
    d = len(net.size)
    kernel, stride, padding, ceil = window(net)
    options = {
        "stride": stride,
        "padding": padding,
        "ceil_mode": ceil,
        "count_include_pad": net.pick(None, False),
    }
    if d > 1:
        options["divisor_override"] = net.pick(*[None] * 7, 3)
    return layer_or_function(net, f"nn.AvgPool{d}d", f"F.avg_pool{d}d", kernel, **options)


@step("nir", "netx")
def adaptive_pool(net):
    if not maps(net):
        return None
    d = len(net.size)
    kind, function = net.pick(("Avg", "avg"), ("Max", "max"))
    size = net.some(1, 2, 3) if d > 1 else net.pick(1, 2, 3)
    return layer_or_function(net, f"nn.Adaptive{kind}Pool{d}d", f"F.adaptive_{function}_pool{d}d", size)


@step()
def reduced(net):
    axis = net.pick(net.axis(), tuple(range(2, len(net.shape))) or 1)
    function = net.pick("mean", "sum", "amax", "amin")
    keep = net.pick(", keepdim=True", "")
    return f"{net.x}.{function}({axis}{keep})"


@step()
def extreme(net):
    axis = net.axis()
    return net.pick(
        f"{net.x}.max({axis}, keepdim=True).values",
        f"torch.max({net.x}, {axis}, keepdim=True)[0]",
        f"{net.x}.min({axis})[0]",
    )


@step()
def resized(net):
    if not maps(net):
        return None
    smooth = ("linear", "bilinear", "trilinear")[len(net.size) - 1]
    mode = net.pick("nearest", "nearest", smooth)
    flags = net.pick("", ", align_corners=True") if mode == smooth else ""
    return net.pick(
        lambda: net.layer(f"nn.Upsample(scale_factor=2, mode={mode!r}{flags})"),
        lambda: f"F.interpolate({net.x}, size={net.choices.some(len(net.size), 4, 3, 2, 5)}, mode={mode!r}{flags})",
        lambda: f"F.interpolate({net.x}, scale_factor=2.0, mode={mode!r}{flags})",
    )()


# ------------------------------------------------------------------ arithmetic


@step("nir", "netx", often=2)
def affine(net):
    a = net.pick(0.5, -0.3, 2, 1.25)
    shape = (net.channels, *[1] * len(net.size))
    return net.pick(
        lambda: f"{net.x} * {a}",
        lambda: f"{net.x} + {a}",
        lambda: f"{net.x} - {a}",
        lambda: net.pick(f"{a} - {net.x}", f"torch.rsub({net.x}, {a})"),
        lambda: f"{net.x} / {a}",
        lambda: f"-{net.x}",
        lambda: f"({net.x} - 0.3) * {a}",
        lambda: f"{net.x} * {net.parameter(*shape)}",
        lambda: f"{net.x} + {net.parameter(*shape)}",
        lambda: f"{net.parameter(*shape)} - {net.x}",
        lambda: f"torch.add({net.x}, {a}, alpha=2)",
        lambda: f"torch.mul({net.x}, {a})",
        lambda: f"torch.sub({a}, {net.x}, alpha=0.5)",
        lambda: f"torch.addcmul({net.parameter(*shape)}, {net.x}, {net.parameter(*shape)})",
    )()


@step()
def affine_anywhere(net):
    """A constant over any of the axes."""
    shape = tuple(net.pick(1, n) for n in net.shape[1:])
    return net.pick(lambda: f"{net.x} * {net.parameter(*shape)}", lambda: f"{net.x} + {net.parameter(*shape)}")()


@step("nir", "netx", often=3)
def total(net):
    other = net.other()
    return net.pick(
        f"{net.x} + {other}",
        f"{net.x} - {other}",
        f"torch.add({net.x}, {other}, alpha=0.5)",
        f"{net.x} * 0.5 - {other} * 2",
        f"{other}.sub({net.x}, alpha=2)",
        f"{net.x} + {other} + {net.x}",
        f"sum([{net.x}, {other}])",
        f"torch.stack([{net.x}, {other}]).sum(0)",
    )


@step("nir", "netx", often=2)
def skip(net):
    if not maps(net):
        return None
    d = len(net.size)
    call = net.layer(f"nn.Conv{d}d({net.channels}, {net.channels}, {net.pick('1', '3, padding=1')})")
    return net.pick(f"{net.x} + {call}", f"{call} + {net.x}", f"F.relu({net.x} + {call})", f"{call} - {net.x}")


@step()
def broadcast_sum(net):
    axis = net.axis()
    return net.pick(
        f"{net.x} - {net.x}.mean({axis}, keepdim=True)",
        f"{net.x} + {net.x}.sum({axis}, keepdim=True)",
        f"{net.x} + {net.x}.narrow({axis}, 0, 1)",
        f"torch.cumsum({net.x}, {axis})",
    )


@step("nir", "netx")
def in_place(net):
    other = net.other()
    line = net.pick(
        f"{net.x} += {other}",
        f"{net.x} *= 0.5",
        f"{net.x}.add_(0.3)",
        f"{net.x} -= {other}",
        f"{net.x}.mul_(0.5).add_({other})",
        f"{net.x}.neg_()",
        f"{net.x}.sub_({other}, alpha=0.5)",
        f"{net.x}.div_(2)",
    )
    net.run(line)
    return net.x


@step()
def in_place_part(net):
    """A part of a value is changed, which others may look at."""
    axis = net.pick(*range(1, len(net.shape)))
    if net.length(axis) < 2:
        return None
    ahead = ":, " * axis
    part = net.pick(f"{net.x}[{ahead}:1]", f"{net.x}[{ahead}1:]", f"{net.x}[{ahead}::2]", f"{net.x}[{ahead}0]")
    net.run(
        net.pick(
            f"{part} += 1",
            f"{part} *= 0.5",
            f"{part}.relu_()",
            f"{part} = 0.5",
            f"{part} = {part} * 2",
            f"F.relu({part}, inplace=True)",
            f"{part}.clamp_(-0.5, 0.5)",
            f"{part}.copy_({part}.abs())",
        )
    )
    return net.x


# ------------------------------------------------------------------ shapes


@step("nir", "netx", often=2)
def flatten(net):
    return net.pick(
        lambda: f"torch.flatten({net.x}, 1)",
        lambda: net.layer("nn.Flatten()"),
        lambda: f"{net.x}.flatten(1)",
        lambda: f"{net.x}.flatten({net.pick(1, 2)}, -1)",
        lambda: f"{net.x}.view({net.x}.size(0), -1)",
        lambda: f"{net.x}.reshape(-1, {product(net.shape[1:])})",
        lambda: f"{net.x}.flatten(1, {net.pick(-1, 2)})",
    )()


@step("netx")
def permute(net):
    axes = list(range(1, len(net.shape)))
    order = []
    while axes:
        order.append(axes.pop(net.pick(*reversed(range(len(axes))))))
    return net.pick(f"{net.x}.permute(0, {', '.join(map(str, order))})", f"torch.permute({net.x}, {(0, *order)})")


@step("netx")
def transpose(net):
    return net.pick(
        f"{net.x}.transpose({net.axis()}, {net.axis()})",
        f"torch.swapaxes({net.x}, {net.axis()}, {net.axis()})",
        f"torch.movedim({net.x}, {net.axis()}, {net.axis()})",
    )


@step()
def reshape(net):
    size = product(net.shape[1:])
    first = net.pick(*divisors(size))
    second = net.pick(*divisors(size // first))
    shape = net.pick((first, -1), (first, second, -1), (-1, first), (first, second, size // first // second))
    batch = net.pick("-1" if -1 not in shape else f"{net.x}.shape[0]", f"{net.x}.size(0)")
    return f"{net.x}.{net.pick('reshape', 'view')}({batch}, {', '.join(map(str, shape))})"


@step()
def unflatten(net):
    axis = net.axis()
    first = net.pick(*divisors(net.length(axis)))
    return net.pick(
        lambda: f"{net.x}.unflatten({axis}, ({first}, -1))",
        lambda: net.layer(f"nn.Unflatten({axis}, ({first}, {net.length(axis) // first}))"),
    )()


@step()
def axes_of_one(net):
    at = net.pick(*range(1, len(net.shape) + 1), -1)
    ones = [axis for axis in range(1, len(net.shape)) if net.length(axis) == 1]
    return net.pick(
        f"{net.x}.unsqueeze({at})",
        f"{net.x}.squeeze({net.pick(*ones)})" if ones else f"{net.x}.squeeze(-1)",
        f"{net.x}[:, None]",
        f"{net.x}[..., None]",
    )


@step()
def slices(net):
    axis = net.pick(*range(1, len(net.shape)))
    n, ahead = net.length(axis), ":, " * axis
    start, length = net.pick(0, *range(n)), net.pick(1, *range(1, n + 1))
    if start + length > n:
        return None
    return net.pick(
        f"{net.x}[{ahead}{start}:]",
        f"{net.x}.narrow({axis}, {start}, {length})",
        f"{net.x}[{ahead}::2]",
        f"{net.x}[{ahead}:-1]",
        f"{net.x}[{ahead}{start}:{start + length}]",
        f"{net.x}[..., {net.pick('1:', ':1', '-1:')}]",
        f"{net.x}.select({axis}, {start})",
        f"{net.x}[{ahead}{start}]",
        f"{net.x}[{ahead}[{', '.join(str(net.pick(*range(n))) for _ in range(length))}]]",
        f"{net.x}[..., {net.pick(0, -1)}]",
    )


@step()
def parts(net):
    """A value falls apart into two."""
    axis = net.axis()
    n = net.length(axis)
    if n < 2:
        return None
    first, second = net.name(), net.name(1)
    how = net.pick(
        f"chunk(2, {axis})",
        f"tensor_split(2, {axis})",
        f"split([1, {n - 1}], {axis})",
        f"split({-(-n // 2)}, dim={axis})",
    )
    net.run(f"{first}, {second} = {net.x}.{how}")
    return second


@step("nir", "netx", often=2)
def concat(net):
    axis = net.pick(1, *range(1, len(net.shape)))
    fitting = [
        name
        for name, value in net.values.items()
        if value.ndim == len(net.shape)
        and all(i == axis or a == b for i, (a, b) in enumerate(zip(value.shape, net.shape, strict=True)))
    ]
    other = net.pick(*reversed(fitting))
    return net.pick(
        f"torch.cat([{net.x}, {other}], {net.pick(axis, axis - len(net.shape))})",
        f"torch.cat(({other}, {net.x}, {net.x}), dim={axis})",
        f"torch.cat([{net.x}, {other}.relu()], {axis})",
    )


@step()
def stack(net):
    axis = net.pick(*range(1, len(net.shape) + 1))
    return f"torch.stack([{net.x}, {net.other()}], {net.pick(axis, axis - len(net.shape) - 1)})"


@step()
def moved(net):
    axis = net.axis()
    return net.pick(
        f"{net.x}.flip({axis})",
        f"torch.roll({net.x}, {net.pick(1, -1, 2)}, {axis})",
        f"torch.flip({net.x}, ({axis},))",
        f"torch.cat({net.x}.chunk(2, {axis})[::-1], {axis})",
        f"torch.index_select({net.x}, {axis}, torch.tensor([{net.pick(*range(net.length(axis)))}, 0]))",
        f"{net.x}.unbind({axis})[{net.pick(0, -1)}]",
    )


@step()
def copied(net):
    ones = [-1] * (len(net.shape) - 1)
    axis = net.pick(*range(len(ones)))
    times = [1] * len(ones)
    times[axis] = 2
    if net.shape[axis + 1] == 1:
        ones[axis] = 3
    return net.pick(
        f"{net.x}.repeat(1, {', '.join(map(str, times))})",
        f"{net.x}.expand(-1, {', '.join(map(str, ones))})",
        f"{net.x}.repeat_interleave(2, {axis + 1})",
        f"torch.tile({net.x}, (1, {', '.join(map(str, times))}))",
    )


@step("nir", "netx")
def padded(net):
    if not maps(net):
        return None
    d = len(net.size)
    sides = net.choices.some(2 * d, 1, 0, 2)
    return net.pick(
        lambda: f"F.pad({net.x}, {sides})",
        lambda: net.layer(f"nn.ZeroPad{d}d({sides})"),
        lambda: f"F.pad({net.x}, {sides}, value=0.5)",
        lambda: f"F.pad({net.x}, {sides}, mode={net.pick('reflect', 'replicate', 'circular')!r})",
        lambda: net.layer(f"nn.{net.pick('Reflection', 'Replication', 'Circular')}Pad{d}d({sides})"),
        lambda: f"F.pad({net.x}, ({-1 if net.shape[-1] > 1 else 0}, 1))",
        lambda: net.layer(f"nn.ConstantPad{d}d({sides}, -0.5)"),
        lambda: f"F.pad({net.x}, {(*[0] * 2 * d, 0, 1)})",
    )()


@step()
def shuffled(net):
    groups = divisors(net.channels)
    return net.pick(
        lambda: net.layer(f"nn.ChannelShuffle({net.pick(*groups)})") if len(net.shape) == 4 else None,
        lambda: net.layer("nn.PixelShuffle(2)") if len(net.shape) == 4 else None,
        lambda: net.layer("nn.PixelUnshuffle(2)") if len(net.shape) == 4 else None,
    )()
