"""Histories in kafka."""
