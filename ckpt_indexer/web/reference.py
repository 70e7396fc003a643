"""The API's reference as Markdown, out of its OpenAPI description: ``/docs`` shows it, the manual's page has it.

Pure: a description in, text out. It writes what an API of ``GET`` routes needs: parameters, answers, records. Forms of
OpenAPI that FastAPI does not make of this application (bodies, callbacks, links) are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_Node = Mapping[str, Any]
_LIMITS = {
    "minimum": "at least {}", "maximum": "at most {}", "minLength": "at least {} characters",
    "maxLength": "at most {} characters", "minItems": "at least {}", "maxItems": "at most {}",
}  # fmt: skip


def reference_of(described: _Node) -> str:
    """Write the routes, then the records that their answers are made of."""
    routes = [_route(path, methods["get"]) for path, methods in described["paths"].items()]
    records = [_record(name, schema) for name, schema in sorted(_records(described).items())]
    return "## Routes\n\n" + "\n".join(routes) + "\n## Records\n\n" + "\n".join(records)


def _records(described: _Node) -> dict[str, _Node]:
    schemas = described.get("components", {}).get("schemas", {})
    return {name: schema for name, schema in schemas.items() if "properties" in schema}


def _route(path: str, operation: _Node) -> str:
    lines = [f"### `GET {path}`", "", _sentence(operation.get("description") or operation["summary"]), ""]
    if parameters := operation.get("parameters"):
        lines += ["| parameter | in | type | default | meaning |", "|---|---|---|---|---|"]
        lines += [_parameter(each) for each in parameters]
        lines.append("")
    lines += ["| status | answer |", "|---|---|"]
    lines += [f"| {status} | {_answer(answer)} |" for status, answer in sorted(operation["responses"].items())]
    return "\n".join(lines) + "\n"


def _parameter(parameter: _Node) -> str:
    schema = parameter["schema"]
    default = "required" if parameter.get("required") else f"`{schema['default']}`" if schema.get("default") else ""
    meaning = parameter.get("description") or schema.get("description") or ""
    limits = _limits(schema)
    text = ". ".join(part.rstrip(".") for part in (meaning, limits) if part)
    return f"| `{parameter['name']}` | {parameter['in']} | {_type(schema)} | {default} | {_cell(text)} |"


def _limits(schema: _Node) -> str:
    forms = [schema, *(each for each in schema.get("anyOf", ()) if each.get("type") != "null")]
    texts = [text.format(form[name]) for form in forms for name, text in _LIMITS.items() if name in form]
    return ", ".join(texts)


def _answer(answer: _Node) -> str:
    text = _sentence(answer.get("description", ""))
    kinds = []
    for media, content in answer.get("content", {}).items():
        schema = content.get("schema", {})
        is_record = "$ref" in schema or "items" in schema
        kinds.append(f"`{media}`: {_type(schema)}" if is_record else f"`{media}`")
    if text == "Successful Response.":
        text = ""
    return _cell(" ".join(part for part in (text, ", ".join(kinds)) if part))


def _record(name: str, schema: _Node) -> str:
    lines = [
        f"### {name}",
        "",
        _sentence(schema.get("description", "")),
        "",
        "| field | type | meaning |",
        "|---|---|---|",
    ]
    for field, about in schema["properties"].items():
        lines.append(f"| `{field}` | {_type(about)} | {_cell(about.get('description', ''))} |")
    return "\n".join(lines) + "\n"


def _type(schema: _Node) -> str:
    """Write a type: ``integer or null``, ``array of Entry``, one of a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(each) for each in schema["anyOf"]))
    kind = schema.get("type", "any")
    if kind == "array" and "prefixItems" in schema:
        return "array of " + ", ".join(_type(each) for each in schema["prefixItems"])
    if kind == "array":
        return f"array of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {_type(schema['additionalProperties'])}"
    return str(kind)


def _sentence(text: str) -> str:
    line = " ".join(text.split())
    return line if not line or line.endswith((".", "!", "?")) else line + "."


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
