"""Copies of finished runs for experiment trackers. One that fails leaves a warning, never a failed run."""
