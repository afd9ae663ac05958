"""Histories in Apache Kafka: a topic per session, as LangChain's `KafkaChatMessageHistory` keeps them, or one for all.

| room | what lives there |
|---|---|
| `store.py` | `KafkaStore`: arguments and their documentation |
| `history.py` | `KafkaChatMessageHistory`: LangChain's constructor, and its readers, which consume |
| `connections.py` | URLs, and the clients of a place |
| `client.py` | producer, consumers and admin client of a process; how a batch is delivered |
| `topics.py` | the topic of each session: names, finding, making, deleting |
| `log.py` | how batches are stored in a partition, and how a partition is read |
| `positions.py` | positions over several partitions, and the notes of consumer groups |
| `operations.py` | what the store can do |
"""

from langchain_histories.stores.kafka.history import KafkaChatMessageHistory
from langchain_histories.stores.kafka.store import KafkaStore

__all__ = ["KafkaChatMessageHistory", "KafkaStore"]
