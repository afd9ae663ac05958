"""DynamoDB, under LlamaIndex's two module paths."""

from langchain_histories.integrations.llama_index.dynamodb.base import DynamoDBChatStore

__all__ = ["DynamoDBChatStore"]
