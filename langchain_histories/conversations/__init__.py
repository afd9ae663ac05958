"""What people do with conversations as a whole: take them to another store."""
