"""A conversation for people: a page of Markdown or of HTML, and a piece of HTML for a notebook.

Nothing that a message says can become a part of the page itself. HTML has texts as they are, no scripts and no address
that is fetched. In Markdown each message is a quotation, which shows the Markdown that models write; outside of blocks
of code no HTML is left in it.
"""

from __future__ import annotations

import html as _html
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_core.messages import AIMessage, ToolMessage

from langchain_histories._plain import plain, plain_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_histories.codec import Record

_NAMES = {"human": "Human", "ai": "AI", "system": "System", "tool": "Tool", "function": "Function", "remove": "Removal"}
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
_NEW_LINE = re.compile("\r\n|\r|\n")
_LONGEST = 10_000
"""Characters of a value that is no text, such as an image, of which people read nothing."""
_LONGEST_IN_PIECE = 2_000
"""Characters of a part of a message in a notebook."""


class _Part(NamedTuple):
    """A part of a message: what it is, unless it is what was said, and its text."""

    kind: str
    text: str


class _Shown(NamedTuple):
    """What a page shows of a record."""

    kind: str
    who: str
    at: str
    parts: list[_Part]


def markdown(session_id: str, records: Sequence[Record]) -> str:
    """Return a page of Markdown."""
    lines = [f"# {_inline(_clean(session_id))}", ""]
    for shown in map(_shown, records):
        lines += [f"## {_inline(shown.who)}" + (f" · {shown.at}" if shown.at else ""), ""]
        for part in shown.parts:
            if part.kind:
                lines += [f"{_inline(part.kind)}:", "", *_fenced(part.text), ""]
            else:
                lines += [*(f"> {line}".rstrip() for line in _without_html(part.text)), ""]
    return "\n".join(lines)


def html(session_id: str, records: Sequence[Record]) -> str:
    """Return a page of HTML that stands alone."""
    title = _html.escape(_clean(session_id))
    body = "\n".join(_article(_shown(record)) for record in records)
    return _PAGE.format(title=title, style=_STYLE, body=body)


def piece(title: str, note: str, records: Sequence[Record]) -> str:
    """Return HTML for the output of a notebook's cell: calls and data are folded, and long texts are cut.

    Colours are mixtures with that of the notebook's text, so they suit dark themes too.
    """
    articles = [_article(_cut(_shown(record)), is_open=False) for record in records]
    return _framed(title, note, articles)


def table(title: str, note: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table for the output of a notebook's cell; `None` in a row is an empty cell."""
    cells = [["" if cell is None else _html.escape(_clean(str(cell))) for cell in row] for row in rows]
    lines = [
        "<table><thead><tr>" + "".join(f"<th>{_html.escape(name)}</th>" for name in head) + "</tr></thead><tbody>",
        *("<tr>" + "".join(f'<td dir="auto">{cell}</td>' for cell in row) + "</tr>" for row in cells),
        "</tbody></table>",
    ]
    return _framed(title, note, lines if rows else [])


def _framed(title: str, note: str, lines: Sequence[str]) -> str:
    said = [f'<p class="note">{_html.escape(_clean(text))}</p>' for text in (title, note) if text]
    return "\n".join([f'<div class="lh-piece"><style>{_STYLE_OF_PIECES}</style>', *said, *lines, "</div>"])


def _cut(shown: _Shown) -> _Shown:
    """Cut long texts: a notebook keeps its outputs."""
    parts = [
        part._replace(text=f"{part.text[:_LONGEST_IN_PIECE]}… ({len(part.text):,} characters)")
        if len(part.text) > _LONGEST_IN_PIECE
        else part
        for part in shown.parts
    ]
    return shown._replace(parts=parts)


def _shown(record: Record) -> _Shown:
    fields = plain_fields(record.message)
    kind = record.message.type if record.message.type in _NAMES else "chat"
    who = _NAMES.get(kind) or str(plain(getattr(record.message, "role", "") or record.message.type))
    if fields.get("name"):
        who += f" ({fields['name']})"
    if isinstance(record.message, ToolMessage) and record.message.status == "error":
        who += ": error"
    at = "" if record.at is None else f"{record.at:%Y-%m-%d %H:%M:%S} UTC"
    parts = [*_parts(fields["content"]), *(_calls(fields) if isinstance(record.message, AIMessage) else ())]
    return _Shown(kind, _clean(who), at, [_Part(_clean(part.kind), _clean(part.text)) for part in parts if part.text])


def _parts(content: Any) -> Iterator[_Part]:
    for block in [content] if isinstance(content, str) else content:
        if isinstance(block, str):
            yield _Part("", block)
        elif block.get("type") == "text" and isinstance(block.get("text"), str):
            yield _Part("", block["text"])
        else:
            text = json.dumps(block, ensure_ascii=False, indent=2)
            more = f"… ({len(text):,} characters)" if len(text) > _LONGEST else ""
            yield _Part(str(block.get("type") or "data"), text[: 200 if more else None] + more)


def _calls(fields: dict[str, Any]) -> Iterator[_Part]:
    for call in fields["tool_calls"]:
        yield _Part(f"call of {call['name']}", json.dumps(call["args"], ensure_ascii=False, indent=2))
    for call in fields["invalid_tool_calls"]:
        yield _Part(f"invalid call of {call['name']}", call["args"] or "…")


def _clean(text: str) -> str:
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", plain(text))


# Markdown.


def _inline(text: str) -> str:
    """Return a text as a line of Markdown that shows it."""
    return re.sub(r"([\\`*_{}\[\]<>()#+\-.!|~&$])", r"\\\1", " ".join(_NEW_LINE.split(text)))


def _fenced(text: str) -> list[str]:
    """Return a text as a block of code, whatever fences are in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *_NEW_LINE.split(text), fence]


def _without_html(text: str) -> Iterator[str]:
    """Walk the lines of Markdown, HTML in them as text; a block of code at the start of a line stays as it is.

    Only there a block cannot end with a list that it is in, so this and a reader see the same lines as code.
    """
    fence = ""
    for line in _NEW_LINE.split(text):
        if fence:
            yield line
            closes = re.fullmatch(r" {0,3}(`{3,}|~{3,})[ \t]*", line)
            if closes and closes[1][0] == fence[0] and len(closes[1]) >= len(fence):
                fence = ""
            continue
        opens = re.match(r"(`{3,})[^`]*$|(~{3,})", line)
        fence = (opens[1] or opens[2]) if opens else ""
        yield re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line)
    if fence:
        yield fence


# HTML.

_STYLE = """
:root { color-scheme: light dark; --line: #d0d7de; --soft: #f6f8fa; --ai: #eef4ff; --quiet: #57606a; }
@media (prefers-color-scheme: dark) {
  :root { --line: #3d444d; --soft: #161b22; --ai: #121d2f; --quiet: #9198a1; }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; }
article { border: 1px solid var(--line); border-radius: 8px; margin: 1rem 0; padding: .6rem 1rem; }
article.ai { background: var(--ai); }
article.system, article.tool, article.function { background: var(--soft); }
header, summary { color: var(--quiet); font-size: .85rem; }
header { display: flex; justify-content: space-between; gap: 1rem; flex-wrap: wrap; }
h2 { font-size: .85rem; margin: 0; }
p, pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .5rem 0; }
pre { font: .85rem/1.45 ui-monospace, monospace; }
@media print { body { max-width: none; margin: 0; } article { break-inside: avoid; } }
""".strip()

_STYLE_OF_PIECES = """
.lh-piece { max-width: 48rem; --line: color-mix(in srgb, currentColor 20%, transparent); }
.lh-piece article { border: 1px solid var(--line); border-radius: 6px; margin: .4rem 0; padding: .3rem .7rem; }
.lh-piece article.ai { background: color-mix(in srgb, #2f81f7 10%, transparent); }
.lh-piece article:is(.system, .tool, .function) { background: color-mix(in srgb, currentColor 6%, transparent); }
.lh-piece header { display: flex; justify-content: space-between; gap: 1rem; flex-wrap: wrap; }
.lh-piece :is(header, summary, .note) { opacity: .75; font-size: .85em; }
.lh-piece h2 { font-size: 1em; margin: 0; }
.lh-piece :is(p, pre) { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; }
.lh-piece table { border-collapse: collapse; }
.lh-piece :is(th, td) { text-align: start; padding: .2rem .7rem; border-bottom: 1px solid var(--line); }
""".strip()

_PAGE = """<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
<h1 dir="auto">{title}</h1>
{body}
</main>
</body>
</html>
"""


def _article(shown: _Shown, *, is_open: bool = True) -> str:
    escape = _html.escape
    when = f"<time>{escape(shown.at)}</time>" if shown.at else ""
    lines = [
        f'<article class="{shown.kind}">',
        f'<header><h2 dir="auto">{escape(shown.who)}</h2>{when}</header>',
    ]
    for part in shown.parts:
        # A line break behind the tag of `pre` is not a part of its text.
        if part.kind:
            kind = f'<summary dir="auto">{escape(part.kind)}</summary>'
            lines.append(
                f'<details{" open" if is_open else ""}>{kind}<pre dir="auto">\n{escape(part.text)}</pre></details>'
            )
        else:
            lines.append(f'<p dir="auto">{escape(part.text)}</p>')
    return "\n".join([*lines, "</article>"])
