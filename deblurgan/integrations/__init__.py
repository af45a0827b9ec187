"""Programs of others that take our networks."""
