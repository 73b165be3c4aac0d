"""Weights on disk: HF checkpoints, sharded folders, and the safetensors files that both consist of.

Import from the modules; nothing is imported here, so that headers can be read without numpy.

    source              what a folder is; open it
    hf_folder           HF checkpoints: open, compare with the model
    hf_writer           HF checkpoints: write
    sharded_folder      sharded folders: open, verify
    manifest            their manifest: build and write; manifest_reader reads and checks it
    safetensors_header  strict reading of a file's header; safetensors_writer writes files
    tensor_io           numpy arrays from and to files
    sharding            one tensor rank's part of a tensor, and back; cuts has the same rules as rows and columns
    whole_tensors       one view of every kind of folder and layout: whole tensors as boxes of bytes in files
    row_reader          rows of such a whole tensor from the files that hold them, with checksums
    local_tensors       one rank's part of every tensor from such a view: how a model is loaded
    optimizer_state     names of optimizer state and of its files in a training checkpoint
    names               the classic and the new spelling of tensor names
"""
