"""Qwen2.5-VL weights between folders and layouts, on a CPU box with neither mindspore nor torch.

commands  the `qvl convert` commands · whole_tensors  one view of any weights folder · compare  bit equality of two
folders · export  a sharded folder to an HF folder
"""
