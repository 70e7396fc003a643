"""The judges are the names and shapes of real models: those of ``test_architecture.py`` and ``test_backbones.py``."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_indexer.formats.containers.identify import read_facts
from ckpt_indexer.metadata.architecture import FAMILIES, ROOTS_MAX, Shape, recognise_family
from ckpt_indexer.metadata.backbones import load_table
from ckpt_indexer.metadata.encoder import is_same_encoder, recognise_encoder
from tests.metadata.test_architecture import prefixed, shapes_of
from tests.metadata.test_backbones import MODELS, name_of, sample

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
RESNET50 = "resnet50|resnetaa50|resnetblur50"
EXACT = {
    "torchvision resnet18": "resnet18|resnetblur18",
    "torchvision resnet50": RESNET50,
    "torchvision fasterrcnn_resnet50_fpn": RESNET50,
    "torchvision lraspp_mobilenet_v3_large": "mobilenet_v3_large",
    "torchvision vit_b_16": "vit_b_16",
    "torchvision swin_t": "swin_t",
    "torchvision wide_resnet50_2": "wide_resnet50_2",
    "timm resnet34": "resnet34",
    "timm resnet50d": "resnet50d|resnetaa50d|resnetblur50d",
    "timm convnext_tiny": "convnext_tiny",
    "timm convnextv2_atto": "convnextv2_atto",
    "timm vit_small_patch14_dinov2": "vit_small_patch14_dinov2",
    "timm deit_tiny_distilled_patch16_224": "deit_tiny_distilled_patch16_224",
    "timm tf_efficientnet_b3": "efficientnet_b3|tf_efficientnet_b3",
    "timm swin_tiny_patch4_window7_224 features_only": "swin_tiny_patch4_window7_224",
}
VIDEO = ("torchvision r3d_18", "torchvision swin3d_t")  # neither library has them as encoders of images
ALL_NAMES = sorted({name for joined in load_table().names.values() for name in joined.split("|")})


def hugging_face(name: str) -> str:
    """As ``transformers`` names the parts of a ResNet."""
    return name.replace("layer", "encoder.stages.").replace("conv", "layers.").replace("bn1", "embedder.normalization")


@pytest.mark.parametrize("model", sorted(EXACT))
def test_a_published_backbone_has_its_name_or_the_names_that_shapes_cannot_tell(model: str) -> None:
    assert recognise_encoder(prefixed("model.encoder.", shapes_of(model))) == EXACT[model]


@pytest.mark.parametrize("model", MODELS)
def test_the_table_goes_before_the_family(model: str) -> None:
    assert recognise_encoder(sample(model)) == name_of(model)


@pytest.mark.parametrize(
    ("shapes", "family"),
    [
        (shapes_of("timm resnet50 features_only without layer4"), "resnet50"),
        (shapes_of("timm vit_tiny_patch16_224") | {"pos_embed": (1, 1025, 192)}, "vit"),
        ({n: s for n, s in shapes_of("timm convnext_tiny").items() if not n.startswith("stages.3")}, "convnext"),
    ],
)
def test_what_no_library_published_has_the_name_of_its_family(shapes: dict[str, Shape], family: str) -> None:
    assert recognise_encoder(shapes) == recognise_family(shapes) == family


@pytest.mark.parametrize(
    "shapes",
    [
        *map(shapes_of, VIDEO),
        {hugging_face(name): shape for name, shape in sample("timm resnet50").items()},
        {"embeddings.cls_token": (1, 1, 768), "encoder.layer.0.attention.attention.query.weight": (768, 768)},
        {n: s for n, s in sample("timm resnet34d").items() if not n.startswith("layer4")},
        {},
    ],
)
def test_everything_else_stays_unknown(shapes: dict[str, Shape]) -> None:
    assert recognise_encoder(shapes) is None


def test_a_copy_of_the_same_encoder_keeps_its_name() -> None:
    shapes = sample("timm resnet34d")
    assert recognise_encoder(prefixed("model.", shapes) | prefixed("ema.module.", shapes)) == name_of("timm resnet34d")


@pytest.mark.parametrize("student", ["torchvision resnet18", "timm resnet50 features_only without layer4"])
@pytest.mark.parametrize("prefix", ["", "teacher."])
def test_two_encoders_of_different_names_have_no_one_name(student: str, prefix: str) -> None:
    both = prefixed(prefix, sample("timm resnet34d")) | prefixed("student.", shapes_of(student))
    assert recognise_encoder(both) is None


def test_a_family_inside_a_published_backbone_is_a_part_of_it() -> None:
    assert recognise_encoder(shapes_of("timm vit_base_r50_s16_224")) == "vit_base_r50_s16_224"


def test_more_encoders_than_a_model_holds_are_unknown() -> None:
    shapes = shapes_of("torchvision resnet18")
    at_limit = {name: shape for n in range(ROOTS_MAX) for name, shape in prefixed(f"m{n}.", shapes).items()}
    assert recognise_encoder(at_limit) == EXACT["torchvision resnet18"]
    assert recognise_encoder(at_limit | prefixed("one_more.", shapes)) is None


@given(st.data())
def test_no_shape_of_a_real_name_raises_or_is_guessed(data: st.DataObject) -> None:
    model = data.draw(st.sampled_from(sorted(EXACT)))
    shapes = shapes_of(model)
    name = data.draw(st.sampled_from(sorted(shapes)))
    shape = tuple(data.draw(st.lists(st.integers(-2, 2**40), max_size=6)))
    changed = shapes | {name: shape}
    assert recognise_encoder(changed) in {EXACT[model], recognise_family(changed)}


def test_a_checkpoint_of_the_same_run_costs_no_second_recognition() -> None:
    shapes = prefixed("run.", sample("timm resnet50"))
    recognise_encoder(shapes)
    first = time.process_time()
    for _ in range(20):
        recognise_family(shapes)
    second = time.process_time()
    for _ in range(20):
        recognise_encoder(dict(shapes))
    assert time.process_time() - second < (second - first)  # about a tenth


@pytest.mark.parametrize(
    "decorated", ["{}", "timm/{}.a1_in1k", "hf-hub:timm/{}.in12k", "timm-{}", "tu-{}", "timm.models.{}"]
)
def test_every_published_name_agrees_with_itself_however_it_is_written(decorated: str) -> None:
    assert [name for name in ALL_NAMES if not is_same_encoder(name, decorated.format(name))] == []
    assert [
        name
        for name in ALL_NAMES
        if not is_same_encoder(name, decorated.format(name.replace("_", "-")).upper().lower())
    ] == []


def test_names_that_shapes_cannot_tell_agree_with_each_other() -> None:
    for joined in load_table().names.values():
        assert [name for name in joined.split("|") if not is_same_encoder(joined, name)] == []


@pytest.mark.parametrize(
    ("recognised", "named"),
    [
        (RESNET50, "resnet"),
        (RESNET50, "torchvision.models.resnet50"),
        ("resnet50", "resnetaa50"),  # of a trunk cut short, whose family's rule cannot tell them either
        ("efficientnet-b0", "timm-efficientnet-b0"),
        ("efficientnet", "tf_efficientnet_b3"),
        ("legacy_seresnext50_32x4d", "se_resnext50_32x4d"),
        ("mobilenetv3", "mobilenet_v3_small"),
        ("mobilenetv3_large_100|tf_mobilenetv3_large_100", "mobilenetv3_large"),
        ("mobilenetv2_100", "mobilenet_v2"),
        ("vit_base_patch16_384|deit_base_patch16_384", "vit_base_patch16_224"),
        ("vit_base_patch16_384|deit_base_patch16_384", "vit_base"),
        ("vit", "deit_tiny_patch16_224"),
        ("swin", "swin_t"),
        ("swin_tiny_patch4_window7_224", "swin"),
        ("resnet18", "my_backbone"),
        ("resnet18", "tiny"),
        ("resnet18", ""),
        ("resnet18", "ResNetEncoder"),
    ],
)
def test_a_name_that_can_be_the_recognised_one_agrees(recognised: str, named: str) -> None:
    assert is_same_encoder(recognised, named) is not False


@pytest.mark.parametrize(
    ("recognised", "named"),
    [
        ("resnet18|resnetblur18", "resnet50"),
        (RESNET50, "resnet50d"),
        (RESNET50, "resnet50_gn"),
        ("resnet34d|resnetaa34d", "resnet34"),
        ("efficientnet_b0_g8_gn", "efficientnet_b0"),
        ("convnext_tiny_hnf", "convnext_tiny"),
        (RESNET50, "resnext50_32x4d"),
        ("convnext", "convnextv2_tiny"),
        ("convnext_large", "convnext_tiny.in12k"),
        ("efficientnet", "efficientnetv2_s"),
        ("vit", "maxvit_t"),
        ("swin", "swinv2_tiny_window8_256"),
        ("mobilenetv3_large_100", "mobilenetv3_large_075"),
        ("levit_256", "levit_384"),
        ("vit_base_patch16_224", "vit_base_patch32_224"),
        ("resnet34", "convnext"),
        ("convnext", "resnet18"),
    ],
)
def test_the_name_of_another_published_encoder_does_not_agree(recognised: str, named: str) -> None:
    assert is_same_encoder(recognised, named) is False


@given(st.text(max_size=40), st.sampled_from([*FAMILIES, "resnet18", RESNET50]))
def test_no_name_raises(named: str, recognised: str) -> None:
    assert is_same_encoder(recognised, named) in (True, False, None)


@pytest.mark.skipif(not CORPUS.is_dir(), reason="published checkpoints, where they are")
def test_published_checkpoints_of_other_models_get_no_name() -> None:
    recognised = {}
    for path in filter(Path.is_file, sorted(CORPUS.rglob("*"))):
        with path.open("rb") as file:
            found = read_facts(file).tensors or []
        recognised[path.name] = recognise_encoder({tensor.name: tensor.shape for tensor in found})
    assert {name: encoder for name, encoder in recognised.items() if encoder is not None} == {}
