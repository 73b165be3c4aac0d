"""The seven files of 7B, written from the documented fields of the reference stack."""

from __future__ import annotations

from typing import Any

DATA: dict[str, Any] = {
    "dataset_param": {
        "dataset_type": "huggingface",
        "preprocess_parameters": {
            "model_name_or_path": "./ckpt/hf/Qwen2.5-VL-7B-Instruct",
            "use_fast_tokenizer": True,
            "split_special_tokens": False,
            "image_max_pixels": 262144,
            "image_min_pixels": 0,
            "video_max_pixels": 16384,
            "video_min_pixels": 0,
            "video_fps": 2.0,
            "video_maxlen": 64,
        },
        "basic_parameters": {
            "template": "qwen2vl",
            "dataset_dir": "./data",
            "dataset": "./data/mllm_format_llava_instruct_data.json",
            "cache_dir": "./data/cache_dir",
            "train_on_prompt": False,
            "mask_history": False,
            "preprocessing_batch_size": 1000,
            "num_workers": 16,
            "max_samples": None,
            "tool_format": None,
        },
        "attr": {
            "system": None,
            "images": "images",
            "videos": None,
            "messages": "messages",
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "observation_tag": None,
            "function_tag": None,
            "system_tag": None,
        },
    },
    "dataloader_param": {
        "dataloader_mode": "sampler",
        "sampler_type": "BaseRandomBatchSampler",
        "batch_size": 1,
        "num_workers": 4,
        "drop_last": True,
        "shuffle": True,
        "pin_memory": True,
        "collate_param": {"model_name": "qwen2vl", "ignore_pad_token_for_loss": True},
    },
}
MODEL: dict[str, Any] = {
    "model_id": "qwen2_5vl",
    "img_context_token_id": 151655,
    "vision_start_token_id": 151652,
    "image_token_id": 151655,
    "image_encoder": {
        "vision_encoder": {
            "model_id": "qwen2_5_vit",
            "num_layers": 32,
            "hidden_size": 1280,
            "ffn_hidden_size": 3420,
            "num_attention_heads": 16,
            "patch_size": 14,
            "freeze": True,
            "pipeline_num_layers": [32, 0, 0, 0],
        },
        "vision_projector": {"model_id": "lnmlp", "freeze": True, "output_size": 3584},
    },
    "text_decoder": {
        "model_id": "qwen2_5_lm",
        "num_layers": 28,
        "hidden_size": 3584,
        "ffn_hidden_size": 18944,
        "num_attention_heads": 28,
        "num_query_groups": 4,
        "vocab_size": 152064,
        "rope_theta": 1000000.0,
        "pipeline_num_layers": [1, 10, 10, 7],
    },
}
ANSWERS: dict[str, Any] = {
    **MODEL,
    "pipeline_class": "Qwen2VlPipeline",
    "dtype": "bf16",
    "device": "npu",
    "tokenizer": {
        "hub_backend": "hf",
        "autotokenizer_name": "AutoTokenizer",
        "from_pretrained": "./ckpt/hf/Qwen2.5-VL-7B-Instruct",
    },
    "generation_config": {
        "do_sample": True,
        "kv_cache": True,
        "max_length": 20,
        "max_new_tokens": 256,
        "temperature": 0.1,
        "top_k": 1,
        "top_p": 0.001,
        "repetition_penalty": 1.05,
        "num_beams": 1,
        "eos_token_id": [151645, 151643],
    },
    "min_pixels": 1003520,
    "max_pixels": 12845056,
}
INFERENCE = {**ANSWERS, "image_path": ["./pictures/cat.jpg"], "prompts": "Describe the image."}
EVALUATE = {
    **ANSWERS,
    "dataset_path": "./data/AI2D_TEST.tsv",
    "evaluation_dataset": "ai2d_test",
    "evaluation_model": "qwen2_vl_7b",
    "result_output_path": "./evaluation_outputs/",
}
FINETUNE = """\
#!/bin/bash
source /usr/local/Ascend/ascend-toolkit/set_env.sh
# This one only satisfies a check of Megatron.
export CUDA_DEVICE_MAX_CONNECTIONS=1
export ASCEND_SLOG_PRINT_TO_STDOUT=0
export ASCEND_GLOBAL_LOG_LEVEL=3
export TASK_QUEUE_ENABLE=2
export HCCL_CONNECT_TIMEOUT=1200
export ASCEND_LAUNCH_BLOCKING=0
export ACLNN_CACHE_LIMIT=100000

NPUS_PER_NODE=8
MASTER_ADDR=localhost
MASTER_PORT=29501
NNODES=1
NODE_RANK=0
WORLD_SIZE=$(($NPUS_PER_NODE * $NNODES))
export LOCAL_WORLD_SIZE=$NPUS_PER_NODE

MM_DATA="./examples/mindspore/qwen2.5vl/data_7b.json"
MM_MODEL="./examples/mindspore/qwen2.5vl/model_7b.json"
MM_TOOL="./mindspeed_mm/tools/tools.json"
LOAD_PATH="ckpt/mm_path/Qwen2.5-VL-7B-Instruct"
SAVE_PATH="save_dir"

TP=1
PP=4
CP=1
MBS=1
GRAD_ACC_STEP=96
SEQ_LEN=1024
DP=$(($WORLD_SIZE/$TP/$PP/$CP))
GBS=$(($MBS*$GRAD_ACC_STEP*$DP))

DISTRIBUTED_ARGS="
    --local_worker_num $NPUS_PER_NODE \\
    --worker_num $WORLD_SIZE \\
    --node_rank $NODE_RANK \\
    --master_addr $MASTER_ADDR \\
    --master_port $MASTER_PORT \\
    --log_dir=msrun_log \\
    --bind_core=True
"
GPT_ARGS="
    --use-mcore-models \\
    --tensor-model-parallel-size ${TP} \\
    --pipeline-model-parallel-size ${PP} \\
    --micro-batch-size ${MBS} \\
    --global-batch-size ${GBS} \\
    --tokenizer-type NullTokenizer \\
    --seq-length ${SEQ_LEN} \\
    --vocab-size 152064 \\
    --make-vocab-size-divisible-by 1 \\
    --normalization RMSNorm \\
    --use-fused-rmsnorm \\
    --swiglu \\
    --use-fused-swiglu \\
    --lr 1.0e-5 \\
    --lr-decay-style cosine \\
    --weight-decay 0 \\
    --train-iters 10000 \\
    --lr-warmup-fraction 0.1 \\
    --clip-grad 0.0 \\
    --adam-beta1 0.9 \\
    --adam-beta2 0.999 \\
    --no-gradient-accumulation-fusion \\
    --no-load-optim \\
    --no-load-rng \\
    --no-save-optim \\
    --no-save-rng \\
    --seed 42 \\
    --bf16 \\
    --load $LOAD_PATH \\
    --variable-seq-lengths \\
    --use-distributed-optimizer \\
    --num-workers 8
"
MM_ARGS="
    --mm-data $MM_DATA \\
    --mm-model $MM_MODEL \\
    --mm-tool $MM_TOOL
"
OUTPUT_ARGS="
    --log-interval 1 \\
    --save-interval 10000 \\
    --eval-interval 10000 \\
    --eval-iters 5000 \\
    --save $SAVE_PATH
"
logfile=$(date +%Y%m%d)_$(date +%H%M%S)
mkdir -p logs
msrun $DISTRIBUTED_ARGS pretrain_vlm.py \\
    $GPT_ARGS \\
    $MM_ARGS \\
    $OUTPUT_ARGS \\
    --distributed-backend nccl \\
    --ai-framework mindspore \\
    2>&1 | tee logs/train_${logfile}.log
chmod 440 logs/train_${logfile}.log
STEP_TIME=`grep "elapsed time" logs/train_${logfile}.log | awk -F '|' '{print $3}'`
"""
ANSWER_SCRIPT = """\
#!/bin/bash
export HCCL_CONNECT_TIMEOUT={timeout}
export TOKENIZERS_PARALLELISM=false
NPUS_PER_NODE={devices}
MASTER_ADDR=localhost
MASTER_PORT=29501
NNODES=1
NODE_RANK=0
WORLD_SIZE=$(($NPUS_PER_NODE * $NNODES))
TP=1
PP=1
MM_MODEL=examples/mindspore/qwen2.5vl/{model}
LOAD_PATH="ckpt/mm_path/Qwen2.5-VL-7B-Instruct"
msrun --local_worker_num $NPUS_PER_NODE --worker_num $WORLD_SIZE --master_port $MASTER_PORT {program} \\
    --tensor-model-parallel-size $TP --pipeline-model-parallel-size $PP \\
    --mm-model $MM_MODEL --load $LOAD_PATH --use-flash-attn --bf16
"""
