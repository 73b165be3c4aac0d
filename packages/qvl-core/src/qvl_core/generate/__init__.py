"""Generation with a cache of keys and values.

Options:   GenerationOptions, changed_options, read_generation_config
Choosing:  sampling (pure numpy)
Asking:    request (Request, Event), scheduler (Scheduler: requests join and leave at any step), answer_all
Running:   engine (Engine), cache (KVCache), compiled_step; stream (what `Qwen25VL.generate` does)

All but the options and sampling need mindspore: import them from their modules.
"""

from qvl_core.generate.options import GenerationOptions, changed_options, read_generation_config

__all__ = ["GenerationOptions", "changed_options", "read_generation_config"]
