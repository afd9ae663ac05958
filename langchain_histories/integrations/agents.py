"""Chat histories for the agents of LangChain 1.x."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

from langchain_histories.errors import ConfigurationError, needs_extra
from langchain_histories.integrations._agent_turns import Ticket, Turn
from langchain_histories.integrations._messages import atranscript, not_stored, shows_all, transcript
from langchain_histories.integrations._sessions import RunSession, SessionHistories, Sessions, check_option

with needs_extra("agents"):
    from langchain.agents.middleware import AgentMiddleware, AgentState
    from langchain.agents.middleware.types import PrivateStateAttr
    from langgraph.channels.untracked_value import UntrackedValue
    from langgraph.config import get_config

if TYPE_CHECKING:
    from langchain.agents.middleware import ModelRequest
    from langchain.agents.middleware.types import ModelResponse, ToolCallRequest
    from langchain_core.messages import BaseMessage, ToolMessage
    from langchain_core.runnables import ConfigurableFieldSpec
    from langgraph.runtime import Runtime
    from langgraph.types import Command

    Update = dict[str, Any] | None

_open_sessions: ContextVar[frozenset[str]] = ContextVar("open_sessions", default=frozenset())


class _State(AgentState[Any]):
    chat_history_turn: NotRequired[Annotated[Any, UntrackedValue, PrivateStateAttr]]


class ChatHistoryMiddleware(AgentMiddleware[_State, Any]):
    """Gives an agent of `create_agent` the history of its session, and keeps what is said in it.

    The history is read once a turn, and each call of the model gets it before the messages of the turn; the state of
    the agent stays as it is. A message is stored once, known by its id. The model is shown an answer to each tool call
    that has none, because providers refuse calls without an answer; the stored messages stay as they are. Where a tool
    calls an agent in the same session, take `ToolAwareChatHistoryMiddleware`, which leaves that agent out.

    Put this middleware first, so that no other one summarizes messages before it has seen them, but behind middleware
    that redacts them. With a checkpointer use a new `thread_id` for each turn: otherwise the thread keeps the
    conversation a second time, and messages that were cleared in the history but not in the thread are stored again.

    Args:
        get_session_history: Returns the history of a session, as for `RunnableWithHistory`; or a registry. An async
            function serves the async methods of the agent only.
        history_factory_config: Keys of `config["configurable"]` that name a session. The default is `session_id`; a
            config without it may have a `thread_id` instead. `USER_SESSION_CONFIG` is for the sessions of users.
        save: `"step"` stores the user's message before the model is called, and tool calls with their results when
            these are complete. `"turn"` stores a whole turn when it has ended, and no turn that failed.
        on_save_error: What is done when messages cannot be saved: `"raise"` raises the error, `"warn"` logs session and
            count and tries again at the next step. A failed read is always raised.
        serialize: What a turn does while another one of its session is under way in this process: go on, wait, or
            raise `SessionBusyError`. A turn has the session until it ends, fails or is cancelled. An agent that was
            interrupted, that failed outside of models, or whose stream was abandoned, tells nobody; it
            releases the session when Python drops the run, or after 30 seconds without a sign of life (10 minutes
            while tools may run). A resumed run does not wait for the run that it resumes.

    Raises:
        ConfigurationError: An option cannot be used; from a run: the config names no session.
        SessionBusyError: From a run, with `serialize="reject"`.
        StoreError: From a run: the history cannot be read or saved.
    """

    state_schema = _State

    def __init__(
        self,
        get_session_history: SessionHistories,
        *,
        history_factory_config: Sequence[ConfigurableFieldSpec] | None = None,
        save: Literal["step", "turn"] = "step",
        on_save_error: Literal["raise", "warn"] = "raise",
        serialize: Literal["off", "wait", "reject"] = "off",
    ) -> None:
        """Check and keep the options."""
        super().__init__()
        check_option("save", save, "step", "turn")
        check_option("on_save_error", on_save_error, "raise", "warn")
        check_option("serialize", serialize, "off", "wait", "reject")
        self._sessions = Sessions(get_session_history, history_factory_config)
        self._whole_turns = save == "turn"
        self._warn = on_save_error == "warn"
        self._serialize = serialize

    def before_agent(self, state: _State, runtime: Runtime[Any]) -> Update:  # noqa: ARG002  # named by LangChain
        """Read the history."""
        session = self._session()
        return None if session is None else {"chat_history_turn": self._load(session, state["messages"])}

    async def abefore_agent(self, state: _State, runtime: Runtime[Any]) -> Update:  # noqa: ARG002  # as above
        """Async `before_agent`."""
        session = self._session()
        return None if session is None else {"chat_history_turn": await self._aload(session, state["messages"])}

    def before_model(self, state: _State, runtime: Runtime[Any]) -> Update:  # noqa: ARG002  # as above
        """Store the steps that are complete."""
        return self._store(state, ended=False)

    async def abefore_model(self, state: _State, runtime: Runtime[Any]) -> Update:  # noqa: ARG002  # as above
        """Async `before_model`."""
        return await self._astore(state, ended=False)

    def after_agent(self, state: _State, runtime: Runtime[Any]) -> Update:  # noqa: ARG002  # as above
        """Store the rest of the turn."""
        return self._store(state, ended=True)

    async def aafter_agent(self, state: _State, runtime: Runtime[Any]) -> Update:  # noqa: ARG002  # as above
        """Async `after_agent`."""
        return await self._astore(state, ended=True)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Show the model the history."""
        if (session := self._session()) is None:
            return handler(request)
        turn = _turn(request.state) or self._load(session, request.messages, resumed=True)
        with turn.running(before_tools=True):
            return handler(request.override(messages=turn.prompt(request.messages)))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Async `wrap_model_call`."""
        if (session := self._session()) is None:
            return await handler(request)
        turn = _turn(request.state) or await self._aload(session, request.messages, resumed=True)
        with turn.running(before_tools=True):
            return await handler(request.override(messages=turn.prompt(request.messages)))

    def _session(self) -> RunSession | None:
        """Return the session of the run; `None` in a tool of an agent whose session it is, or where it is not named."""
        taken = _open_sessions.get()
        try:
            session = self._sessions.named(get_config())
        except ConfigurationError:
            if taken:  # some versions of LangGraph give the agent of a tool no configurable
                return None
            raise
        return None if session.name in taken else session

    def _begin(self, session: RunSession, history: Any, *, resumed: bool) -> Turn:
        if self._serialize == "off":
            return Turn(session, history)
        thread_id = get_config()["configurable"].get("thread_id")
        return Turn(session, history, Ticket(self._sessions.source, session.name, thread_id, resumed=resumed))

    def _load(self, session: RunSession, messages: Sequence[BaseMessage], *, resumed: bool = False) -> Turn:
        history = self._sessions.open(session)
        turn = self._begin(session, history, resumed=resumed)
        with turn.running():
            for ahead in turn.ticket.ahead(reject=self._serialize == "reject") if turn.ticket else ():
                wait([ahead.over], ahead.idle_left())
            if turn.start(history.messages, messages) and not shows_all(history):
                turn.learn(transcript(history), messages)
        return turn

    async def _aload(self, session: RunSession, messages: Sequence[BaseMessage], *, resumed: bool = False) -> Turn:
        history = await self._sessions.aopen(session)
        turn = self._begin(session, history, resumed=resumed)
        with turn.running():
            for ahead in turn.ticket.ahead(reject=self._serialize == "reject") if turn.ticket else ():
                await asyncio.wait([asyncio.wrap_future(ahead.over)], timeout=ahead.idle_left())
            if turn.start(await history.aget_messages(), messages) and not shows_all(history):
                turn.learn(await atranscript(history), messages)
        return turn

    def _store(self, state: _State, *, ended: bool) -> Update:
        if (session := self._session()) is None:
            return None
        turn = _turn(state) or self._load(session, state["messages"], resumed=True)
        with turn.saving(state["messages"], ended=ended, whole_turns=self._whole_turns, warn=self._warn) as batch:
            new = not_stored(batch, transcript(turn.history)) if batch and turn.retrying else batch
            if new:
                turn.history.add_messages(new)
        return None if _turn(state) else {"chat_history_turn": turn}

    async def _astore(self, state: _State, *, ended: bool) -> Update:
        if (session := self._session()) is None:
            return None
        turn = _turn(state) or await self._aload(session, state["messages"], resumed=True)
        with turn.saving(state["messages"], ended=ended, whole_turns=self._whole_turns, warn=self._warn) as batch:
            new = not_stored(batch, await atranscript(turn.history)) if batch and turn.retrying else batch
            if new:
                await turn.history.aadd_messages(new)
        return None if _turn(state) else {"chat_history_turn": turn}


class ToolAwareChatHistoryMiddleware(ChatHistoryMiddleware):
    """`ChatHistoryMiddleware` with a hook around tools.

    Take it where a tool calls an agent in the same session: the messages of that agent are left out. And with
    `serialize`, where tools fail or take more than ten minutes: a failed tool releases the session at once, and a tool
    that runs keeps it.

    The other class has no such hook, because with one LangChain makes a tools node even for an agent without tools, and
    no longer refuses tools that the agent does not know.
    """

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Keep agents that the tool calls out of the session."""
        with self._in_tool(request.state):
            return handler(request)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        """Async `wrap_tool_call`."""
        with self._in_tool(request.state):
            return await handler(request)

    @contextmanager
    def _in_tool(self, state: Any) -> Iterator[None]:
        session, turn = self._session(), _turn(state)
        token = _open_sessions.set(_open_sessions.get() | ({session.name} if session else set()))
        try:
            with turn.running() if turn is not None else nullcontext():
                yield
        finally:
            _open_sessions.reset(token)


def _turn(state: Any) -> Turn | None:
    """Return the turn that `before_agent` began; `None` in a resumed run, and where the state was serialized."""
    turn = state.get("chat_history_turn")
    return turn if isinstance(turn, Turn) else None
