"""Where instances come from: one class per source, one yaml per choice, each with ``load(seed) -> Data``."""
