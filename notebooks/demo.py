"""Two processes, one conversation: the second remembers what the first was told.

make demo
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_histories import HistoryRegistry

# RunnableWithMessageHistory says that it is deprecated each time one is made.
warnings.filterwarnings("ignore", message="RunnableWithMessageHistory is deprecated")


def answer(prompt):
    """A stand-in for a chat model, which needs no key: it knows only what is in the prompt."""
    names = re.findall(r"My name is (\w+)", prompt.to_string())
    return AIMessage(f"Your name is {names[0]}." if names else "I do not know your name.")


def ask(config: str, question: str) -> None:
    prompt = ChatPromptTemplate([MessagesPlaceholder("history"), ("human", "{question}")])
    with HistoryRegistry.from_config(config) as registry:
        chat = RunnableWithMessageHistory(
            prompt | RunnableLambda(answer),
            registry.get_session_history,
            input_messages_key="question",
            history_messages_key="history",
        )
        reply = chat.invoke({"question": question}, config={"configurable": {"session_id": "42"}})
        print(f"  Human: {question}\n  AI:    {reply.content}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "histories.toml")
        config.write_text(f'[histories.chat]\nurl = "sqlite:///{folder}/chat.db"\n')
        for number, question in enumerate(["My name is Ivan.", "What is my name?"], 1):
            print(f"Process {number}", flush=True)
            subprocess.run([sys.executable, __file__, str(config), question], check=True)


if __name__ == "__main__":
    ask(*sys.argv[1:]) if sys.argv[1:] else main()
