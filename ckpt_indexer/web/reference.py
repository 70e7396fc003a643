"""The API's reference as Markdown, out of its OpenAPI description: ``/docs`` shows it, the manual's page has it.

Pure: a description in, text out. It writes what an API of ``GET`` routes needs: parameters, answers, records. Forms of
OpenAPI that FastAPI does not make of this application (bodies, callbacks, links) are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_Node = Mapping[str, Any]
_LIMITS = (("minimum", "maximum", ""), ("minLength", "maxLength", " characters"), ("minItems", "maxItems", " values"))


def reference_of(described: _Node) -> str:
    """Write the routes, then the records that their answers are made of."""
    operations = {path: methods["get"] for path, methods in described["paths"].items()}
    answers = [operation["responses"] for operation in operations.values()]
    everywhere = {
        status: said for status, said in answers[0].items() if all(each.get(status) == said for each in answers)
    }
    parts = ["## Routes", "Every route may also answer:", _answers(everywhere)]
    parts += [_route(path, operation, everywhere) for path, operation in operations.items()]
    records = [_record(name, schema) for name, schema in sorted(_records(described).items())]
    return "\n\n".join([*parts, "## Records", *records]) + "\n"


def _records(described: _Node) -> dict[str, _Node]:
    schemas = described.get("components", {}).get("schemas", {})
    return {name: schema for name, schema in schemas.items() if "properties" in schema}


def _route(path: str, operation: _Node, everywhere: _Node) -> str:
    parts = [f"### `GET {path}`", _sentence(operation.get("description") or operation["summary"])]
    if parameters := operation.get("parameters"):
        rows = [_parameter(each) for each in parameters]
        parts.append("\n".join(["| parameter | in | type | default | meaning |", "|---|---|---|---|---|", *rows]))
    own = {status: said for status, said in operation["responses"].items() if status not in everywhere}
    return "\n\n".join([*parts, _answers(own)])


def _answers(responses: _Node) -> str:
    rows = [f"| {status} | {_answer(answer)} |" for status, answer in sorted(responses.items())]
    return "\n".join(["| status | answer |", "|---|---|", *rows])


def _parameter(parameter: _Node) -> str:
    schema = parameter["schema"]
    default = "required" if parameter.get("required") else f"`{schema['default']}`" if schema.get("default") else ""
    meaning = parameter.get("description") or schema.get("description") or ""
    text = " ".join(part for part in (_sentence(meaning), _sentence(_limits(schema))) if part)
    return f"| `{parameter['name']}` | {parameter['in']} | {_type(schema)} | {default} | {_cell(text)} |"


def _limits(schema: _Node) -> str:
    """Write the limits of a value: ``1 to 500 characters``."""
    texts = []
    for form in (schema, *(each for each in schema.get("anyOf", ()) if each.get("type") != "null")):
        for least, most, unit in _LIMITS:
            if least in form and most in form:
                texts.append(f"{form[least]:,} to {form[most]:,}{unit}")
            elif most in form:
                texts.append(f"At most {form[most]:,}{unit}")
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
    parts = [part for part in (f"### {name}", _sentence(schema.get("description", ""))) if part]
    fields = schema["properties"].items()
    if any("description" in said for _, said in fields):
        rows = [f"| `{field}` | {_type(said)} | {_cell(said.get('description', ''))} |" for field, said in fields]
        table = ["| field | type | meaning |", "|---|---|---|", *rows]
    else:
        table = ["| field | type |", "|---|---|", *(f"| `{field}` | {_type(said)} |" for field, said in fields)]
    return "\n\n".join([*parts, "\n".join(table)])


def _type(schema: _Node) -> str:
    """Write a type: ``integer or null``, ``array of Entry``, one of a few words."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
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
