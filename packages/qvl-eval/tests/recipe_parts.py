"""Pieces of recipes for several test modules."""

TRAINING = """
[data]
sources = [{ path = "x.json", format = "llava", media_root = "." }]
sequence_length = 64
[train]
steps = 1
micro_batch = 1
global_batch = 1
[train.optimizer]
lr = 1e-5
"""
