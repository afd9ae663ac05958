"""Histories in file."""
