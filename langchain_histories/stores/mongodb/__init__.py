"""Histories in mongodb."""
