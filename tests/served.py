"""An application as gunicorn's preload has it: the master has used the stores, and its workers serve chains over them.

`app` is for gunicorn's own workers, `asgi_app` for uvicorn's. A request is `POST /STORE/SESSION` with the text of the
human; `HISTORIES` in the environment is the registry's table of histories.
"""

from __future__ import annotations

import json
import os

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_histories import HistoryRegistry

HISTORIES = json.loads(os.environ["HISTORIES"])
registry = HistoryRegistry.from_config({"default": next(iter(HISTORIES)), "histories": HISTORIES})
chains = {
    name: RunnableWithMessageHistory(
        RunnableLambda(lambda turn: AIMessage(f"{turn['question']}!")),
        registry.factory(name),
        input_messages_key="question",
        history_messages_key="history",
    )
    for name in HISTORIES
}
for name in HISTORIES:
    chains[name].invoke({"question": "master"}, {"configurable": {"session_id": "master"}})


def _call(path, body):
    store, session_id = path.strip("/").split("/")
    return store, {"question": body.decode()}, {"configurable": {"session_id": session_id}}


def app(environ, start_response):
    """Answer with a chain's answer."""
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    store, turn, config = _call(environ["PATH_INFO"], body)
    answer = chains[store].invoke(turn, config).content.encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]


async def asgi_app(scope, receive, send):
    """The same on an event loop."""
    if scope["type"] != "http":
        return
    body = b""
    while (event := await receive())["type"] == "http.request":
        body += event["body"]
        if not event.get("more_body"):
            break
    store, turn, config = _call(scope["path"], body)
    answer = (await chains[store].ainvoke(turn, config)).content.encode()
    headers = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
