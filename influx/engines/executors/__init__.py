"""Executors that spread a run over processes of this machine or of a cluster.

A worker is ``python -m influx.worker``. It reads a task in plain formats (JSON and NumPy arrays, never a pickle),
assembles the same run from its settings, and leaves each block's arrays in one file. The process that asked reads the
files in the order of the blocks and goes on as if it had done them itself.
"""
