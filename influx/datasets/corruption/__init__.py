"""Known damage to the training split: each class has ``apply(data, seed) -> Data`` and records the truth in flags."""
