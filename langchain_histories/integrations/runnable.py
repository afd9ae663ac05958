"""`RunnableWithHistory`: a chain, a model or a graph that remembers its sessions."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import operator
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.utils import message_chunk_to_message
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import patch_config
from langchain_core.runnables.utils import get_unique_config_specs
from pydantic import BaseModel, RootModel, create_model

from langchain_histories.errors import ConfigurationError, HistoryError
from langchain_histories.integrations._messages import (
    as_messages,
    atranscript,
    complete_steps,
    is_summary,
    not_stored,
    shows_all,
    transcript,
    with_id,
    with_ids,
)
from langchain_histories.integrations._sessions import (
    RunSession,
    SessionHistories,
    Sessions,
    check_option,
    report_unsaved,
)
from langchain_histories.views._repairs import without_stand_ins


@dataclass(frozen=True)
class _Turn:
    """One turn.

    Attributes:
        session: The session.
        history: Its history.
        config: The config for the runnable.
        value: The input for the runnable.
        new: Messages of the input that are not stored yet.
        known: Ids of all messages that were shown to the runnable.
    """

    session: RunSession
    history: Any
    config: RunnableConfig
    value: Any
    new: list[BaseMessage]
    known: set[str | None]


class _Streamed:
    """The chunks of a stream."""

    def __init__(self, kwargs: dict[str, Any]) -> None:
        self.kwargs = kwargs
        self._chunks: list[Any] = []

    def take(self, chunk: Any) -> tuple[Any, ...]:
        """Keep a chunk; return the chunks for the caller."""
        self._chunks.append(chunk)
        return (chunk,)

    def output(self) -> Any:
        """Return the sum of the chunks; the last one, as elsewhere in LangChain, where they cannot be added."""
        try:
            return functools.reduce(operator.add, self._chunks) if self._chunks else []
        except TypeError:
            return self._chunks[-1]


class _StreamedGraph(_Streamed):
    """The chunks of a graph's stream. Its output is the last state, in a mode added to those that the caller wants."""

    def __init__(self, kwargs: dict[str, Any], default: str | Sequence[str]) -> None:
        modes = kwargs.get("stream_mode") or default
        self._modes = [modes] if isinstance(modes, str) else list(modes)
        self._has_mode = isinstance(modes, list)  # with a list a graph names the mode in each chunk, with a tuple not
        super().__init__({**kwargs, "stream_mode": list(dict.fromkeys([*self._modes, "values"]))})

    def take(self, chunk: Any) -> tuple[Any, ...]:
        if isinstance(chunk, dict):  # version="v2"
            namespace, mode, data = chunk["ns"], chunk["type"], chunk["data"]
        else:
            *spaces, mode, data = chunk
            namespace = spaces[0] if spaces else ()
            if not self._has_mode:
                chunk = (*spaces, data) if spaces else data
        if mode == "values" and not namespace and not (isinstance(data, dict) and data.keys() == {"__interrupt__"}):
            self._chunks = [data]
        return (chunk,) if mode in self._modes else ()


class RunnableWithHistory(Runnable[Any, Any]):
    """Gives a runnable the earlier messages of a session, and stores the new ones.

    It takes the place of LangChain's `RunnableWithMessageHistory`: a program changes the name. Each turn is one read
    and one append, so turns that run at once on a session keep all their messages. An output may repeat its input, or
    be the whole state of a graph: new messages are told by their ids, and a message without an id is given one.

    Input and output are text, a message, a list of messages or of texts, tuples and dicts that stand for messages, a
    prompt value, or a dict with one of these. The runnable finds the history in its config, as
    `configurable["message_history"]`. A graph may be streamed in all its modes. To answer its interrupts, call the
    graph without this class.

    Args:
        runnable: A model, a chain, an agent, a graph.
        get_session_history: Returns the history of a session, given the values of `history_factory_config` from the
            config: one by position, several by name. It may be async; then only the async methods work. A
            `HistoryRegistry` stands for its method of this name.
        input_messages_key: The key of the messages in an input that is a dict. Without it the messages under the only
            key, or under `input`, take the place of the dict.
        output_messages_key: The key of the messages in an output that is a dict. Without it they are under the only
            key, or under `output`.
        output_messages: A function of the output that returns what is stored of it: text, a message, a list. It is for
            outputs that hold no messages, such as a structured answer.
        history_messages_key: The key of the input dict that the history is put under. Without it the history is put
            before the new messages.
        history_factory_config: Keys of `config["configurable"]` that name a session. The default is `session_id`; a
            config without it may have a `thread_id` instead.
        on_turn_error: What is done when a turn fails or is cancelled: `"discard"` stores nothing of it, `"input"`
            stores the messages of its input.
        on_save_error: What is done when a turn cannot be stored, or its output holds no messages: `"raise"` raises the
            error, `"warn"` logs it and returns the output. If the turn itself failed too, the error of the turn is
            raised, with a note about the other one, which is logged.
        save_partial_stream: Whether a stream that fails or is closed early stores its input and the part of the answer
            that came, marked by `response_metadata["partial"]`; of a graph, the messages of complete steps.

    Raises:
        ConfigurationError: An option cannot be used, or a key of the config, the input or the output is missing.
        InvalidMessageError: An input or output does not hold messages.
    """

    def __init__(
        self,
        runnable: Runnable[Any, Any],
        get_session_history: SessionHistories,
        *,
        input_messages_key: str | None = None,
        output_messages_key: str | None = None,
        output_messages: Callable[[Any], Any] | None = None,
        history_messages_key: str | None = None,
        history_factory_config: Sequence[ConfigurableFieldSpec] | None = None,
        on_turn_error: Literal["discard", "input"] = "discard",
        on_save_error: Literal["raise", "warn"] = "raise",
        save_partial_stream: bool = False,
    ) -> None:
        """Keep the runnable, the factory and the options."""
        check_option("on_turn_error", on_turn_error, "discard", "input")
        check_option("on_save_error", on_save_error, "raise", "warn")
        self.bound = runnable
        self._sessions = Sessions(get_session_history, history_factory_config)
        self.input_messages_key = input_messages_key
        self.output_messages_key = output_messages_key
        self.output_messages = output_messages
        self.history_messages_key = history_messages_key
        self.on_turn_error = on_turn_error
        self.on_save_error = on_save_error
        self.save_partial_stream = save_partial_stream

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """The config fields of the runnable, and those that name a session."""
        return get_unique_config_specs([*self.bound.config_specs, *self._sessions.specs])

    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:  # noqa: ARG002
        """Return a model of the input: new messages, under `input_messages_key` if that is set."""
        messages: Any = str | BaseMessage | Sequence[BaseMessage]
        if not self.input_messages_key:
            return create_model("RunnableWithHistoryInput", __base__=RootModel[messages])
        fields: Any = {self.input_messages_key: (messages, ...)}
        return create_model("RunnableWithHistoryInput", **fields)

    def get_output_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """Return the output model of the runnable."""
        return self.bound.get_output_schema(config)  # type: ignore[return-value]  # no runnable has a v1 model

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Run a turn and store it."""
        return self._call_with_config(functools.partial(self._invoke, **kwargs), input, config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Async `invoke`."""
        return await self._acall_with_config(functools.partial(self._ainvoke, **kwargs), input, config)

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:  # noqa: A002
        """Run a turn, pass on its chunks as they come, and store it at the end."""
        return self._transform_stream_with_config(iter([input]), functools.partial(self._stream, **kwargs), config)

    def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:  # noqa: A002
        """Async `stream`. Close it (`contextlib.aclosing`) where you leave it early."""
        return self._atransform_stream_with_config(_one(input), functools.partial(self._astream, **kwargs), config)

    def _invoke(self, value: Any, config: RunnableConfig, **kwargs: Any) -> Any:
        turn = self._begin(value, config)
        try:
            output = self.bound.invoke(turn.value, turn.config, **kwargs)
            messages = self._stored_messages(turn, output)
        except BaseException as error:
            self._save(turn, self._unfinished(turn), error)
            raise
        self._save(turn, messages)
        return output

    async def _ainvoke(self, value: Any, config: RunnableConfig, **kwargs: Any) -> Any:
        turn = await self._abegin(value, config)
        try:
            output = await self.bound.ainvoke(turn.value, turn.config, **kwargs)
            messages = self._stored_messages(turn, output)
        except BaseException as error:
            await self._asave(turn, self._unfinished(turn), error)
            raise
        await self._asave(turn, messages)
        return output

    def _stream(self, values: Iterator[Any], config: RunnableConfig, **kwargs: Any) -> Iterator[Any]:
        turn = self._begin(next(values), config)
        streamed = self._streamed(kwargs)
        try:
            for chunk in self.bound.stream(turn.value, turn.config, **streamed.kwargs):
                yield from streamed.take(chunk)
            messages = self._stored_messages(turn, streamed.output())
        except BaseException as error:  # GeneratorExit, when the caller leaves the stream
            self._save(turn, self._unfinished(turn, streamed), error)
            raise
        self._save(turn, messages)

    async def _astream(self, values: AsyncIterator[Any], config: RunnableConfig, **kwargs: Any) -> AsyncIterator[Any]:
        turn = await self._abegin(await anext(values), config)
        streamed = self._streamed(kwargs)
        try:
            chunks: Any = self.bound.astream(turn.value, turn.config, **streamed.kwargs)
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    for shown in streamed.take(chunk):
                        yield shown
            messages = self._stored_messages(turn, streamed.output())
        except BaseException as error:  # GeneratorExit, when the caller leaves the stream
            await self._asave(turn, self._unfinished(turn, streamed), error)
            raise
        await self._asave(turn, messages)

    def _begin(self, value: Any, config: RunnableConfig) -> _Turn:
        session = self._sessions.named(config)
        history = self._sessions.open(session)
        return self._turn(value, history.messages, session, history, config)

    async def _abegin(self, value: Any, config: RunnableConfig) -> _Turn:
        session = self._sessions.named(config)
        history = await self._sessions.aopen(session)
        return self._turn(value, await history.aget_messages(), session, history, config)

    def _turn(
        self, value: Any, shown: Iterable[BaseMessage], session: RunSession, history: Any, config: RunnableConfig
    ) -> _Turn:
        """Put history and input together for the runnable."""
        key, given = None, value
        if isinstance(value, dict):
            key = _key(value, self.input_messages_key, "input", "input_messages_key")
            given = value[key]
        elif self.input_messages_key or self.history_messages_key:
            raise ConfigurationError(f"With a messages key the input must be a dict, not {type(value).__name__}.")
        messages = [with_id(message) for message in as_messages(given)]
        known = with_ids(shown)
        sent, stored = {message.id for message in messages}, {message.id for message in known}
        earlier = [message for message in known if message.id not in sent]  # a client may send the whole conversation
        earlier = without_stand_ins(earlier, messages)
        if self.history_messages_key:
            one = given if isinstance(given, str) else messages[0] if isinstance(given, BaseMessage) else messages
            value = {**value, key: one, self.history_messages_key: earlier}
        else:
            value = {**value, key: earlier + messages} if self.input_messages_key else earlier + messages
        new = [message for message in messages if message.id not in stored and not is_summary(message)]
        config = patch_config(config, configurable={"message_history": history})
        return _Turn(session, history, config, value, new, {message.id for message in [*known, *messages]})

    def _messages_of(self, turn: _Turn, output: Any) -> list[BaseMessage]:
        """Return the new messages of a turn: those of its input, then those of its output."""
        if self.output_messages is not None:
            output = self.output_messages(output)
        elif isinstance(output, dict) and not (
            self.output_messages_key is None and {"role", "content"} <= output.keys()
        ):
            output = output[_key(output, self.output_messages_key, "output", "output_messages_key")]
        messages = as_messages([output] if isinstance(output, dict) else output, AIMessage)
        before: list[BaseMessage] = []
        if not isinstance(output, str | BaseMessage):  # a list may repeat what is known
            # Messages between the known ones and the question were said in the thread of a graph without this class,
            # such as by a resumed run. Messages before the known ones come from a template, or are hidden by a view.
            asked = {message.id for message in turn.new}
            ids = [message.id for message in messages]
            start = next((n for n, id_ in enumerate(ids) if id_ in turn.known and id_ not in asked), len(ids))
            end = next((n for n, id_ in enumerate(ids) if id_ in asked), 0)
            if not shows_all(turn.history):
                start = 0
            before = [message for message in messages[start:end] if self._is_new(turn, message)]
            rest = messages[:start] + messages[max(start, end) :]
            messages = [message for message in rest if self._is_new(turn, message)]
        return [*map(message_chunk_to_message, before), *turn.new, *map(message_chunk_to_message, messages)]

    def _stored_messages(self, turn: _Turn, output: Any) -> list[BaseMessage]:
        """Return what is stored of a turn that came to its end: nothing, where that cannot be told and is logged."""
        try:
            return self._messages_of(turn, output)
        except Exception as error:
            if self.on_save_error == "raise":
                raise
            report_unsaved(turn.history, turn.session, len(turn.new), error)
            return []

    @staticmethod
    def _is_new(turn: _Turn, message: BaseMessage) -> bool:
        return message.id not in turn.known and not is_summary(message)

    def _unfinished(self, turn: _Turn, streamed: _Streamed | None = None) -> list[BaseMessage]:
        """Return the messages to store of a turn that did not come to its end."""
        if streamed is None or not self.save_partial_stream:
            return turn.new if self.on_turn_error == "input" else []
        try:
            new = {message.id for message in turn.new}
            arrived = self._messages_of(turn, streamed.output())
            messages = list(complete_steps([message for message in arrived if message.id not in new]))
        except HistoryError:  # the chunk with the messages has not come yet
            messages = []
        if messages and not isinstance(streamed, _StreamedGraph):
            last = messages.pop()
            if last.content and not getattr(last, "invalid_tool_calls", None):  # a call that was cut off is invalid
                mark = {**last.response_metadata, "partial": True}
                messages.append(last.model_copy(update={"response_metadata": mark}))
        return turn.new + messages

    def _save(self, turn: _Turn, messages: list[BaseMessage], failure: BaseException | None = None) -> None:
        try:
            if messages and _may_be_stored(turn, messages):
                messages = not_stored(messages, transcript(turn.history, since=messages))
            if messages:
                turn.history.add_messages(messages)
        except Exception as error:  # noqa: BLE001 - raised again, or reported
            self._report(turn, len(messages), error, failure)

    async def _asave(self, turn: _Turn, messages: list[BaseMessage], failure: BaseException | None = None) -> None:
        """Async `_save`. It saves to the end, however often the caller is cancelled meanwhile."""
        if not messages:
            return
        cancelled = None
        saving = asyncio.ensure_future(_aadd(turn, messages))
        while not saving.done():
            try:
                await asyncio.wait([saving])
            except asyncio.CancelledError as error:
                cancelled = error
        try:
            saving.result()
        except Exception as error:  # noqa: BLE001 - raised again, or reported
            self._report(turn, len(messages), error, failure or cancelled)
        if cancelled is not None:
            raise cancelled

    def _report(self, turn: _Turn, count: int, error: Exception, failure: BaseException | None) -> None:
        if failure is None and self.on_save_error == "raise":
            raise error
        line = report_unsaved(turn.history, turn.session, count, error)
        if failure is not None:
            failure.add_note(line)

    def _streamed(self, kwargs: dict[str, Any]) -> _Streamed:
        runnable = self.bound
        while isinstance(runnable, RunnableBindingBase):
            kwargs = {**runnable.kwargs, **kwargs}
            runnable = runnable.bound
        if "stream_mode" in inspect.signature(runnable.stream).parameters:  # a LangGraph graph, here or remote
            return _StreamedGraph(kwargs, getattr(runnable, "stream_mode", "updates"))
        return _Streamed(kwargs)


def _may_be_stored(turn: _Turn, messages: Sequence[BaseMessage]) -> bool:
    """Whether some messages may be stored already: the history does not show all, and they are not just one turn."""
    return not shows_all(turn.history) and (len(turn.new) != 1 or messages[0].id != turn.new[0].id)


async def _aadd(turn: _Turn, messages: list[BaseMessage]) -> None:
    if _may_be_stored(turn, messages):
        messages = not_stored(messages, await atranscript(turn.history, since=messages))
    if messages:
        await turn.history.aadd_messages(messages)


async def _one(value: Any) -> AsyncIterator[Any]:
    yield value


def _key(value: dict[str, Any], key: str | None, default: str, option: str) -> str:
    key = key or (next(iter(value)) if len(value) == 1 else default)
    if key not in value:
        raise ConfigurationError(f"There is no {key!r} in a dict with {', '.join(map(str, value))}: set {option}.")
    return key
