"""A network in one line, as its layers would be written down; what is used more than once has a name such as #2."""

from collections import Counter

from hlf_np.layers import (
    AveragePool,
    BatchNorm,
    Convolution,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool,
    Residual,
    Sequential,
    TransposedConvolution,
    Unflatten,
)


def describe(network: Layer) -> str:
    """Layers that occur again are written once: then `#2` alone. A tensor of several layers is `weight=#3`."""
    uses: Counter[int] = Counter()
    owners: Counter[int] = Counter()
    for layer in network.every_layer():
        uses[id(layer)] += 1
        if uses[id(layer)] == 1:
            owners.update(id(tensor) for tensor in layer.parameters.values())
    names: dict[int, str] = {}

    def named(thing: object) -> str:
        return names.setdefault(id(thing), f"#{len(names) + 1}")

    def text(layer: Layer) -> str:
        if uses[id(layer)] > 1:
            if id(layer) in names:
                return names[id(layer)]
            return f"{named(layer)}={plain(layer)}"
        return plain(layer)

    def plain(layer: Layer) -> str:
        if isinstance(layer, Sequential):
            arguments = [text(inner) for inner in layer.layers]
        elif isinstance(layer, Residual):
            arguments = [text(layer.body)] + ([f"shortcut={text(layer.shortcut)}"] if layer.shortcut else [])
        else:
            arguments = _arguments(layer)
        shared = [(name, tensor) for name, tensor in layer.parameters.items() if owners[id(tensor)] > 1]
        arguments += [f"{name}={named(tensor)}" for name, tensor in shared]
        return f"{type(layer).__name__}({', '.join(arguments)})"

    return text(network)


def _arguments(layer: Layer) -> list[str]:
    """Of a layer with no others inside."""
    if isinstance(layer, Linear | BatchNorm):
        return [str(size) for size in reversed(layer.parameters["weight"].shape)]
    if isinstance(layer, Convolution | TransposedConvolution):
        sizes = layer.parameters["weight"].shape
        channels = sizes[:2] if isinstance(layer, TransposedConvolution) else sizes[1::-1]
        settings = {"kernel": sizes[2], "stride": layer.stride, "padding": layer.padding}
        if isinstance(layer, TransposedConvolution):
            settings["output_padding"] = layer.output_padding
        elif "bias" not in layer.parameters:
            settings["bias"] = False
        return [*map(str, channels), *(f"{name}={value}" for name, value in settings.items())]
    if isinstance(layer, MaxPool | AveragePool):
        return [str(layer.kernel)] + ([f"stride={layer.stride}"] if layer.stride else [])
    if isinstance(layer, Unflatten):
        return [str(layer.height), str(layer.width)]
    return [str(layer.slope)] if isinstance(layer, LeakyReLU) else []
