"""Histories in the programs that use them, one module for each kind."""
