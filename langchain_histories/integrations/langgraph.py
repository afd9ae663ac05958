"""Threads of LangGraph to histories and back, and nodes for hand-written graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from langchain_histories.errors import ConfigurationError, needs_extra
from langchain_histories.integrations._messages import as_messages, atranscript, not_stored, transcript, with_ids
from langchain_histories.integrations._sessions import SessionHistories, Sessions
from langchain_histories.views._repairs import without_stand_ins

with needs_extra("langgraph"):
    from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
    from langgraph.graph import END, START
    from langgraph.types import Overwrite, StateSnapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

    from langchain_core.runnables import ConfigurableFieldSpec
    from langgraph.pregel.protocol import PregelProtocol

    from langchain_histories._compat import BaseChatMessageHistory

    Graph = PregelProtocol[Any, Any, Any, Any]
    Source = Graph | BaseCheckpointSaver[Any]
    Thread = RunnableConfig | str
    State = StateSnapshot | CheckpointTuple
    Specs = Sequence[ConfigurableFieldSpec]

_PAGE = 20  # states read at once; each holds all messages of its moment


def import_thread(
    source: Source, config_or_thread_id: Thread, history: BaseChatMessageHistory, *, messages_key: str = "messages"
) -> int:
    """Add to the end of a history, as one batch, the messages of a thread that the history lacks.

    All states of the thread are read, so every message is imported: also those that `SummarizationMiddleware` or a
    `RemoveMessage` removed, and those on a branch that was left; but no summaries. A message that was replaced under
    its id is imported in its newest form. A message that the history has stays as it is, so a second call adds nothing.

    Args:
        source: A compiled graph with its checkpointer, or a checkpointer (a `DeltaChannel` needs the graph).
        config_or_thread_id: The thread; a `checkpoint_id` is ignored.
        history: Any of ours or LangChain's.
        messages_key: Name of the messages in the state.

    Returns:
        How many messages were added; 0 also where there is no such thread or no such name in its state.

    Raises:
        ConfigurationError: The source is neither, names no thread, or has messages that cannot be read.
    """
    thread, said = _thread(config_or_thread_id, source), dict[str, BaseMessage]()
    for state in _states(source, thread):
        said = _merge(_said(state, thread, messages_key), said)
    if new := not_stored(said.values(), transcript(history)):
        history.add_messages(new)
    return len(new)


async def aimport_thread(
    source: Source, config_or_thread_id: Thread, history: BaseChatMessageHistory, *, messages_key: str = "messages"
) -> int:
    """Async `import_thread`."""
    thread, said = _thread(config_or_thread_id, source), dict[str, BaseMessage]()
    async for state in _astates(source, thread):
        said = _merge(_said(state, thread, messages_key), said)
    if new := not_stored(said.values(), await atranscript(history)):
        await history.aadd_messages(new)
    return len(new)


def seed_thread(
    graph: Graph, config: Thread, history: BaseChatMessageHistory, *, messages_key: str = "messages"
) -> int:
    """Begin an empty thread with the messages of a history, as if their turns had been run there.

    Args:
        graph: A compiled graph with its checkpointer.
        config: The thread.
        history: The messages that it shows are put in: of a window, the window.
        messages_key: Name of the messages in the state.

    Returns:
        How many messages were put in.

    Raises:
        ConfigurationError: The thread is not empty, or none is named. Nothing was written.
    """
    thread = _thread(config, graph)
    _check_empty(graph.get_state(thread), thread)
    if messages := with_ids(history.messages):
        graph.update_state(thread, {messages_key: messages}, as_node=START)
        graph.update_state(thread, None, as_node=END)  # or the graph would go on and answer the last message
    return len(messages)


async def aseed_thread(
    graph: Graph, config: Thread, history: BaseChatMessageHistory, *, messages_key: str = "messages"
) -> int:
    """Async `seed_thread`."""
    thread = _thread(config, graph)
    _check_empty(await graph.aget_state(thread), thread)
    if messages := with_ids(await history.aget_messages()):
        await graph.aupdate_state(thread, {messages_key: messages}, as_node=START)
        await graph.aupdate_state(thread, None, as_node=END)
    return len(messages)


def load_history_node(
    get_session_history: SessionHistories,
    *,
    messages_key: str = "messages",
    history_factory_config: Specs | None = None,
) -> Runnable[Any, dict[str, Any]]:
    """Return a node, the first of a graph, that puts a history before the messages of the turn.

    Where the thread has some messages of the history already, the others are put between them, in order.

    Args:
        get_session_history: Returns the history of a session, as for `RunnableWithHistory`; or a registry.
        messages_key: Name of the messages in the state; their reducer must be `add_messages`.
        history_factory_config: Keys of `config["configurable"]` that name a session. The default is `session_id`; a
            config without it may have a `thread_id` instead.

    Returns:
        The node, for `add_node`. It raises `ConfigurationError` if the config names no session, or if the state has no
        messages of this name.

    Raises:
        ConfigurationError: An argument cannot be used.
    """
    sessions = Sessions(get_session_history, history_factory_config)

    def load(state: Any, config: RunnableConfig) -> dict[str, Any]:
        messages = _messages_in(state, messages_key)
        return _update(sessions.open(sessions.named(config)).messages, messages, messages_key)

    async def aload(state: Any, config: RunnableConfig) -> dict[str, Any]:
        messages = _messages_in(state, messages_key)
        history = await sessions.aopen(sessions.named(config))
        return _update(await history.aget_messages(), messages, messages_key)

    return RunnableLambda(load, aload, name="load_history")


def save_history_node(
    get_session_history: SessionHistories,
    *,
    messages_key: str = "messages",
    history_factory_config: Specs | None = None,
) -> Runnable[Any, dict[str, Any]]:
    """Return a node that adds to the end of a history, as one batch, the messages of the state that it lacks.

    The node may run several times in a turn. Summaries are left out. The error of a failed save is raised. The
    arguments are those of `load_history_node`.
    """
    sessions = Sessions(get_session_history, history_factory_config)

    def save(state: Any, config: RunnableConfig) -> dict[str, Any]:
        messages, history = _messages_in(state, messages_key), sessions.open(sessions.named(config))
        if new := not_stored(messages, transcript(history, since=messages)):
            history.add_messages(new)
        return {}

    async def asave(state: Any, config: RunnableConfig) -> dict[str, Any]:
        messages, history = _messages_in(state, messages_key), await sessions.aopen(sessions.named(config))
        if new := not_stored(messages, await atranscript(history, since=messages)):
            await history.aadd_messages(new)
        return {}

    return RunnableLambda(save, asave, name="save_history")


def _thread(config_or_thread_id: Thread, source: object) -> RunnableConfig:
    """Return the config that stands for all states of a thread, but not for those of its subgraphs."""
    if not isinstance(source, BaseCheckpointSaver) and not hasattr(source, "get_state_history"):
        raise ConfigurationError(f"A thread is in a compiled graph or a checkpointer, not in {type(source).__name__}.")
    config: RunnableConfig = {} if isinstance(config_or_thread_id, str) else config_or_thread_id
    given = config.get("configurable", {"thread_id": config_or_thread_id})
    if not given.get("thread_id"):
        raise ConfigurationError('No thread is named: pass its id, or {"configurable": {"thread_id": ...}}.')
    rest = {key: value for key, value in given.items() if key != "checkpoint_id"}
    return {**config, "configurable": {"checkpoint_ns": "", **rest}}


def _states(source: Source, thread: RunnableConfig) -> Iterator[State]:
    """Yield the states of a thread, newest first."""
    states: Any = source.list if isinstance(source, BaseCheckpointSaver) else source.get_state_history
    before = None
    while page := list(states(thread, before=before, limit=_PAGE)):
        yield from page
        before = page[-1].config


async def _astates(source: Source, thread: RunnableConfig) -> AsyncIterator[State]:
    states: Any = source.alist if isinstance(source, BaseCheckpointSaver) else source.aget_state_history
    before = None
    while page := [state async for state in states(thread, before=before, limit=_PAGE)]:
        for state in page:
            yield state
        before = page[-1].config


def _said(state: State, thread: RunnableConfig, key: str) -> dict[Any, BaseMessage]:
    """Return the messages of one state, by id."""
    name = str(thread["configurable"]["thread_id"])
    if isinstance(state, CheckpointTuple):
        values: dict[str, Any] = state.checkpoint["channel_values"]
        if key in state.checkpoint["channel_versions"] and not isinstance(values.get(key), list):
            raise ConfigurationError(f"The checkpointer keeps only changes of {key!r}: import {name!r} from the graph.")
    else:
        values = state.values
    return _by_id(with_ids(as_messages(values.get(key) or []), name))


def _check_empty(state: StateSnapshot, thread: RunnableConfig) -> None:
    if state.values or state.next:
        raise ConfigurationError(f"The thread {thread['configurable']['thread_id']!r} is not empty: seed a new one.")


def _update(history: list[BaseMessage], messages: list[BaseMessage], key: str) -> dict[str, Any]:
    """Return the update of the state: an `Overwrite`, because a graph streams messages of other updates as new ones."""
    given = _by_id(messages)
    merged = _merge(_by_id(with_ids(history)), given)
    return {} if merged is given else {key: Overwrite(without_stand_ins(merged.values(), messages))}


def _messages_in(state: Any, key: str) -> list[BaseMessage]:
    value = state.get(key) if isinstance(state, dict) else getattr(state, key, None)
    if value is None:
        raise ConfigurationError(f"The state has no {key!r}: give messages_key the name of its messages.")
    messages = as_messages(value)
    if not all(message.id for message in messages):
        raise ConfigurationError(f"Messages of {key!r} have no ids: give it the reducer add_messages in the state.")
    return messages


def _by_id(messages: Iterable[BaseMessage]) -> dict[Any, BaseMessage]:
    return {message.id: message for message in messages}


def _merge(older: dict[Any, BaseMessage], newer: dict[Any, BaseMessage]) -> dict[Any, BaseMessage]:
    """Add to `newer` each message that only `older` has, behind the message that it followed there, or first."""
    if older.keys() <= newer.keys():
        return newer
    followers: dict[Any, list[Any]] = {None: []}
    before = None
    for key in older:
        if key in newer:
            before = key
        else:
            followers.setdefault(before, []).append(key)
    order = [*followers[None], *(key for known in newer for key in (known, *followers.get(known, [])))]
    return {key: newer.get(key) or older[key] for key in order}
