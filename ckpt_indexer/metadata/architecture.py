"""Which torchvision or timm family the encoder in a state dict belongs to, told by its blocks.

Owns the block layouts of the families it names (``_LAYOUTS``) and nothing else: no file, no tensor data, no torch. It
names what is not a published backbone to the last shape (``backbones`` knows these): trunks cut short, other widths and
depths of the same blocks, positions for another size of images.

Promises: a name is given only if every block of the trunk has exactly the modules and shapes of that family. The prefix
does not matter, nor do tensors around the encoder (decoder, head, loss). Time is linear in the number of names.

Theory of operation: each layout has one *anchor*, a tensor of its first block. What stands before the anchor in a name
is the *root* of an encoder. Below each root the blocks are collected, and the family's rule judges all of them.

Deliberately unknown, and so ``None``: successors and relatives (EfficientNetV2, ConvNeXt V2, Swin V2, ResNet-D,
distilled DeiT, ViT with LayerScale such as DINOv2), trunks that lost a block, blocks wrapped by LoRA or quantisation,
and other libraries' names (Hugging Face, OpenCLIP). What differs in no block cannot be told apart: DeiT without the
distillation token is ``vit``, so is one that adds rotary positions to the learned ones, and a ResNet with anti-aliased
strides is named like the one without.
"""

import functools
import re
from collections.abc import Callable, Mapping
from math import ceil, isqrt
from types import MappingProxyType
from typing import NamedTuple

Shape = tuple[int, ...]
Block = dict[str, Shape]  # a block's modules, each with the shape of its weight, and its bare parameters
Stages = list[list[Block]]

FAMILIES = ("mobilenetv3", "efficientnet", "convnext", "vit", "swin")  # of many sizes; a ResNet's name has its own
ROOTS_MAX = 16  # more encoders than a model holds; without a limit, hostile names could make the work quadratic

_WRAPPERS = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_JOINED = re.compile(r"\b(stem|stages|layers)_(?=[0-9]\.)")  # as timm's features_only=True writes "stages.0."
# Whatever has one of these also has a weight, and older versions of the same model saved more or fewer of them.
_NOT_JUDGED = (
    *(".bias", ".in_proj_bias", ".running_mean", ".running_var", ".num_batches_tracked"),
    *(".relative_position_index", ".attn_mask"),
)

_RESNETS = {  # He et al. (arXiv 1512.03385), table 1: convolutions in a block, blocks per stage
    (2, (2, 2, 2, 2)): "resnet18",
    (2, (3, 4, 6, 3)): "resnet34",
    (3, (3, 4, 6, 3)): "resnet50",
    (3, (3, 4, 23, 3)): "resnet101",
    (3, (3, 8, 36, 3)): "resnet152",
}

# The cells of MobileNetV3 and EfficientNet (timm/models/_efficientnet_blocks.py, torchvision/models/efficientnet.py)
# by their modules: C(onvolution), D(epthwise separable) or I(nverted residual), "s" with squeeze-and-excitation. The
# last column is the module whose kernel counts.
_CELLS = {
    frozenset(modules.split()): (code, kernel)
    for code, modules, kernel in (
        ("C1", "conv bn1", "conv"),
        ("D{}", "conv_dw bn1 conv_pw bn2", "conv_dw"),
        ("D{}s", "conv_dw bn1 se.conv_reduce se.conv_expand conv_pw bn2", "conv_dw"),
        ("I{}", "conv_pw bn1 conv_dw bn2 conv_pwl bn3", "conv_dw"),
        ("I{}s", "conv_pw bn1 conv_dw bn2 se.conv_reduce se.conv_expand conv_pwl bn3", "conv_dw"),
        ("D{}", "block.0.0 block.0.1 block.1.0 block.1.1", "block.0.0"),
        ("D{}s", "block.0.0 block.0.1 block.1.fc1 block.1.fc2 block.2.0 block.2.1", "block.0.0"),
        ("I{}", "block.0.0 block.0.1 block.1.0 block.1.1 block.2.0 block.2.1", "block.1.0"),
        ("I{}s", "block.0.0 block.0.1 block.1.0 block.1.1 block.2.fc1 block.2.fc2 block.3.0 block.3.1", "block.1.0"),
    )
}
_MOBILENETV3 = {  # Howard et al. (arXiv 1905.02244), tables 1 and 2; timm counts the last convolution among the cells
    cells + last
    for cells in (
        "D3 I3 I3 I5s I5s I5s I3 I3 I3 I3 I3s I3s I5s I5s I5s",
        "D3s I3 I3 I5s I5s I5s I5s I5s I5s I5s I5s",
    )
    for last in ("", " C1")
}
_EFFICIENTNET = {  # Tan and Le (arXiv 1905.11946), table 1, in the depths of B0 to B8 and L2
    " ".join(
        cell
        for cell, repeats in (("D3s", 1), ("I3s", 2), ("I5s", 2), ("I3s", 3), ("I5s", 3), ("I5s", 4), ("I3s", 1))
        for _ in range(ceil(repeats * depth))
    )
    for depth in (1.0, 1.1, 1.4, 1.8, 2.2, 2.6, 3.1, 3.6, 5.3)
}
_EFFICIENTNET_WIDTH_MIN = 320  # what B0's last cell puts out; the same cells with less are a TinyNet


class _Layout(NamedTuple):
    """How one library names one family; all names are relative to the encoder's root."""

    anchor: str  # a tensor of the first block
    stem: str  # the first convolution
    block: str  # a pattern up to a block's own names; its groups: stage ("" for the only one), index
    judge: Callable[[Shape, Stages], str | None]  # names the family, given the stem's shape and all blocks
    required: tuple[str, ...] = ()  # tensors without which the family is not certain
    excluded: tuple[str, ...] = ()  # tensors that only its relatives have
    renamed: Mapping[str, str] = MappingProxyType({})  # a block's modules, where the rule calls them as timm does


def recognise_family(shapes: Mapping[str, Shape]) -> str | None:
    """Name the encoder family of a state dict, given the shape of each tensor; ``None`` is "not certain".

    The names are ``resnet18``, ``resnet34``, ``resnet50``, ``resnet101``, ``resnet152``, ``mobilenetv3``,
    ``efficientnet``, ``convnext``, ``vit`` and ``swin``. A ResNet may lack its last stage, as a feature extractor does.

    >>> recognise_family({"decoder.conv1.weight": (64, 3, 7, 7)}) is None
    True
    """
    families = find_families({bare_name(name): shape for name, shape in shapes.items()})
    return families.pop() if len(families) == 1 else None


def find_families(tensors: Mapping[str, Shape], is_wanted: Callable[[str], bool] = lambda _root: True) -> set[str]:
    """Return the families of the encoders whose root *is_wanted*; the tensors' names must be bare.

    There are none if there are more than ``ROOTS_MAX`` encoders.
    """
    encoders = [(root, layout) for root, layout in _find_encoders(tensors) if is_wanted(root)]
    if len(encoders) > ROOTS_MAX:
        return set()
    return {family for root, layout in encoders if (family := _judge(root, layout, tensors)) is not None}


@functools.lru_cache(maxsize=4096)  # the checkpoints of a run have the same names
def bare_name(name: str) -> str:
    """Return a tensor's name without what wraps modules.

    >>> bare_name("model._orig_mod.layers_0.blocks.0.norm1.weight")
    'model.layers.0.blocks.0.norm1.weight'
    """
    return _JOINED.sub(r"\1.", _WRAPPERS.sub("", name))


def _find_encoders(tensors: Mapping[str, Shape]) -> list[tuple[str, _Layout]]:
    """Find where an encoder may begin; a root is empty or ends in a dot."""
    anchors = tuple(layout.anchor for layout in _LAYOUTS)
    return [
        (name.removesuffix(layout.anchor), layout)
        for name in tensors
        if name.endswith(anchors)
        for layout in _LAYOUTS
        if f".{name}".endswith(f".{layout.anchor}")
    ]


def _judge(root: str, layout: _Layout, tensors: Mapping[str, Shape]) -> str | None:
    stem = tensors.get(root + layout.stem, ())
    # A 1x1 stem projects what another network put out (timm's hybrid ViTs); five dimensions are a video model's.
    is_image_stem = len(stem) == 4 and stem[-1] > 1
    has_required = all(root + name in tensors for name in layout.required)
    has_excluded = any(root + name in tensors for name in layout.excluded)
    if not is_image_stem or not has_required or has_excluded:
        return None
    stages = _read_stages(root, layout, tensors)
    return layout.judge(stem, stages) if stages else None


def _read_stages(root: str, layout: _Layout, tensors: Mapping[str, Shape]) -> Stages:
    """Collect the blocks below *root*, stage by stage and in order; none at all if one is missing."""
    stages: dict[int, dict[int, Block]] = {}
    pattern = re.compile(layout.block)
    for name, shape in tensors.items():
        found = pattern.match(name, len(root)) if name.startswith(root) else None
        if found and not name.endswith(_NOT_JUDGED):
            module = name[found.end() :].removesuffix(".weight")
            block = stages.setdefault(int(found[1] or 0), {}).setdefault(int(found[2]), {})
            # timm writes some linear layers as 1x1 convolutions, torchvision some vectors as (n, 1, 1).
            block[layout.renamed.get(module, module)] = shape[:-2] if shape[-2:] == (1, 1) else shape
    first = min(min(stage) for stage in stages.values())
    if any(sorted(stage) != list(range(first, first + len(stage))) for stage in stages.values()):
        return []
    return [[block for _, block in sorted(stage.items())] for _, stage in sorted(stages.items())]


def _judge_resnet(stem: Shape, stages: Stages) -> str | None:
    convolutions = 3 if "conv3" in stages[0][0] else 2
    channels = 64
    for number, stage in enumerate(stages):
        for block in stage:
            expected = _resnet_block(convolutions, channels, planes=64 << number)
            if block != expected:
                return None
            channels = expected[f"bn{convolutions}"][0]
    depths = tuple(len(stage) for stage in stages)
    names = [
        name
        for (kind, known), name in _RESNETS.items()
        if kind == convolutions and known[: len(depths)] == depths and len(depths) >= 3
    ]
    return names[0] if len(names) == 1 and stem[0] == 64 else None


def _resnet_block(convolutions: int, channels: int, *, planes: int) -> Block:
    """Return a ``BasicBlock`` of two convolutions or a ``Bottleneck`` of three (torchvision/models/resnet.py)."""
    if convolutions == 2:
        block: Block = {"conv1": (planes, channels, 3, 3), "conv2": (planes, planes, 3, 3)}
    else:
        block = {"conv1": (planes, channels), "conv2": (planes, planes, 3, 3), "conv3": (4 * planes, planes)}
    norms: Block = {name.replace("conv", "bn"): shape[:1] for name, shape in block.items()}
    out = block[f"conv{convolutions}"][0]
    shortcut: Block = {"downsample.0": (out, channels), "downsample.1": (out,)}
    return block | norms | (shortcut if out != channels else {})


def _judge_cells(_stem: Shape, stages: Stages) -> str | None:
    blocks = [block for stage in stages for block in stage]
    cells = " ".join(_cell_code(block) for block in blocks)
    if cells in _MOBILENETV3:
        return "mobilenetv3"
    width = max(_rows(blocks[-1], "conv_pwl"), _rows(blocks[-1], "block.3.0"))
    return "efficientnet" if cells in _EFFICIENTNET and width >= _EFFICIENTNET_WIDTH_MIN else None


def _cell_code(block: Block) -> str:
    """Write a cell in short, as in ``I5s``; "?" stands for any that the two families do not have."""
    code, module = _CELLS.get(frozenset(block), ("?", ""))
    kernel = block.get(module, ())
    is_depthwise = len(kernel) == 4 and kernel[1] == 1
    is_pointwise = len(kernel) == 2
    return code.format(kernel[-1]) if (is_pointwise if code == "C1" else is_depthwise) else "?"


def _judge_repeated(family: str, make: Callable[[int, Block], Block], stem: Shape, stages: Stages) -> str | None:
    """Compare each block with what *make* gives for its stage's width; *make* copies what the family leaves free."""
    widths = [_rows(stage[0], "mlp.fc2") for stage in stages]
    is_same = widths[0] == stem[0] and all(
        block == make(width, block) for width, stage in zip(widths, stages, strict=True) for block in stage
    )
    return family if is_same else None


def _convnext_block(width: int, _block: Block) -> Block:
    """Return a ``CNBlock`` (torchvision/models/convnext.py)."""
    mlp: Block = {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    return mlp | {"conv_dw": (width, 1, 7, 7), "norm": (width,), "gamma": (width,)}


def _vit_block(width: int, block: Block) -> Block:
    """Return an ``EncoderBlock`` (torchvision/models/vision_transformer.py); its hidden width is free."""
    hidden = _rows(block, "mlp.fc1")
    attention: Block = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    mlp: Block = {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    return attention | mlp | {"norm1": (width,), "norm2": (width,)}


def _swin_block(width: int, block: Block) -> Block:
    """Return a ``SwinTransformerBlock`` (torchvision/models/swin_transformer.py), heads 32 wide; its window is free."""
    biases = _rows(block, "attn.relative_position_bias_table")
    # One for each offset in a square window of n: (2n - 1) squared. A video model's window has three sides.
    side = isqrt(max(biases, 0)) | 1
    return _vit_block(width, block) | {"attn.relative_position_bias_table": (side * side, width // 32)}


def _rows(block: Block, module: str) -> int:
    """Return the first dimension of a module's weight: what it puts out; 0 if there is none."""
    return (*block.get(module, ()), 0)[0]


_judge_convnext = functools.partial(_judge_repeated, "convnext", _convnext_block)
_judge_vit = functools.partial(_judge_repeated, "vit", _vit_block)
_judge_swin = functools.partial(_judge_repeated, "swin", _swin_block)

# torchvision keeps most trunks below "features.", which is left to the root: models often take just that module.
_LAYOUTS = (
    _Layout(  # torchvision and timm; with group norm it is another model
        "layer1.0.conv1.weight",
        "conv1.weight",
        r"layer([1-4])\.([0-9]{1,3})\.",
        _judge_resnet,
        required=("bn1.running_mean",),
    ),
    # The same as nn.Sequential(*children), the usual way to cut the head off.
    _Layout("4.0.conv1.weight", "0.weight", r"([4-7])\.([0-9]{1,3})\.", _judge_resnet, required=("1.running_mean",)),
    # timm
    _Layout("blocks.0.0.conv_dw.weight", "conv_stem.weight", r"blocks\.([0-9])\.([0-9]{1,3})\.", _judge_cells),
    # torchvision's MobileNetV3, then its EfficientNet
    _Layout("1.block.0.0.weight", "0.0.weight", r"()([0-9]{1,3})\.(?=block\.)", _judge_cells),
    _Layout("1.0.block.0.0.weight", "0.0.weight", r"([1-7])\.([0-9]{1,3})\.", _judge_cells),
    _Layout(  # timm
        "stages.0.blocks.0.conv_dw.weight",
        "stem.0.weight",
        r"stages\.([0-9])\.blocks\.([0-9]{1,3})\.",
        _judge_convnext,
    ),
    _Layout(  # torchvision
        "1.0.layer_scale",
        "0.0.weight",
        r"([1357])\.([0-9]{1,3})\.",
        _judge_convnext,
        renamed={
            "block.0": "conv_dw",
            "block.2": "norm",
            "block.3": "mlp.fc1",
            "block.5": "mlp.fc2",
            "layer_scale": "gamma",
        },
    ),
    _Layout(  # timm
        "blocks.0.attn.qkv.weight",
        "patch_embed.proj.weight",
        r"blocks\.()([0-9]{1,3})\.",
        _judge_vit,
        required=("pos_embed",),
        excluded=("dist_token",),
    ),
    _Layout(  # torchvision
        "encoder.layers.encoder_layer_0.self_attention.in_proj_weight",
        "conv_proj.weight",
        r"encoder\.layers\.encoder_layer_()([0-9]{1,3})\.",
        _judge_vit,
        renamed={
            "ln_1": "norm1",
            "self_attention.in_proj_weight": "attn.qkv",
            "self_attention.out_proj": "attn.proj",
            "ln_2": "norm2",
            "mlp.0": "mlp.fc1",
            "mlp.3": "mlp.fc2",
        },
    ),
    _Layout(  # timm
        "layers.0.blocks.0.attn.relative_position_bias_table",
        "patch_embed.proj.weight",
        r"layers\.([0-9])\.blocks\.([0-9]{1,3})\.",
        _judge_swin,
    ),
    _Layout(  # torchvision
        "1.0.attn.relative_position_bias_table",
        "0.0.weight",
        r"([1357])\.([0-9]{1,3})\.",
        _judge_swin,
        renamed={"mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2"},
    ),
)
