"""Recorders for trainings that influx does not run: they save checkpoints that ``training=imported`` reads."""
