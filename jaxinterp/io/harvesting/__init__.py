"""Activations of large datasets on disk: what is asked for, the program that makes them, the shards they lie in."""
