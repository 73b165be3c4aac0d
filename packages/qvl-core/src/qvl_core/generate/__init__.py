"""Generation with a cache of keys and values.

Options:   GenerationOptions, changed_options, read_generation_config
Choosing:  sampling (pure numpy)
Running:   Scheduler, Request, Event; Engine, KVCache, stream_tokens, complete, Step   (import from their modules)
"""

from qvl_core.generate.options import GenerationOptions, changed_options, read_generation_config

__all__ = ["GenerationOptions", "changed_options", "read_generation_config"]
