"""The reference stack's own weights folders (MindSpeed-MM): read without torch and without trusting a file, and write.

torch_archive  a file of `torch.save`: the zip archive, checked strictly
unpickler      its pickle, by an interpreter of our own that imports nothing
key_map        which rows and columns of which HF tensors make up each tensor of a rank
folder         find the rank files of a folder, and what they hold
source         a folder as whole HF tensors
archive_plan   a new archive, planned to the last byte
plan           the conversion into such a folder
"""
