"""Known damage to the data: each class has ``apply(data, seed) -> Data`` and records the truth in flags."""
