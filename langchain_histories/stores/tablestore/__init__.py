"""Histories in tablestore."""
