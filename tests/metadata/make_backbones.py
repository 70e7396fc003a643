"""Makes the table of published backbones: ``python -m tests.metadata.make_backbones``, ten minutes of one core.

Needs timm, torchvision and segmentation_models_pytorch; ``pip install --no-deps`` is enough beside any torch, since
the models are only built, on the "meta" device, without memory for their weights. Not part of the suite, which does not
have these libraries: ``test_backbones.py`` reads samples that this program takes of the models.

Writes ``ckpt_indexer/metadata/backbones.json`` and ``tests/metadata/backbone_samples.json``.

A model is built in the forms in which it is used as an encoder: whole, but for what changes with the number of classes;
by ``features_only=True``; and each of them with parameters only. Two models with equal names and shapes are one entry.
"""

import collections
import contextlib
import json
import os
import sys
import types
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ckpt_indexer.metadata import backbones
from ckpt_indexer.metadata.architecture import Shape, bare_name
from ckpt_indexer.metadata.backbones import digest, trunk

Shapes = dict[str, Shape]

PACKAGE_DATA = Path(backbones.__file__).with_name("backbones.json")
SAMPLES = Path(__file__).with_name("backbone_samples.json")
ANCHOR_MATCHES_MAX = 2  # of one anchor in one model
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
RGB = 3
DIGITS = {str(number) for number in range(1000)}
LAST = "segmentation_models_pytorch"
SAMPLED = (
    *("timm resnet50", "timm resnet50_gn", "timm resnet34d", "timm resnetv2_50", "timm seresnet50"),
    *("timm convnext_tiny", "timm convnextv2_atto", "timm vit_tiny_patch16_224", "timm vit_tiny_patch16_384"),
    *("timm vit_small_patch14_dinov2", "timm deit3_small_patch16_224", "timm efficientnet_b0"),
    *("timm tf_efficientnetv2_b0", "timm mobilenetv3_large_100", "timm swinv2_tiny_window8_256", "timm vgg11"),
    *("torchvision resnet50", "torchvision convnext_tiny", "torchvision swin_v2_t", "torchvision regnet_y_400mf"),
    *("torchvision vgg11", "segmentation_models_pytorch mit_b0", "segmentation_models_pytorch efficientnet-b0"),
)


class Built(NamedTuple):
    """A model's state dicts, as shapes."""

    library: str
    name: str
    whole: Shapes
    other_classes: Shapes  # with another number of classes; the same as *whole* if it has no classifier
    features: Shapes | None  # by features_only=True

    @property
    def heads(self) -> set[str]:
        """The parts that change with the number of classes."""
        whole, other = _parts(self.whole), _parts(self.other_classes)
        return {part for part in whole if whole[part] != other.get(part)}

    def encoders(self) -> Iterator[Shapes]:
        heads = self.heads
        yield _unwrapped(_bare({n: shape for n, shape in self.whole.items() if n.partition(".")[0] not in heads}))
        if self.features:
            yield _unwrapped(_bare(self.features))


def main() -> None:
    versions, models = build_all()
    content = {"source": versions, **make_table(models)}
    PACKAGE_DATA.write_text(_encode(content), "utf-8")
    samples = {f"{each.library} {each.name}": each for each in models}
    trees = _Trees()
    made = {sample: trees.add(samples[sample].whole) for sample in SAMPLED}
    made |= {
        f"{sample} features_only": trees.add(features) for sample in SAMPLED if (features := samples[sample].features)
    }
    SAMPLES.write_text(_encode({"source": versions, "models": made, "trees": trees.stored}), "utf-8")


def build_all() -> tuple[str, list[Built]]:
    """Build every model of the three libraries; return also their versions."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    # torchvision's compiled operators need the one torch they were compiled for; models are built without them.
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
    import torch

    for name in dir(torch.nn.init):  # there is nothing to initialise, and a third of the time goes there
        if name.endswith("_") and not name.startswith("_"):
            setattr(torch.nn.init, name, lambda tensor, *_args, **_kwargs: tensor)
    import segmentation_models_pytorch as smp
    import timm
    import torchvision

    built = list(_build_timm(timm))
    for name in torchvision.models.list_models(module=torchvision.models):
        whole, other = (
            _build(torchvision.models.get_model, name, weights=None, num_classes=classes) for classes in (1000, 7)
        )
        built.append(Built("torchvision", name, _shapes(whole), _shapes(other), None))
    for name in smp.encoders.get_encoder_names():
        shapes = _shapes(_build(smp.encoders.get_encoder, name, weights=None))
        built.append(Built("segmentation_models_pytorch", name, shapes, shapes, None))
    versions = f"timm {timm.__version__}, torchvision {torchvision.__version__.partition('+')[0]}"
    return f"{versions}, segmentation_models_pytorch {smp.__version__}", built


def _build_timm(timm: Any) -> Iterator[Built]:
    for name in timm.list_models():
        model = _build(timm.create_model, name)
        whole = other = _shapes(model)
        with contextlib.suppress(Exception):  # encoders without a classifier have none to change
            model.reset_classifier(0)
            other = _shapes(model)
        features = None
        with contextlib.suppress(Exception):  # not every model can
            features = _shapes(_build(timm.create_model, name, features_only=True))
        yield Built("timm", name, whole, other, features)


def _build(make: Any, name: str, **arguments: Any) -> Any:
    import torch

    try:
        with torch.device("meta"):
            return make(name, **arguments)
    except RuntimeError:  # it computes its widths with tensors
        return make(name, **arguments)


def _shapes(model: Any) -> Shapes:
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if hasattr(value, "shape")}


def _bare(shapes: Shapes) -> Shapes:
    return {bare_name(name): shape for name, shape in shapes.items()}


def _parts(shapes: Shapes) -> dict[str, Shapes]:
    parts: dict[str, Shapes] = {}
    for name, shape in shapes.items():
        parts.setdefault(name.partition(".")[0], {})[name] = shape
    return parts


def _unwrapped(shapes: Shapes) -> Shapes:
    """Leave out a module around everything ("features.", "model."): people often use just what is in it."""
    parts = _parts(shapes)
    while len(parts) == 1 and all("." in name for name in shapes):
        shapes = {name.partition(".")[2]: shape for name, shape in shapes.items()}
        parts = _parts(shapes)
    return shapes


def make_table(models: list[Built]) -> dict[str, Any]:
    """Make what ``read_table`` reads."""
    heads = {part for each in models for part in each.heads}  # of any model: a part of one may be another's classifier
    trunks = []
    inputs = set()
    for model in models:
        for encoder in model.encoders():
            kept = {name: shape for name, shape in encoder.items() if name.partition(".")[0] not in heads}
            inputs |= {name for name, shape in kept.items() if len(shape) in (4, 5) and shape[1] == RGB}
            trunks.append((model, kept))
    anchors = choose_anchors([shapes for _, shapes in trunks], [_bare(model.whole) for model in models])
    return {
        "anchors": {
            anchor: sorted({part for _, shapes in trunks if anchor in shapes for part in _parts(shapes)} - DIGITS)
            for anchor in anchors
        },
        "inputs": sorted(inputs),
        "names": _name_digests(trunks, inputs),
    }


def _name_digests(trunks: list[tuple[Built, Shapes]], inputs: set[str]) -> dict[str, list[str]]:
    names: dict[str, set[str]] = collections.defaultdict(set)
    # Where segmentation_models_pytorch takes another library's model, that library's name is the usual one.
    for model, shapes in sorted(trunks, key=lambda each: each[0].library == LAST):
        parts = _parts(shapes)
        whole = trunk("", shapes, parts, inputs)
        parameters = {name: shape for name, shape in whole.items() if not name.endswith(STATISTICS)}
        for each in {digest(whole), digest(parameters)}:
            if model.library != LAST or not names[each]:
                names[each].add(model.name)
    sets: dict[str, list[str]] = collections.defaultdict(list)
    for each, found in names.items():
        sets["|".join(sorted(found, key=lambda name: (len(name), name)))].append(each)
    return {joined: sorted(digests) for joined, digests in sorted(sets.items())}


def choose_anchors(trunks: list[Shapes], models: Iterable[Shapes]) -> list[str]:
    """Choose few names of which each trunk has one, and no model more than ``ANCHOR_MATCHES_MAX``."""
    matches: collections.Counter[str] = collections.Counter()  # by ending, in the model that has most
    for shapes in models:
        for ending, count in collections.Counter(end for name in shapes for end in _endings(name)).items():
            matches[ending] = max(matches[ending], count)
    usable = [
        {
            name
            for name in shapes
            if "." in name and matches[name] <= ANCHOR_MATCHES_MAX and not name.endswith(STATISTICS)
        }
        for shapes in trunks
    ]
    chosen = []
    while usable:
        counts = collections.Counter(name for names in usable for name in names)
        if not counts:
            raise ValueError(f"{len(usable)} trunks have no anchor")
        best = min(counts, key=lambda name: (-counts[name], len(name), name))
        chosen.append(best)
        usable = [names for names in usable if best not in names]
    return chosen


def _endings(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.partition(".")[2]


class _Trees:
    """State dicts in the form of ``architectures.json``: equal blocks once."""

    def __init__(self) -> None:
        self.stored: list[dict[str, Any]] = []

    def add(self, shapes: Shapes) -> int:
        tree: dict[str, Any] = {name: list(shape) for name, shape in shapes.items() if "." not in name}
        inner: dict[str, Shapes] = {}
        for name, shape in shapes.items():
            part, dot, rest = name.partition(".")
            if dot:
                inner.setdefault(part, {})[rest] = shape
        tree |= {part: self.add(found) for part, found in inner.items()}
        if tree not in self.stored:
            self.stored.append(tree)
        return self.stored.index(tree)


def _encode(content: dict[str, Any]) -> str:
    """Write JSON with a line for each entry, for the sake of differences."""
    lines = []
    for key, value in content.items():
        if isinstance(value, str):
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
        else:
            opening, closing = "{}" if isinstance(value, dict) else "[]"
            each = (
                [f"{json.dumps(name)}: {json.dumps(inner)}" for name, inner in value.items()]
                if isinstance(value, dict)
                else map(json.dumps, value)
            )
            lines.append(f"{json.dumps(key)}: {opening}\n" + ",\n".join(each) + f"\n{closing}")
    return "{" + ",\n".join(lines) + "}\n"


if __name__ == "__main__":
    main()
