"""Histories in cosmosdb."""
