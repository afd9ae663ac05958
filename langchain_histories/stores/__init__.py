"""The stores, one module for each service."""
