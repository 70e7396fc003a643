"""What a run's configuration says: a Hydra ``config.yaml`` (or one like it), and hyper-parameters of the same shape.

Pure functions over plain data. Nothing is required of its shape; what is not found is ``unknown`` or ``None``.

A configuration is written unresolved. An interpolation of another value or node (``${a.b}``) is followed; one that
needs the machine that trained (``${oc.env:HOME}``, ``${hydra:…}``), leads nowhere, or in a circle, is not known.

How a part of the model is found (``model_part``). Its *role* (architecture, encoder, decoder, head, loss) is looked for
by its keys in the whole subtree of the model, wherever it stands:

1. what stands below ``component_overrides`` wins: all of it where it names a part, else as an amendment of the part
   that is named elsewhere;
2. then what has a name of its own, then what has only a class (``_target_``, ``class_path``), which is written in
   snake_case;
3. among equals what stands higher up, then what is written first.

Names are texts that can be one: no path, no address, no file, no factory (``timm.create_model``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ckpt_indexer.metadata.fit import flat, numbers
from ckpt_indexer.metadata.schema import UNKNOWN, Checkpointing, Decoder, Encoder, Head, Loss, Model

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPTH_MAX = 12  # levels of the model's subtree that are searched; real ones have 6
NODES_MAX = 20_000  # mappings that are looked into, for all of it
INTERPOLATIONS_MAX = 16  # followed from one value; more is a circle
NAME_MAX = 100  # characters; longer is no name

_TARGET_KEYS = ("_target_", "class_path")  # Hydra's, LightningCLI's
_NAME_KEYS = ("name", "model_name", "type")
_MODEL_KEYS = ("model", "net", "network", "module", "lightning_module", "lit_module")
_OVERRIDE_KEYS = ("component_overrides", "overrides")
_ARCHITECTURE_KEYS = ("architectures", "architecture", "architecture_name", "arch", "model_name")
_ENCODER_KEYS = ("encoder", "backbone", "encoder_name", "backbone_name")
_ROLES: dict[str, tuple[str, ...]] = {
    "encoder": _ENCODER_KEYS,
    "decoder": ("decoder", "neck", "decoder_name", "neck_name"),
    "head": ("head", "head_name"),
    "loss": ("loss", "criterion", "loss_fn", "loss_name"),
}
_OWN_NAMES = {"encoder": ("model_name", "encoder_name", "backbone_name", "name", "backbone", "type")}
# Subtrees of a model's node that describe something else, in which the same words mean other things.
_OTHER_SUBTREES = frozenset(
    [
        "optimizer",
        "optimizers",
        "scheduler",
        "lr_scheduler",
        "metrics",
        "metric",
        "data",
        "dataset",
        "datasets",
        "dataloaders",
        "transforms",
        "callbacks",
        "logger",
        "trainer",
        "paths",
        "postprocess",
        "tokenizer",
    ]
)
_FACTORIES = frozenset(
    [
        "create_model",
        "get_model",
        "build_model",
        "make_model",
        "load_model",
        "from_pretrained",
        "from_config",
        "instantiate",
        "get_class",
        "get_method",
        "call",
        "partial",
        "build",
        "create",
        "make",
        "load",
    ]
)
_FILE = re.compile(
    r"\.(?:pt|pth|ckpt|bin|safetensors|onnx|pkl|npz|h5|tar|zip|gz|ya?ml|json|toml|txt|py|csv|engine)$", re.IGNORECASE
)
_INTERPOLATION = re.compile(r"\$\{([^${}]*)\}")
_REFERENCE = re.compile(r"\.*[\w-]+(?:\.[\w-]+)*")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class _Part(NamedTuple):
    """A value in the model's subtree whose key says which role it has."""

    value: Any
    is_override: bool
    depth: int
    order: int  # in which it is written


# --- single values ---


def find_text(config: dict[str, Any], *paths: str) -> str | None:
    """Return the first of the dotted *paths* that holds a text which can be made out.

    >>> find_text({"trainer": {"name": "x"}}, "exp_name", "trainer.name")
    'x'
    >>> find_text({"exp_name": "${tag}_b", "tag": "a"}, "exp_name"), find_text({"n": "${oc.env:X}"}, "n")
    ('a_b', None)
    """
    for path in paths:
        value = resolve(find(config, path), config)
        if isinstance(value, str) and value:
            return value
    return None


def find_name(config: dict[str, Any], *paths: str) -> str | None:
    """Return the first of the dotted *paths* that holds a name; a number is one (``20251019``).

    >>> find_name({"exp_name": 20251019}, "exp_name"), find_name({"exp_name": True}, "exp_name")
    ('20251019', None)
    """
    for path in paths:
        value = resolve(find(config, path), config)
        if isinstance(value, str | int | float) and not isinstance(value, bool) and value != "":
            return str(value)
    return None


def find(config: Any, path: str) -> Any:
    """Return what stands at a dotted path, or ``None``."""
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config


def find_int(config: dict[str, Any], *paths: str) -> int | None:
    """Return the first of the dotted *paths* that holds an integer."""
    for path in paths:
        value = resolve(find(config, path), config)
        if type(value) is int:
            return value
    return None


def resolve(value: Any, config: dict[str, Any]) -> Any:
    """Return *value* with the interpolations in it followed; ``None`` for a text in which one leads nowhere.

    Source: OmegaConf's grammar of interpolations; only references to other nodes, from the root, are followed.
    """
    for _ in range(INTERPOLATIONS_MAX):
        if not isinstance(value, str) or "${" not in value:
            return value
        found = _INTERPOLATION.search(value)
        if found is None or not _REFERENCE.fullmatch(found[1]) or found[1].startswith("."):
            return None
        target = _referred(found[1], config)
        if found.span() == (0, len(value)):
            value = target
        elif isinstance(target, str | int | float) and len(value) + len(str(target)) <= 10 * NAME_MAX:
            value = value[: found.start()] + str(target) + value[found.end() :]
        else:
            return None
    return None


def _referred(path: str, config: dict[str, Any]) -> Any:
    """Return what stands at *path*; where a node on the way is another reference, the reference that it makes.

    >>> _referred("model.loss", {"model": "${models.a}"})
    '${models.a.loss}'
    """
    node: Any = config
    keys = path.split(".")
    for count, key in enumerate(keys, 1):
        node = node.get(key) if isinstance(node, dict) else None
        if count < len(keys) and isinstance(node, str) and (whole := _INTERPOLATION.fullmatch(node)) is not None:
            return f"${{{'.'.join((whole[1], *keys[count:]))}}}" if len(node) <= 10 * NAME_MAX else None
    return node


def parse_class(target: Any, config: dict[str, Any]) -> str | None:
    """Return the name of the class that a ``_target_`` gives, in snake_case, or ``None``.

    The package need not be known: ``${decoder_path}.FPNDecoder`` names the class.

    >>> [parse_class(t, {}) for t in ("ocr.models.OCRModel", "${decoder_path}.UNet", "timm.create_model", "${x}")]
    ['ocr_model', 'unet', None, None]
    """
    if not isinstance(target, str) or len(target) > 10 * NAME_MAX:
        return None
    resolved = resolve(target, config)
    name = (resolved if isinstance(resolved, str) else target).rpartition(".")[2]
    if not name.isidentifier() or name in _FACTORIES:
        return None
    return snake_case(name)


def snake_case(name: str) -> str:
    """Write a class's name as the modules and settings of a project write it; one letter alone is no word.

    >>> snake_case("DBLoss"), snake_case("FPNDecoder"), snake_case("UNet"), snake_case("resnet18")
    ('db_loss', 'fpn_decoder', 'unet', 'resnet18')
    """
    words = _HUMP.sub("_", name).split("_")
    joined = [words[0]]
    for word in words[1:]:
        if len(joined[-1]) == 1:
            joined[-1] += word
        else:
            joined.append(word)
    return "_".join(joined).lower()


def parse_name(value: Any, config: dict[str, Any]) -> str | None:
    """Return a text that can be the name of a part of a model, or ``None``.

    >>> parse_name("resnet18", {}), parse_name("timm/resnet18.a1_in1k", {}), parse_name("bert-base/uncased", {})
    ('resnet18', 'timm/resnet18.a1_in1k', 'bert-base/uncased')
    >>> [parse_name(v, {}) for v in ("/models/r.pth", "./enc", "enc.pt", "${x}", "https://x/y", "a/b/c", "", 3)]
    [None, None, None, None, None, None, None, None]
    """
    name = resolve(value, config)
    if not isinstance(name, str) or not name.strip() or len(name) > NAME_MAX:
        return None
    is_place = name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith("/")
    if is_place or "\\" in name or "://" in name or "${" in name or _FILE.search(name):
        return None
    return name.strip()


# --- the model ---


def model_part(config: dict[str, Any]) -> Model:
    """Return architecture, encoder, decoder, head and loss, as far as they are named."""
    nodes = [found for key in _MODEL_KEYS if isinstance(found := resolve(config.get(key), config), dict)]
    if not nodes:
        nodes = list(_deeper_models(config))[:1]
    top = _find_parts([config], config, depth_max=0)
    parts = _find_parts(nodes, config, depth_max=DEPTH_MAX) if nodes else top
    for role in ("encoder", "loss"):  # a loss stands beside the model as often as in it; flat ones name the encoder
        parts[role] = parts[role] or top[role]
    return Model(
        architecture=_architecture(config, nodes) or UNKNOWN,
        encoder=_encoder(_chosen("encoder", parts["encoder"], config), config, nodes),
        decoder=_decoder(_chosen("decoder", parts["decoder"], config), config),
        head=_head(_chosen("head", parts["head"], config), config),
        loss=_loss(_chosen("loss", parts["loss"], config), config),
    )


def _deeper_models(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Find a model's node that does not stand at the top: ``task.model``, ``experiment.net``."""
    for node in _mappings(config, config, 3):
        for key in ("model", "net", "network"):
            if isinstance(found := resolve(node.value.get(key), config), dict):
                yield found


def _mappings(root: dict[str, Any], config: dict[str, Any], depth_max: int) -> Iterator[_Part]:
    """Iterate over the mappings in *root*, itself first, level by level; subtrees of other things are left out.

    A reference to a node is that node.
    """
    waiting = [_Part(root, False, 0, 0)]
    count = 0
    while waiting and count < NODES_MAX:
        below: list[_Part] = []
        for part in waiting:
            yield part
            count += 1
            if part.depth >= depth_max:
                continue
            for key, value in part.value.items():
                if key in _OTHER_SUBTREES:
                    continue
                referred = resolve(value, config)
                for each in referred if isinstance(referred, list) else (referred,):
                    inner = resolve(each, config)
                    if isinstance(inner, dict) and len(below) < NODES_MAX:
                        is_override = part.is_override or key in _OVERRIDE_KEYS
                        below.append(_Part(inner, is_override, part.depth + 1, len(below)))
        waiting = below


def _find_parts(roots: list[dict[str, Any]], config: dict[str, Any], *, depth_max: int) -> dict[str, list[_Part]]:
    """Find what has a role, overrides and what stands higher up first."""
    found: dict[str, list[_Part]] = {role: [] for role in _ROLES}
    for root in roots:
        for node in _mappings(root, config, depth_max):
            for role, keys in _ROLES.items():
                for key in keys:
                    if isinstance(value := resolve(node.value.get(key), config), dict | str) and value:
                        found[role].append(_Part(value, node.is_override, node.depth, len(found[role])))
    for parts in found.values():
        parts.sort(key=lambda part: (not part.is_override, part.depth, part.order))
    return found


def _chosen(role: str, parts: list[_Part], config: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Choose the part that counts, and its settings; an override without a name amends what is named elsewhere."""
    keys = _OWN_NAMES.get(role, _NAME_KEYS)
    amendments: dict[str, Any] = {}
    ranked = []
    for part in parts:
        node = part.value if isinstance(part.value, dict) else {"name": part.value}
        name = _own_name(node, keys, config)
        by_class = None if name else _class_of(node, config)
        if name or by_class:
            ranked.append((not part.is_override, by_class is not None, part.depth, part.order, name or by_class, node))
        elif part.is_override:
            amendments = {**node, **amendments}
    if not ranked:
        return None
    *_, name, node = min(ranked, key=lambda each: each[:4])
    assert name is not None
    return name, {**node, **amendments}


def _own_name(node: dict[str, Any], keys: tuple[str, ...], config: dict[str, Any]) -> str | None:
    return next((name for key in keys if (name := parse_name(node.get(key), config)) is not None), None)


def _class_of(node: dict[str, Any], config: dict[str, Any]) -> str | None:
    return next((name for key in _TARGET_KEYS if (name := parse_class(node.get(key), config)) is not None), None)


def _architecture(config: dict[str, Any], nodes: list[dict[str, Any]]) -> str | None:
    """Name the architecture: by name, in the model's nodes from the outermost, else by the class of the innermost."""
    chain = [inner for node in nodes for inner in _chain(node, config)]
    for node in chain:
        for key in _ARCHITECTURE_KEYS:
            if (name := _architecture_at(node.get(key), config)) is not None:
                return name
        if (name := parse_name(node.get("name"), config)) is not None:
            return name
    classes = [name for node in chain if (name := _class_of(node, config)) is not None]
    if classes:
        return classes[-1]
    if nodes:
        return None
    for key in (*_MODEL_KEYS, *_ARCHITECTURE_KEYS):
        if (name := _architecture_at(config.get(key), config)) is not None:
            return name
    return None


def _chain(node: dict[str, Any], config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Iterate over a model's node and the networks that it wraps, one in the other.

    A node that names parts of its own is the network itself.
    """
    for _ in range(DEPTH_MAX):
        yield node
        if any(key in node for key in _ENCODER_KEYS):
            return
        settings = resolve(node.get("init_args"), config)
        inner = next(
            (
                inside
                for each in (node, settings)
                if isinstance(each, dict)
                for key in _MODEL_KEYS
                if isinstance(inside := resolve(each.get(key), config), dict)
            ),
            None,
        )
        if inner is None:
            return
        node = inner


def _architecture_at(value: Any, config: dict[str, Any]) -> str | None:
    value = resolve(value, config)
    if isinstance(value, list) and len(value) == 1:  # Hugging Face's "architectures"
        value = resolve(value[0], config)
    if isinstance(value, dict):
        keys = ("name", *(key for key in _ARCHITECTURE_KEYS if isinstance(value.get(key), str)), "type")
        return _own_name(value, keys, config) or _class_of(value, config)
    return parse_name(value, config)


def _encoder(chosen: tuple[str, dict[str, Any]] | None, config: dict[str, Any], nodes: list[dict[str, Any]]) -> Encoder:
    if chosen is None:
        return Encoder()
    name, node = chosen
    pretrained, frozen = _flag(node, "pretrained"), _flag(node, "frozen", "freeze")
    if set(node) == {"name"}:  # only a name: the node that it stands in says the rest
        for around in (*nodes, config):
            if any(resolve(around.get(key), config) == node["name"] for key in _ENCODER_KEYS):
                weights = around.get("encoder_weights")
                pretrained = isinstance(weights, str) if "encoder_weights" in around else _flag(around, "pretrained")
                frozen = _flag(around, "frozen", "freeze_encoder", "freeze")
                break
    return Encoder(model_name=name, pretrained=pretrained, frozen=frozen)


def _flag(node: dict[str, Any], *keys: str) -> bool | None:
    return next((node[k] for k in keys if isinstance(node.get(k), bool)), None)


def _decoder(chosen: tuple[str, dict[str, Any]] | None, config: dict[str, Any]) -> Decoder:
    if chosen is None:
        return Decoder()
    name, node = chosen
    params = _params(node, config)
    channels = resolve(node.get("in_channels"), config)
    channels = [channels] if type(channels) is int else channels
    given = resolve(node.get("params"), config)
    inner = given if isinstance(given, dict) else {}
    return Decoder(
        name=name,
        in_channels=channels if isinstance(channels, list) and all(type(c) is int for c in channels) else [],
        inner_channels=_width({**inner, **node}, config, "inner_channels", "inner_dim"),
        output_channels=_width({**inner, **node}, config, "output_channels", "out_channels", "output_channel"),
        params=params,
    )


def _width(node: dict[str, Any], config: dict[str, Any], *keys: str) -> int | None:
    found = next((number for key in keys if type(number := resolve(node.get(key), config)) is int), 0)
    return found if found >= 1 else None


def _head(chosen: tuple[str, dict[str, Any]] | None, config: dict[str, Any]) -> Head:
    if chosen is None:
        return Head()
    name, node = chosen
    return Head(name=name, in_channels=_width(node, config, "in_channels"), params=_params(node, config))


def _loss(chosen: tuple[str, dict[str, Any]] | None, config: dict[str, Any]) -> Loss:
    if chosen is None:
        return Loss()
    name, node = chosen
    return Loss(name=name, params=numbers(_params(node, config)))


def _params(node: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return a part's settings, flat: numbers, flags and texts under dotted names, without lists.

    >>> _params({"name": "x", "k": 3, "post": {"thresh": 0.2, "box": [1]}, "params": {"on": True}}, {})
    {'k': 3, 'on': True, 'post.thresh': 0.2}
    """
    known = (*_NAME_KEYS, *_TARGET_KEYS, "in_channels", "inner_channels", "output_channels", "params")
    own = {key: value for key, value in node.items() if key not in known}
    given = resolve(node.get("params"), config)
    return flat({**own, **(given if isinstance(given, dict) else {})}, lambda value: resolve(value, config))


# --- the callback that saves ---


def checkpointing_parts(config: dict[str, Any]) -> list[Checkpointing]:
    """Return the settings of the ModelCheckpoint callbacks, in their order."""
    parts = []
    for node in (
        *_model_checkpoints(config.get("callbacks"), config),
        *_model_checkpoints(find(config, "trainer.callbacks"), config),
    ):
        settings = {key: resolve(value, config) for key, value in node.items()}
        mode, save_last, monitor = settings.get("mode"), settings.get("save_last"), settings.get("monitor")
        parts.append(
            Checkpointing(
                monitor=monitor if isinstance(monitor, str) else None,
                mode=mode if mode in ("min", "max") else None,
                save_top_k=k if type(k := settings.get("save_top_k")) is int and k >= -1 else None,
                save_last=save_last if isinstance(save_last, bool) else save_last == "link" or None,
            )
        )
    return parts


def checkpointing_part(config: dict[str, Any]) -> Checkpointing:
    """Return the settings of the (first) ModelCheckpoint callback."""
    return next(iter(checkpointing_parts(config)), Checkpointing())


def is_model_checkpoint(name: str) -> bool:
    """Return whether a class of that name is Lightning's ModelCheckpoint or derives from it.

    >>> [is_model_checkpoint(name) for name in ("UniqueModelCheckpoint", "model_checkpoint", "EMA")]
    [True, True, False]
    """
    return "modelcheckpoint" in name.rpartition(".")[2].replace("_", "").lower()


def _model_checkpoints(callbacks: Any, config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Find the ModelCheckpoints among callbacks given as a dict or a list, by class or by key."""
    callbacks = resolve(callbacks, config)
    if isinstance(callbacks, dict):
        items = list(callbacks.items())
    elif isinstance(callbacks, list):
        items = [("", node) for node in callbacks]
    else:
        return
    for key, value in items:
        node = resolve(value, config)
        if not isinstance(node, dict):
            continue
        target = next((node[k] for k in _TARGET_KEYS if isinstance(node.get(k), str)), None)
        if is_model_checkpoint(str(key if target is None else target)) or (
            is_model_checkpoint(str(key)) and "monitor" in node
        ):
            inner = resolve(node.get("init_args"), config)
            yield inner if isinstance(inner, dict) else node
