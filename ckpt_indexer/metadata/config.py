"""What a run's configuration says: a Hydra ``config.yaml`` (or one like it), and hyper-parameters of the same shape.

Pure functions over plain data. A configuration is unresolved: ``${oc.env:HOME}`` stays as it is written. Nothing is
required of its shape; what is not found is ``None`` or left out.
"""

from __future__ import annotations

from typing import Any

from ckpt_indexer.metadata.schema import UNKNOWN, Checkpointing, Decoder, Encoder, Head, Loss, Model

_NAME_KEYS = ("name", "model_name", "_target_", "type")
_ARCHITECTURE_KEYS = ("architecture_name", "architecture", "arch", "name", "model_name", "_target_")
_ENCODER_KEYS = ("encoder_name", "backbone_name", "backbone", "encoder", "model_name")
_MODEL_KEYS = ("model", "net", "network", "module", "lightning_module", "lit_module")
PARAMS_MAX = 50  # entries of a component's params worth repeating in a sidecar


def find_text(config: dict[str, Any], *paths: str) -> str | None:
    """Give the first of the dotted *paths* that holds text.

    >>> find_text({"trainer": {"name": "x"}}, "exp_name", "trainer.name")
    'x'
    """
    for path in paths:
        value = find(config, path)
        if isinstance(value, str) and value:
            return value
    return None


def find(config: Any, path: str) -> Any:
    """Give what stands at a dotted path, or ``None``."""
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config


def find_int(config: dict[str, Any], *paths: str) -> int | None:
    """Give the first of the dotted *paths* that holds an integer."""
    for path in paths:
        value = find(config, path)
        if type(value) is int:
            return value
    return None


def model_part(config: dict[str, Any]) -> Model:
    """Read architecture, encoder, decoder, head and loss."""
    node = next((config[k] for k in _MODEL_KEYS if isinstance(config.get(k), dict)), None)
    if node is None:
        name = next((config[k] for k in (*_MODEL_KEYS, "arch", "architecture") if isinstance(config.get(k), str)), None)
        encoder = _encoder(config)
        return Model(architecture=name or UNKNOWN, encoder=encoder, loss=_loss(config))
    # A Lightning module wraps the network: look one level in where the outer node names no components.
    inner = next((node[k] for k in _MODEL_KEYS if isinstance(node.get(k), dict)), None)
    if inner is not None and not any(k in node for k in ("encoder", "backbone", "encoder_name")):
        node = {**inner, **({"loss": node["loss"]} if "loss" in node else {})}
    loss = _loss(node)
    return Model(
        architecture=_name(node, _ARCHITECTURE_KEYS),
        encoder=_encoder(node),
        decoder=_decoder(node.get("decoder")),
        head=_head(node.get("head")),
        loss=loss if loss.name != UNKNOWN else _loss(config),
    )


def checkpointing_part(config: dict[str, Any]) -> Checkpointing:
    """Read the settings of the (first) ModelCheckpoint callback."""
    node = _model_checkpoint(config.get("callbacks")) or _model_checkpoint(find(config, "trainer.callbacks")) or {}
    mode, save_last = node.get("mode"), node.get("save_last")
    return Checkpointing(
        monitor=node.get("monitor") if isinstance(node.get("monitor"), str) else None,
        mode=mode if mode in ("min", "max") else None,
        save_top_k=node.get("save_top_k") if type(node.get("save_top_k")) is int else None,
        save_last=save_last if isinstance(save_last, bool) or save_last == "link" else None,
    )


def _model_checkpoint(callbacks: Any) -> dict[str, Any] | None:
    """Find the ModelCheckpoint among callbacks given as a dict or a list; its ``_target_`` or its key names it."""
    if isinstance(callbacks, dict):
        items = list(callbacks.items())
    elif isinstance(callbacks, list):
        items = [("", node) for node in callbacks]
    else:
        return None
    for key, node in items:
        if not isinstance(node, dict):
            continue
        target = node.get("_target_")
        named = target if isinstance(target, str) else key
        if str(named).rpartition(".")[2].replace("_", "").lower() == "modelcheckpoint":
            return node
    return None


def _name(node: dict[str, Any], keys: tuple[str, ...] = _NAME_KEYS) -> str:
    """Name a component: by a name of its own, else by its class's.

    >>> _name({"_target_": "ocr.models.OCRModel"})
    'ocrmodel'
    """
    for key in keys:
        value = node.get(key)
        if isinstance(value, str) and value:
            return value.rpartition(".")[2].lower() if key == "_target_" and "${" not in value else value
    return UNKNOWN


def _encoder(node: dict[str, Any]) -> Encoder:
    inner = next((node[k] for k in ("encoder", "backbone") if isinstance(node.get(k), dict)), None)
    if inner is not None:
        name = _name(inner, ("model_name", "encoder_name", "backbone_name", "name", "backbone", "_target_"))
        return Encoder(model_name=name, pretrained=_flag(inner, "pretrained"), frozen=_flag(inner, "frozen", "freeze"))
    name = next((node[k] for k in _ENCODER_KEYS if isinstance(node.get(k), str) and node[k]), UNKNOWN)
    if name == UNKNOWN:
        return Encoder()
    weights = node.get("encoder_weights")
    pretrained = _flag(node, "pretrained") if "encoder_weights" not in node else isinstance(weights, str)
    return Encoder(model_name=name, pretrained=pretrained, frozen=_flag(node, "frozen", "freeze_encoder", "freeze"))


def _flag(node: dict[str, Any], *keys: str) -> bool | None:
    return next((node[k] for k in keys if isinstance(node.get(k), bool)), None)


def _decoder(node: Any) -> Decoder:
    if not isinstance(node, dict):
        return Decoder(name=node) if isinstance(node, str) and node else Decoder()
    channels = node.get("in_channels")
    channels = [channels] if type(channels) is int else channels
    return Decoder(
        name=_name(node),
        in_channels=channels if isinstance(channels, list) and all(type(c) is int for c in channels) else [],
        inner_channels=find_int(node, "inner_channels", "inner_dim"),
        output_channels=find_int(node, "output_channels", "out_channels", "output_channel"),
        params=_params(node),
    )


def _head(node: Any) -> Head:
    if not isinstance(node, dict):
        return Head(name=node) if isinstance(node, str) and node else Head()
    return Head(name=_name(node), in_channels=find_int(node, "in_channels"), params=_params(node))


def _loss(config: dict[str, Any]) -> Loss:
    for key in ("loss", "criterion", "loss_fn"):
        node = config.get(key)
        if isinstance(node, dict):
            return Loss(name=_name(node), params=_params(node))
        if isinstance(node, str) and node:
            return Loss(name=node)
    return Loss()


def _params(node: dict[str, Any]) -> dict[str, Any]:
    known = (*_NAME_KEYS, "in_channels", "inner_channels", "output_channels", "params")
    own = {key: value for key, value in node.items() if key not in known}
    given = node.get("params")
    return dict(list({**own, **(given if isinstance(given, dict) else {})}.items())[:PARAMS_MAX])
