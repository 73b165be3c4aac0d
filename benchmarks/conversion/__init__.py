"""The parts of benchmarks/convert.py.

processes  run one process and measure it · make_folder  the weights · speed, scale, memory  the three measurements ·
limited  a command under an address limit · usual_way  the same conversion with torch
"""
