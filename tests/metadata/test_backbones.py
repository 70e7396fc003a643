"""The judges are the libraries' own models: ``backbone_samples.json`` holds names and shapes of some, loss-free.

``make_backbones.py`` writes that file with the table; its form is that of ``architectures.json``.
"""

import json
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import pytest

from ckpt_indexer.metadata.architecture import Shape, bare_name
from ckpt_indexer.metadata.backbones import (
    PLACES_MAX,
    ROOTS_MAX,
    TENSORS_MAX,
    digest,
    find_backbones,
    find_roots,
    load_table,
    trunk,
)

_SAMPLES = json.loads(Path(__file__).with_name("backbone_samples.json").read_text("utf-8"))
_TABLE = json.loads(resources.files("ckpt_indexer.metadata").joinpath("backbones.json").read_text("utf-8"))
MODELS = sorted(_SAMPLES["models"])
WHOLE = [model for model in MODELS if not model.endswith("features_only")]
SETS = {  # what shapes cannot tell apart; all other samples are told exactly
    "resnet50": "resnet50|resnetaa50|resnetblur50",
    "resnet34d": "resnet34d|resnetaa34d",
    "efficientnet_b0": "efficientnet_b0|tf_efficientnet_b0|efficientnet_blur_b0",
    "mobilenetv3_large_100": "mobilenetv3_large_100|tf_mobilenetv3_large_100",
    "vit_tiny_patch16_224": "vit_tiny_patch16_224|deit_tiny_patch16_224",
    "swinv2_tiny_window8_256": "swinv2_tiny_window8_256|swinv2_tiny_window16_256",
    # A state dict without running statistics may be the parameters of one with batch norm.
    "resnet50_gn": "resnet50|resnetaa50|resnet50_gn|resnetblur50",
}


def sample(model: str) -> dict[str, Shape]:
    return _flatten(_SAMPLES["models"][model], "")


def _flatten(number: int, prefix: str) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for part, node in _SAMPLES["trees"][number].items():
        if isinstance(node, int):
            shapes |= _flatten(node, f"{prefix}{part}.")
        else:
            shapes[prefix + part] = tuple(node)
    return shapes


def name_of(model: str) -> str:
    name = model.split()[1]
    return SETS.get(name, name)


def found(shapes: dict[str, Shape], prefix: str = "") -> list[str]:
    return list(find_backbones({bare_name(prefix + name): shape for name, shape in shapes.items()}).values())


def without(shapes: dict[str, Shape], *endings: str) -> dict[str, Shape]:
    return {name: shape for name, shape in shapes.items() if not name.endswith(endings)}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("prefix", ["", "encoder.", "backbone.model.", "model._orig_mod.encoder.", "layer1.0."])
def test_a_published_model_is_told_to_its_name(model: str, prefix: str) -> None:
    assert found(sample(model), prefix) == [name_of(model)]


@pytest.mark.parametrize("model", [model for model in WHOLE if model != "timm vgg11"])  # two trunks, one in the other
def test_each_tensor_of_the_trunk_counts(model: str) -> None:
    shapes = sample(model)
    table = load_table()
    ((root, parts),) = [
        (root, parts)
        for root, parts in find_roots(shapes, table).items()
        if digest(trunk(root, shapes, parts, table.inputs)) in table.names
    ][:1]
    inner = [root + name for name in trunk(root, shapes, parts, table.inputs) if "." in name]
    for name in (inner[0], inner[len(inner) // 2], inner[-1]):
        assert name_of(model) not in found(without(shapes, name))
        assert name_of(model) not in found(shapes | {name: (*shapes[name][:-1], shapes[name][-1] + 1)})
        assert name_of(model) not in found(shapes | {f"{name.rpartition('.')[0]}.lora_A.weight": (8, 8)})


@pytest.mark.parametrize("model", [model for model in WHOLE if model.startswith(("timm", "torchvision"))])
def test_a_classifier_a_decoder_and_a_loss_do_not_matter(model: str) -> None:
    around = {
        "decoder.blocks.0.conv1.weight": (256, 512, 3, 3),
        "decoder.layer1.0.weight": (64, 64),
        "segmentation_head.0.weight": (1, 16, 3, 3),
        "loss.weight": (),
        "logit_scale": (),
    }
    heads = ("fc.weight", "fc.bias", "classifier.weight", "classifier.bias", "head.weight", "head.bias")
    shapes = sample(model)
    encoder = {f"encoder.{name}": shape for name, shape in shapes.items() if name not in heads}
    assert found(encoder | around) == [name_of(model)]
    other_classes = {name: (7, *shape[1:]) if name in heads else shape for name, shape in shapes.items()}
    assert found(other_classes | around) == [name_of(model)]


@pytest.mark.parametrize("channels", [1, 4, 12])
@pytest.mark.parametrize(
    ("model", "stem"),
    [
        ("timm resnet50", "conv1.weight"),
        ("timm vit_tiny_patch16_224", "patch_embed.proj.weight"),
        ("timm convnext_tiny features_only", "stem_0.weight"),
        ("torchvision vgg11", "features.0.weight"),
    ],
)
def test_another_number_of_input_channels_is_the_same_backbone(model: str, stem: str, channels: int) -> None:
    shapes = sample(model)
    assert found(shapes | {stem: (shapes[stem][0], channels, *shapes[stem][2:])}) == [name_of(model)]


def test_what_some_versions_do_not_save_does_not_matter() -> None:
    shapes = sample("timm resnet50")
    assert found(without(shapes, "num_batches_tracked")) == [SETS["resnet50"]]
    swin = sample("timm swinv2_tiny_window8_256")
    saved = {"layers.0.blocks.1.attn_mask": (64, 64, 64), "layers.0.blocks.0.attn.relative_position_index": (64, 64)}
    assert found(swin | saved) == found(swin) == ["swinv2_tiny_window8_256|swinv2_tiny_window16_256"]


def test_parameters_without_running_statistics_may_be_of_either_norm() -> None:
    parameters = without(sample("timm resnet50"), "running_mean", "running_var", "num_batches_tracked")
    assert found(parameters) == [SETS["resnet50_gn"]]


def test_positions_tell_the_image_size_and_an_unpublished_size_is_unknown() -> None:
    shapes = sample("timm vit_tiny_patch16_224")
    assert found(shapes | {"pos_embed": (1, 577, 192)}) == ["vit_tiny_patch16_384"]
    assert found(shapes | {"pos_embed": (1, 1025, 192)}) == []


def test_a_trunk_without_its_last_stage_is_unknown() -> None:
    shapes = sample("timm resnet50")
    assert found({name: shape for name, shape in shapes.items() if not name.startswith("layer4")}) == []


def test_one_more_module_in_a_sequence_is_another_backbone() -> None:
    shapes = sample("torchvision vgg11")
    assert found(shapes | {"features.21.weight": (512, 512, 3, 3)}) == []


def test_one_more_known_part_is_another_backbone() -> None:
    shapes = sample("timm vit_tiny_patch16_224")
    assert found(shapes | {"dist_token": (1, 1, 192)}) == []


def test_a_backbone_inside_another_is_a_part_of_it() -> None:
    inner = {f"patch_embed.backbone.{name}": shape for name, shape in sample("timm resnet50").items()}
    assert found(inner) == [SETS["resnet50"]]
    shapes = sample("timm vgg11")
    assert find_backbones(shapes) == {"": "vgg11"}
    assert find_backbones({name: shape for name, shape in shapes.items() if "pre_logits" not in name}) == {
        "features.": "vgg11"
    }


def test_two_backbones_are_both_found() -> None:
    teacher = {f"teacher.{name}": shape for name, shape in sample("timm resnet50").items()}
    student = {f"student.{name}": shape for name, shape in sample("timm resnet34d").items()}
    assert find_backbones(teacher | student) == {"teacher.": SETS["resnet50"], "student.": SETS["resnet34d"]}


@pytest.mark.parametrize("renamed", ["layer1", "conv1.weight", "bn1", "downsample.0"])
def test_the_names_of_another_library_are_unknown(renamed: str) -> None:
    shapes = {name.replace(renamed, "other"): shape for name, shape in sample("timm resnet50").items()}
    assert found(shapes) == []


def test_no_tensors_are_no_backbone() -> None:
    assert find_backbones({}) == {}
    assert find_backbones({"": (), ".": (), "weight": (1,), "conv1.weight": (64, 3, 7, 7), "\udc80.x": ()}) == {}


def test_as_many_backbones_as_a_model_holds_are_found_and_no_more() -> None:
    shapes = sample("torchvision resnet50")
    many = {f"m{n}.{name}": shape for n in range(PLACES_MAX) for name, shape in shapes.items()}
    assert len(find_backbones(many)) == PLACES_MAX
    assert find_backbones(many | {f"one_more.{name}": shape for name, shape in shapes.items()}) == {}


def test_too_many_places_and_too_many_tensors_are_not_looked_into() -> None:
    resnet, convnext, vit = (sample(f"timm {name}") for name in ("resnet50", "convnext_tiny", "vit_tiny_patch16_224"))
    many = {
        f"{model}{n}.{name}": shape
        for model, shapes in (("r", resnet), ("c", convnext))
        for n in range(ROOTS_MAX // 2)
        for name, shape in shapes.items()
    }
    assert len(find_backbones(many)) == ROOTS_MAX
    assert find_backbones(many | {f"v.{name}": shape for name, shape in vit.items()}) == {}
    names = [f"layer1.{n}.weight" for n in range(TENSORS_MAX + 1)]
    assert len(trunk("", dict.fromkeys(names[1:], ()), {"layer1"}, ())) == TENSORS_MAX
    assert trunk("", dict.fromkeys(names, ()), {"layer1"}, ()) == {}


def test_a_frequent_name_that_is_an_anchor_hides_no_backbone() -> None:
    frequent = {f"decoder.{n}.2.0.bias": (8,) for n in range(PLACES_MAX + 1)}
    assert "2.0.bias" in _TABLE["anchors"]
    assert found(sample("timm resnet50") | frequent) == [SETS["resnet50"]]


@pytest.mark.parametrize("name", ["m{}.layer1.0.bn1.bias", "stem.{}", "stem.0.weight{}", "features.{}.weight", "{}"])
@pytest.mark.parametrize("depth", [0, ROOTS_MAX // 3])
def test_a_hundred_thousand_hostile_names_take_seconds_at_most(name: str, depth: int) -> None:
    nested = {"stem." * n + anchor: (8,) for n in range(depth) for anchor in ("stem.0.weight", "stem.conv.weight")}
    shapes = nested | {"stem." * depth + name.format(n): (64, 64, 3, 3) for n in range(100_000)}
    started = time.process_time()
    find_backbones(shapes)
    assert time.process_time() - started < 5.0  # about 0.5 s; anything quadratic takes minutes


def test_the_table_is_within_its_limits() -> None:
    sets = _TABLE["names"]
    digests = [each for found in sets.values() for each in found]
    assert len(digests) == len(set(digests)) > 3000
    assert len({name for joined in sets for name in joined.split("|")}) > 1400
    assert max(len(joined.split("|")) for joined in sets) <= 5
    assert max(map(len, sets)) < 200
    assert len(json.dumps(_TABLE)) < 300_000
    assert all("." in anchor for anchor in _TABLE["anchors"])
    assert TENSORS_MAX > 3108


def test_the_table_is_read_when_first_needed() -> None:
    program = (
        "import ckpt_indexer.metadata.compose, ckpt_indexer.metadata.backbones as backbones\n"
        "print(backbones.load_table.cache_info().currsize)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.split() == [b"0"]
