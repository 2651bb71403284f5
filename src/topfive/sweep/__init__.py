"""Accuracy over a whole picture set: shards, resuming, merging, engines."""
