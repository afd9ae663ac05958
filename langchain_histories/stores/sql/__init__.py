"""Histories in sql."""
