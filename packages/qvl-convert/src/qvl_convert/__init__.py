"""Qwen2.5-VL weights between folders and layouts, on a CPU box with neither mindspore nor torch.

commands      the `qvl convert` commands; jobs, sources, target, wanted_layout say what they ask for
plan_sharded  a job that writes a sharded folder; plan_hf an HF folder; mindspeed the reference stack's; lora a merge
transfer      what a job consists of, and the copying of one tensor
run_job       carry a job out; working_folder and finished_files let an interrupted one go on
compare       bit equality of two folders, for verify; forecast is what --plan shows; progress the progress
"""
