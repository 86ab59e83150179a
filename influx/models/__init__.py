"""Models by name: one frozen dataclass of settings per file, whose ``build(data)`` returns an untrained module."""
