"""The judge is what torchvision and timm build: ``architectures.json`` holds their names and shapes, loss-free.

``models`` maps a model to [the encoder to be named, a tree]; a tree maps a name's next part to a shape (a list) or to
the number of another tree, so that equal blocks are stored once.
"""

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_indexer.metadata.architecture import ROOTS_MAX, Shape, recognise_family

_DATA = json.loads(Path(__file__).with_name("architectures.json").read_text())
_EXPECTED = {model: expected for model, (expected, _) in _DATA["models"].items()}
_NAMED = sorted(model for model, expected in _EXPECTED.items() if expected)


def shapes_of(model: str) -> dict[str, Shape]:
    return _flatten(_DATA["models"][model][1])


def _flatten(number: int, prefix: str = "") -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for part, node in _DATA["trees"][number].items():
        if isinstance(node, int):
            shapes |= _flatten(node, f"{prefix}{part}.")
        else:
            shapes[prefix + part] = tuple(node)
    return shapes


def prefixed(prefix: str, shapes: dict[str, Shape]) -> dict[str, Shape]:
    return {prefix + name: shape for name, shape in shapes.items()}


@pytest.mark.parametrize("model", sorted(_EXPECTED))
def test_a_real_model_gets_its_family_or_none(model: str) -> None:
    assert recognise_family(shapes_of(model)) == _EXPECTED[model]


def test_every_name_is_proven_by_a_real_model() -> None:
    assert set(_EXPECTED.values()) == {
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        *("mobilenetv3", "efficientnet", "convnext", "vit", "swin", None),
    }


@pytest.mark.parametrize(
    "prefix", ["model.encoder.", "net.module.", "_orig_mod.", "model._orig_mod.encoder.", "layer1."]
)
@pytest.mark.parametrize("model", _NAMED)
def test_a_prefix_does_not_matter(model: str, prefix: str) -> None:
    assert recognise_family(prefixed(prefix, shapes_of(model))) == _EXPECTED[model]


@pytest.mark.parametrize("prefix", ["encoder.", "features.", "blocks.0.", "1.0."])
@pytest.mark.parametrize("model", sorted(set(_EXPECTED) - set(_NAMED)))
def test_a_prefix_does_not_make_an_unknown_model_known(model: str, prefix: str) -> None:
    assert recognise_family(prefixed(prefix, shapes_of(model))) is None


@pytest.mark.parametrize("model", _NAMED)
def test_a_decoder_and_a_head_around_the_encoder_do_not_matter(model: str) -> None:
    around = {
        "decoder.blocks.0.conv1.weight": (256, 512, 3, 3),
        "decoder.layer1.0.weight": (64, 64),
        "decoder.layers.0.self_attn.in_proj_weight": (768, 256),
        "head.0.weight": (1, 16, 3, 3),
        "loss.weight": (),
    }
    assert recognise_family(around | prefixed("encoder.", shapes_of(model))) == _EXPECTED[model]


@pytest.mark.parametrize("model", _NAMED)
def test_a_trunk_that_lost_a_block_is_unknown(model: str) -> None:
    # Never the last block: a transformer of any depth is whole, and a ResNet may lack its last stage.
    lost = r"""layer2\.0\.                                   # ResNet
        |blocks\.2\.1\.|(features|backbone)\.5\.block\.  # MobileNetV3; EfficientNet in timm
        |features\.3\.0\.                                # EfficientNet, ConvNeXt, Swin in torchvision
        |(stages|layers)[._]1\.blocks\.0\.               # ConvNeXt, Swin in timm
        |blocks\.3\.norm1|encoder_layer_3\.              # ViT"""
    shapes = shapes_of(model)
    kept = {name: shape for name, shape in shapes.items() if not re.search(lost, name, re.VERBOSE)}
    assert len(kept) < len(shapes)
    assert recognise_family(kept) is None


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("torchvision resnet18", "conv1.weight"),
        ("torchvision resnet18", "layer4.1.conv2.weight"),
        ("timm resnet50", "layer1.2.conv2.weight"),
        ("torchvision convnext_tiny", "features.7.2.block.3.weight"),
        ("timm convnext_atto", "stages.2.blocks.5.conv_dw.weight"),
        ("torchvision vit_b_16", "encoder.layers.encoder_layer_11.mlp.0.weight"),
        ("timm vit_tiny_patch16_224", "patch_embed.proj.weight"),
        ("timm vit_tiny_patch16_224", "blocks.4.attn.qkv.weight"),
        ("torchvision swin_t", "features.5.3.mlp.3.weight"),
        ("timm swin_tiny_patch4_window7_224", "layers.3.blocks.1.attn.relative_position_bias_table"),
    ],
)
def test_one_tensor_of_another_width_is_another_model(model: str, name: str) -> None:
    shapes = shapes_of(model)
    assert recognise_family(shapes | {name: (shapes[name][0] + 8, *shapes[name][1:])}) is None


@pytest.mark.parametrize("extra", ["lora_A.weight", "q_bias", "se.fc1.weight"])
@pytest.mark.parametrize(
    ("model", "block"), [("torchvision resnet18", "layer3.1."), ("timm vit_tiny_patch16_224", "blocks.5.")]
)
def test_one_more_parameter_in_one_block_is_another_model(model: str, block: str, extra: str) -> None:
    assert recognise_family(shapes_of(model) | {block + extra: (8,)}) is None


def test_blocks_wrapped_one_by_one_for_compiling_or_sharding_are_seen_through() -> None:
    shapes = {
        name.replace("layer1.", "layer1._checkpoint_wrapped_module.").replace(".0.conv", ".0._orig_mod.conv"): shape
        for name, shape in shapes_of("torchvision resnet18").items()
    }
    assert recognise_family(shapes) == "resnet18"


def test_a_resnet_cut_out_of_its_model_as_a_sequential_is_recognised() -> None:
    places = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    parts = [(name.partition("."), shape) for name, shape in shapes_of("torchvision resnet50").items()]
    shapes = {f"encoder.{places[top]}.{rest}": shape for (top, _, rest), shape in parts if top in places}
    assert recognise_family(shapes) == "resnet50"
    with_group_norm = {name: shape for name, shape in shapes.items() if ".running_" not in name}
    assert recognise_family(with_group_norm) is None


def test_a_torchvision_trunk_taken_without_its_features_prefix_is_recognised() -> None:
    shapes = shapes_of("torchvision efficientnet_b0")
    trunk = {name.removeprefix("features."): shape for name, shape in shapes.items() if name.startswith("features.")}
    assert recognise_family(prefixed("encoder.", trunk)) == "efficientnet"


def test_another_number_of_input_channels_is_the_same_encoder() -> None:
    assert recognise_family(shapes_of("torchvision resnet18") | {"conv1.weight": (64, 1, 7, 7)}) == "resnet18"


def test_a_deep_stem_is_another_resnet() -> None:
    shapes = shapes_of("torchvision resnet50")
    del shapes["conv1.weight"]
    deep = {"conv1.0.weight": (32, 3, 3, 3), "conv1.1.weight": (32,), "conv1.3.weight": (64, 32, 3, 3)}
    assert recognise_family(shapes | deep) is None


def test_a_stem_for_video_is_another_resnet() -> None:
    assert recognise_family(shapes_of("torchvision resnet18") | {"conv1.weight": (64, 3, 3, 7, 7)}) is None


def test_a_transformer_without_learned_positions_is_not_certain() -> None:
    shapes = shapes_of("timm vit_tiny_patch16_224")
    del shapes["pos_embed"]
    assert recognise_family(shapes) is None


def test_the_buffers_that_older_versions_saved_do_not_matter() -> None:
    saved = {
        "layers.0.blocks.1.attn_mask": (64, 49, 49),
        "layers.0.blocks.1.attn.relative_position_index": (49, 49),
    }
    assert recognise_family(shapes_of("timm swin_tiny_patch4_window7_224") | saved) == "swin"


def test_a_copy_of_the_same_encoder_keeps_its_name() -> None:
    shapes = shapes_of("torchvision resnet50")
    assert recognise_family(prefixed("model.", shapes) | prefixed("ema.module.", shapes)) == "resnet50"


def test_two_families_in_one_state_dict_have_no_one_name() -> None:
    teacher = prefixed("teacher.", shapes_of("torchvision resnet50"))
    student = prefixed("student.", shapes_of("torchvision resnet18"))
    assert recognise_family(teacher | student) is None


def test_no_tensors_have_no_encoder() -> None:
    assert recognise_family({}) is None


def test_names_that_only_look_like_an_encoder_are_unknown() -> None:
    assert (
        recognise_family(
            {
                "": (),
                ".": (1,),
                "xlayer1.0.conv1.weight": (64, 64, 3, 3),
                "layer1.0.conv1.weight": (),
                "conv1.weight": (64, 3, 7, 7),
                "bn1.running_mean": (64,),
                "blocks.999999999999999999.0.conv_dw.weight": (8, 1, 3, 3),
                "layer1.٣.conv1.weight": (64, 64, 3, 3),
            }
        )
        is None
    )


@pytest.mark.parametrize("shape", [(), (0,), (-1, 3), (169,), (169, 3, 1), (2**80, 3)])
def test_a_size_that_no_tensor_of_this_name_has_is_not_guessed_from(shape: Shape) -> None:
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    assert recognise_family(shapes_of("timm swin_tiny_patch4_window7_224") | {table: shape}) is None


def test_a_line_break_does_not_hide_the_rest_of_a_name() -> None:
    shapes = shapes_of("torchvision resnet18")
    assert recognise_family(shapes | {"layer1.0.conv1.weight\nlora": (1,)}) is None


def test_more_encoders_than_a_model_holds_are_unknown() -> None:
    shapes = shapes_of("torchvision resnet18")
    at_limit = {name: shape for n in range(ROOTS_MAX) for name, shape in prefixed(f"m{n}.", shapes).items()}
    assert recognise_family(at_limit) == "resnet18"
    assert recognise_family(at_limit | prefixed("one_more.", shapes)) is None


@pytest.mark.parametrize(
    "name",
    [
        "m{}.layer1.0.conv1.weight",
        "layer1.{}.conv1.weight",
        "blocks.0.{}",
        "_orig_mod." * 50 + "{}",
        "layers_0_" * 50 + "{}",
    ],
)
def test_a_hundred_thousand_hostile_names_take_seconds_at_most(name: str) -> None:
    shapes = shapes_of("torchvision resnet18") | {name.format(n): (64, 64, 3, 3) for n in range(100_000)}
    started = time.process_time()
    recognise_family(shapes)
    assert time.process_time() - started < 5.0  # about 0.3 s; anything quadratic takes minutes


@given(st.data())
def test_no_shape_of_a_real_name_raises_or_is_guessed(data: st.DataObject) -> None:
    model = data.draw(st.sampled_from(_NAMED))
    shapes = shapes_of(model)
    name = data.draw(st.sampled_from(sorted(shapes)))
    shape = tuple(data.draw(st.lists(st.integers(-2, 2**40), max_size=6)))
    assert recognise_family(shapes | {name: shape}) in {_EXPECTED[model], None}
