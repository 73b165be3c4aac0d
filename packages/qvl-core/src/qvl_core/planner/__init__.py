"""The planner: memory, time and the best layout of a run, from arithmetic alone. Imports no framework and no numpy.

`devices` has the facts of the hardware, `job` what is planned, `workload` the lengths; `activations` and `memory` count
bytes, `timing` seconds; `plan` puts one layout together and `search` finds the best of all. `assumptions` lists what
all of it rests on.
"""
