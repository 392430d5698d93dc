"""The service's routes as one HTML page that loads nothing: a line may have no internet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ info.title }}</title>
<style>
body { max-width: 860px; margin: 32px auto; padding: 0 20px; font: 16px/1.5 system-ui, sans-serif; }
section { margin: 24px 0; padding: 4px 20px 12px; border: 1px solid #8884; border-radius: 8px; }
h2 { margin: 12px 0 0; font: 600 18px/1.5 ui-monospace, monospace; }
h3 { margin: 12px 0 4px; font-size: 14px; }
p { margin: 8px 0; white-space: pre-line; }
table { border-collapse: collapse; font-size: 15px; }
td { padding: 2px 16px 2px 0; vertical-align: top; }
code { font: 14px ui-monospace, monospace; }
</style>
</head>
<body>
<h1>{{ info.title }}</h1>
<p>{{ info.description }} The same for programs: <a href="openapi.json">openapi.json</a>.</p>
{% for route in routes %}
<section>
<h2>{{ route.method }} {{ route.path }}</h2>
<p>{% for part in route.description.split("`") %}
{% if loop.index is odd %}{{ part }}{% else %}<code>{{ part }}</code>{% endif %}
{% endfor %}</p>
{% for title, rows in route.tables.items() if rows %}
<h3>{{ title }}</h3>
<table>
{% for name, text in rows.items() %}<tr><td><code>{{ name }}</code></td><td>{{ text }}</td></tr>
{% endfor %}
</table>
{% endfor %}
</section>
{% endfor %}
</body>
</html>
"""


def routes_page(openapi: Mapping[str, Any]) -> str:
    """An HTML page of all routes, with their parameters, bodies and answers.

    Args:
        openapi: the app's schema, of OpenAPI 3.1.
    """
    schemas = openapi.get("components", {}).get("schemas", {})
    routes = [
        {
            "method": method.upper(),
            "path": path,
            "description": operation.get("description", operation["summary"]),
            "tables": {
                "Parameters": parameters_of(operation),
                **bodies_of(operation, schemas),
                "Answers": answers_of(operation, schemas),
            },
        }
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
    ]
    page = Environment(autoescape=True, trim_blocks=True).from_string(PAGE)
    return page.render(info=openapi["info"], routes=routes)


def parameters_of(operation: Mapping[str, Any]) -> dict[str, str]:
    """The type of each parameter, by its name."""
    return {
        found["name"]: in_words(found["schema"], found.get("required", False))
        for found in operation.get("parameters", [])
    }


def bodies_of(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The fields of a request's body, by their names; the key is a title with the body's content type."""
    content = operation.get("requestBody", {}).get("content", {})
    return {
        f"Body: {kind}": fields_of(resolve(body["schema"], schemas))
        or {"body": in_words(body["schema"], True)}
        for kind, body in content.items()
    }


def answers_of(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, str]:
    """What each status means, in the order of their numbers; of a success, the answer's fields."""
    return {
        status: answer_in_words(answer, schemas) if status == "200" else answer["description"]
        for status, answer in sorted(operation["responses"].items())
    }


def answer_in_words(answer: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """The fields of an answer in JSON, else its description."""
    body = answer.get("content", {}).get("application/json", {}).get("schema", {})
    return ", ".join(fields_of(resolve(body, schemas))) or answer["description"]


def fields_of(schema: Mapping[str, Any]) -> dict[str, str]:
    """The type of each field of an object, by its name."""
    required = schema.get("required", [])
    return {name: in_words(field, name in required) for name, field in schema.get("properties", {}).items()}


def in_words(schema: Mapping[str, Any], is_required: bool) -> str:
    """A value's type, and whether it may be left out."""
    kinds = [kind_of(each) for each in schema.get("anyOf", [schema])]
    return " or ".join(kind for kind in kinds if kind != "null") + ("" if is_required else ", optional")


def kind_of(schema: Mapping[str, Any]) -> str:
    """The name of a type: `number`, `array of file`."""
    if "items" in schema:
        return f"array of {kind_of(schema['items'])}"
    if schema.get("format") == "binary":
        return "file"
    return str(schema.get("type") or schema.get("$ref", "value").rpartition("/")[2])


def resolve(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema, or the named one that it refers to."""
    name = schema.get("$ref", "").rpartition("/")[2]
    found: Mapping[str, Any] = schemas[name] if name else schema
    return found
