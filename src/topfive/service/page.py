"""The page that lists the operations: no script, nothing from the network."""

from __future__ import annotations

import json
from html import escape

from topfive.service.operations import Operation, operations

__all__ = ["docs_page"]

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;"
    "padding:0 1em;color-scheme:light dark}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em .2em 0;text-align:left;vertical-align:top}"
    "pre{overflow:auto;padding:.6em;border:1px solid}"
)


def docs_page() -> str:
    """HTML: every operation with its parameters and a request; the OpenAPI description is /openapi.json."""
    sections = "".join(_section(operation) for operation in operations().values())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>topfive: operations</title>'
        f"<style>{STYLE}</style></head><body><h1>topfive: operations</h1>"
        "<p>Each is <code>POST /api/...</code> with a JSON object, or <code>POST /api</code> with its name "
        "as <code>action</code>. The answer has <code>return</code>: 0 good, 1 a comparison failed, 2 bad "
        'input. The same for programs: <a href="/openapi.json">OpenAPI description</a>.</p>'
        f"{sections}</body></html>"
    )


def _section(operation: Operation) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{parameter.type}{' list' * parameter.many}</td>"
        f"<td>{'needed. ' * parameter.required}{escape(parameter.help)}</td></tr>"
        for name, parameter in operation.parameters.items()
    )
    needed = {name: "..." for name, parameter in operation.parameters.items() if parameter.required}
    request = json.dumps({"action": operation.action, **needed})
    return (
        f"<h2>{escape(operation.action)}</h2><p>{escape(operation.help)}</p>"
        f"<table><tr><th>parameter</th><th>type</th><th></th></tr>{rows}</table>"
        f"<pre>POST /api\n{escape(request)}</pre>"
    )
