"""The planner: memory, time and the best layout of a run, from arithmetic alone. Imports no framework and no numpy.

What is planned: `devices` has the facts of the hardware, `job` the run, `workload` the lengths.
Bytes: `held` of the model, `micro_batch` of activations, counted from the kernels by `activations` and `adapters`;
`memory` puts them together. Seconds: `timing` of parts, `collectives` between ranks, `pipeline` by the clock.
One layout: `plan`, `recipe_plan`. The best of all: `search` goes through degrees, `splits` through stage lists, with
`costs`, `bounds`, `capacity`, `dealing`, `vision_spreads` and `fewest`.
What is said: `report`, and `assumptions`, which lists what all of it rests on.
"""
