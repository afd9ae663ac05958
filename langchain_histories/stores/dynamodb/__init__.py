"""Histories in dynamodb."""
