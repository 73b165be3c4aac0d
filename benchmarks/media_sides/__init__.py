"""The parts of benchmarks/media.py.

clock  processor time of this process and its children, sides in turn · pictures  images · videos  videos
"""
