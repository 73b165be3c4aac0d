"""Settings of the reference stack that are not carried over: without effect there, or without counterpart here.

Read in MindSpeed-MM 2.1.0 (the guide's version) and in the guide's own notes; `docs/migrate.md` names the sections.
"""

from __future__ import annotations

_STRUCTURE = "the model's structure is that of the model file, this echo was ignored (the guide's first note)"
_UNUSED = "this model never reads it"
_BY_COMMAND_LINE = "was always replaced by the command line's"
_FUSED = "qvl takes fused kernels on Ascend by itself; QVL_KERNELS=reference turns them off"
_NOTHING_TRAINED = "concerns training: nothing is trained here"
_LAUNCHER = "qvl starts msrun itself: `qvl run RECIPE --dry-run` shows the command"

NO_EFFECT_OPTIONS = {
    **dict.fromkeys(
        (
            *("use-mcore-models", "normalization", "swiglu", "vocab-size", "make-vocab-size-divisible-by"),
            *("tokenizer-type", "num-layers", "hidden-size", "ffn-hidden-size", "num-attention-heads"),
            *("group-query-attention", "num-query-groups", "max-position-embeddings", "position-embedding-type"),
            *("rotary-base", "rotary-percent", "untie-embeddings-and-output-weights", "disable-bias-linear"),
            *("add-qkv-bias", "attention-dropout", "hidden-dropout", "attention-softmax-in-fp32", "init-method-std"),
            *("norm-epsilon", "no-rope-fusion"),
        ),
        _STRUCTURE,
    ),
    "distributed-backend": "nccl is written even where HCCL is used; qvl takes HCCL on Ascend",
}

NO_COUNTERPART_OPTIONS: dict[str, str] = {
    **dict.fromkeys(
        ("use-fused-rmsnorm", "use-fused-swiglu", "use-fused-rotary-pos-emb", "use-flash-attn", "use-infer-fa"), _FUSED
    ),
    **dict.fromkeys(("no-gradient-accumulation-fusion", "no-masked-softmax-fusion"), "names a kernel that qvl has not"),
    **dict.fromkeys(("ai-framework", "join", "log-dir", "bind-core", "cluster-time-out", "tail-worker-log"), _LAUNCHER),
    **dict.fromkeys(
        ("overlap-grad-reduce", "overlap-param-gather", "use-cp-send-recv-overlap"), "qvl decides what overlaps"
    ),
    **dict.fromkeys(
        ("no-load-optim", "no-load-rng", "finetune"), "whether a run goes on is asked at its start: qvl run --resume"
    ),
    "variable-seq-lengths": "samples are never padded to one length in qvl",
    "no-save-rng": "qvl's checkpoints hold the random state: it is small",
    "log-tps": "tokens per second are always logged, real and padded ones apart",
    "log-throughput": "throughput is always logged",
    "enable-dummy-optimizer": "a stage with nothing to train needs no flag in qvl",
    "mm-tool": "train.log.profile has the profiler's steps; there are no memory snapshots",
    "swap-attention": "layout.recompute saves the same memory",
    "sequence-parallel": "qvl has no sequence parallelism",
    "context-parallel-algo": "qvl has no context parallelism",
    **dict.fromkeys(("encoder-dp-balance", "use-data-balance"), "data.balance deals samples by length"),
    **dict.fromkeys(
        ("lr-scale-modules", "lr-mult"), "train.optimizer.lr_scale has factors for vision, merger and text"
    ),
    "eval-iters": "validation goes over all held-out samples",
    "load-base-model": "adapters start from weights.source, a run goes on with --resume",
    "lora-register-forward-hook": "adapters learn on every stage without hooks",
    "ckpt-format": "qvl has one checkpoint format",
    "distributed-timeout-minutes": "HCCL_CONNECT_TIMEOUT and HCCL_EXEC_TIMEOUT under [env]",
    "lr-decay-iters": "the learning rate decays over all steps",
    **dict.fromkeys(
        ("weight-decay-incr-style", "start-weight-decay", "end-weight-decay"),
        "train.optimizer.weight_decay is constant",
    ),
    "tensorboard-dir": "TensorBoard files lie in output.dir",
    "use-ascend-mc2": "names a kernel that qvl has not",
}

# What a part of the model file says of recomputation: how much, how, and of how many layers.
RECOMPUTE = ("recompute_granularity", "recompute_method", "recompute_num_layers")

NO_EFFECT_DATA = {
    **dict.fromkeys(
        (
            *("image_resolution", "video_resolution", "image_do_pan_and_scan", "crop_to_patches"),
            *("use_audio_in_video", "audio_sampling_rate", "tool_format", "audios"),
        ),
        _UNUSED,
    ),
    **dict.fromkeys(("batch_size", "seed"), _BY_COMMAND_LINE),
    **dict.fromkeys(
        ("packing", "neat_packing"), "packing was never selected in that version; data.packing = true packs"
    ),
    **dict.fromkeys(("ranking", "chosen", "rejected"), "preference pairs are used by DPO only"),
}

NO_COUNTERPART_DATA = {
    "dataset_type": "there is one data pipeline",
    "use_fast_tokenizer": "the tokenizer is the checkpoint's fast one",
    "split_special_tokens": "special tokens are never split; what looks like one in a text is an error",
    "template": "the chat template is Qwen2.5-VL's, or the checkpoint's own",
    "preprocessing_batch_size": "nothing is pre-computed in batches: samples are made as training goes",
    "preprocessing_num_workers": "processes of the pre-computed map, which qvl does not have",
    "overwrite_cache": "qvl sees by content whether its cache is fresh",
    "dataloader_mode": "there is one loader, with exact resume",
    "sampler_type": "there is one order: shuffled, a function of train.seed, resumable",
    "drop_last": "every sample is used once an epoch",
    "shuffle": "training samples are always shuffled",
    "pin_memory": "concerns CUDA",
    "model_name": "the collator is Qwen2.5-VL's",
    "ignore_pad_token_for_loss": "padding is never learned",
    "formatting": "data.sources.format is read off the attr names",
    "val_max_samples": "give a validation file of that many records",
}

_TOKENS = "token ids are read from the checkpoint"

NO_COUNTERPART_MODEL = {
    "model_id": "the model is known by its sizes",
    **dict.fromkeys(
        (
            *("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id", "vision_token_id"),
            *("bos_token_id", "eos_token_id", "pad_token_id"),
        ),
        _TOKENS,
    ),
    "use_remove_padding": "data.packing = true packs samples; attention masks of any length are made by themselves",
    "bridge_patch": "qvl loads the HF folder into any layout, without a switch",
    "parallel_output": "the output is gathered where it is needed",
    "img_context_token_id": "places of images and videos are found token by token: both may stand in one run",
}

NO_COUNTERPART_ANSWERS = {
    "pipeline_class": "there is one pipeline",
    **dict.fromkeys(("infer_fa", "use_infer_fa"), _FUSED),
    "hub_backend": "weights and tokenizer are a local HF folder",
    "autotokenizer_name": "weights and tokenizer are a local HF folder",
    "local_files_only": "nothing is ever downloaded",
    "device": "launch.device",
    "dtype": "model.dtype",
    "kv_cache": "the cache is always used",
    "use_cache": "the cache is always used",
    **dict.fromkeys(("eos_token_id", "pad_token_id", "bos_token_id"), _TOKENS),
    "evaluation_impl": "one process for each device",
    "image_processer_path": "the processor is that of weights.source",
    "eval_split": "all rows are answered; eval.limit takes the first ones",
}

# Keys of generation_config at the values with which they change nothing (transformers' own defaults).
NEUTRAL_GENERATION: dict[str, object] = {
    **dict.fromkeys(
        (
            *("early_stopping", "output_attentions", "output_hidden_states", "output_scores", "split_batch"),
            *("remove_invalid_values", "renormalize_logits", "return_dict_in_generate", "token_healing"),
        ),
        False,
    ),
    **dict.fromkeys(
        (
            *("min_length", "diversity_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
            *("epsilon_cutoff", "eta_cutoff"),
        ),
        0,
    ),
    **dict.fromkeys(
        (
            *("encoder_repetition_penalty", "length_penalty", "num_beam_groups", "num_return_sequences"),
            *("typical_p", "num_beams", "num_return_groups"),
        ),
        1,
    ),
    "num_assistant_tokens": 5,
    "num_assistant_tokens_schedule": "heuristic",
}

# Training options that the scripts of inference and evaluation carry along.
NO_EFFECT_ANSWER_OPTIONS = dict.fromkeys(
    (
        *("lr", "lr-decay-style", "lr-warmup-fraction", "lr-warmup-iters", "min-lr", "weight-decay", "clip-grad"),
        *("train-iters", "train-samples", "global-batch-size", "optimizer", "adam-beta1", "adam-beta2", "adam-eps"),
        *("use-distributed-optimizer", "no-save-optim", "log-interval", "save-interval", "eval-interval"),
        *("calculate-per-token-loss", "calculate-per-sample-loss"),
    ),
    _NOTHING_TRAINED,
)

NO_EFFECT_ANSWERS = {
    "do_sample": "was computed again, as temperature > 0",
    "max_length": "max_new_tokens overrides it",
    "evaluation_model": "has to be qwen2_vl_7b for every size; the model is that of weights.source",
}

# Of the shell, not of the run.
SHELL_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD")
# Exported by the scripts, and stated by the recipe elsewhere.
LAUNCH_VARIABLES = (
    *("NPUS_PER_NODE", "MASTER_ADDR", "MASTER_PORT", "NNODES", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("RANK_SIZE", *SHELL_VARIABLES),
)

# Settings that a rule has read, or that need none, where there is nothing else to tell: they agree with the recipe.
AGREES = {
    **dict.fromkeys(("mm-data", "mm-model"), "names the file that is read"),
    **dict.fromkeys(("mm-tool", "load", "save"), "has no part in this recipe"),
    "worker-num": "devices times machines, as in the recipe",
    "context-parallel-size": "one, as in qvl",
    "bf16": "as model.dtype",
    "dataset_dir": "data.sources.media_root",
    **dict.fromkeys(("train_on_prompt", "mask_history"), "data.loss_on"),
    **dict.fromkeys(("seq-length", "micro-batch-size", "num-workers"), "not needed to answer questions"),
    "max_samples": "data.sources.max_samples",
    "from_pretrained": "weights.source",
}

# The same of keys of the model file that are not compared with the published model.
AGREES_OF_MODEL = {
    "freeze": _NOTHING_TRAINED,
    **dict.fromkeys(RECOMPUTE, _NOTHING_TRAINED),
    "model_id": "the model is known by its sizes",
    "seq_length": "samples are as long as --seq-length says",
    "pipeline_num_layers": "the other part has no list that counts: qvl derives both",
}

# Keys of the model file that are not compared, since no published model differs in them.
NOT_COMPARED = (
    *("hidden_dropout", "attention_dropout", "attention_softmax_in_fp32", "init_method_std", "persist_layer_norm"),
    *("use_fused_rotary_pos_emb", "apply_rope_fusion", "masked_softmax_fusion", "bias_activation_fusion"),
    *("bias_dropout_fusion", "apply_query_key_layer_scaling", "use_flash_attn", "spatial_patch_size", "hidden_act"),
    *("add_bias_linear", "add_qkv_bias", "norm_epsilon", "group_query_attention", "num_query_groups", "num_layers"),
    *("activation_func", "params_dtype", "gated_linear_unit", "bf16", "fp16", "attention_bias", "output_size"),
    *("fp16_lm_cross_entropy", "rotary_percent", "downsample_ratio", "bias", "use_rotary_position_embeddings"),
    *("attention_mask_type", "sequence_parallel", "tokenizer_type", "is_encoder_decoder", "use_infer_fa"),
)

# Names of the data, inference and evaluation files that rules look for: what is nearly one of them was probably meant.
DOCUMENTED = (
    *("model_name_or_path", "image_max_pixels", "image_min_pixels", "video_max_pixels", "video_min_pixels"),
    *("video_fps", "video_maxlen", "dataset_dir", "dataset", "cache_dir", "train_on_prompt", "mask_history"),
    *("max_samples", "streaming", "val_dataset", "val_rate", "num_workers", "pipeline_num_layers", "freeze"),
    *("from_pretrained", "min_pixels", "max_pixels", "image_path", "video_path", "prompts", "max_new_tokens"),
    *("temperature", "top_k", "top_p", "repetition_penalty", "dataset_path", "evaluation_dataset"),
    *("result_output_path", "use_custom_prompt", *RECOMPUTE),
    *NO_EFFECT_DATA,
    *NO_COUNTERPART_DATA,
    *NO_EFFECT_ANSWERS,
    *NO_COUNTERPART_ANSWERS,
)
