"""What several services share: Redis' lists, partitions of small items, one item a session."""
