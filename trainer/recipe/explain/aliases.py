"""What users of other toolkits type, and what it is called here.

Names of Hugging Face Trainer, LLaMA-Factory, axolotl, torchtune, LitGPT and the official GaLore code. One with a
section before it means that in this section alone.
"""

from __future__ import annotations

# field, or `field: value` where the other name says both → other names
FIELDS = {
    "model.name_or_path": """model_name_or_path pretrained_model_name_or_path base_model
        base_model_config model_name model_config
        checkpoint_dir initial_checkpoint_dir model.path""",
    "model.revision": "model_revision revision_of_model",
    "model.random_init": "train_from_scratch reinit_weights",
    "model.vocab_size": "padded_vocab_size",
    "model.new_tokens": "add_tokens new_special_tokens additional_special_tokens add_special_tokens special_tokens tokens",
    "model.hidden_size": "n_embd d_model embed_dim dim",
    "model.intermediate_size": "ffn_hidden_size intermediate_dim d_ff",
    "model.num_hidden_layers": "n_layer n_layers num_layers",
    "model.num_attention_heads": "n_head n_heads num_heads",
    "model.num_key_value_heads": "n_query_groups n_kv_heads num_kv_heads",
    "model.max_position_embeddings": "max_sequence_length",
    "model.rms_norm_eps": "norm_eps",
    "model.rope_theta": "rope_base",
    "model.tie_word_embeddings": "tie_embeddings",
    "model.dtype": "torch_dtype precision",
    "model.dtype: bfloat16": "bf16 pure_bf16 bf16_full_eval",
    "model.dtype: float32": "fp32",
    "model.attn_implementation": "flash_attn",
    "model.attn_implementation: flash_attention_2": "flash_attention use_flash_attention_2",
    "model.attn_implementation: sdpa": "sdp_attention",
    "data.path": """dataset datasets dataset_name dataset_dir train_file train_data_dir data_path
        data_files json_path train_data_path pretraining_dataset""",
    "data.validation_path": "validation_file eval_dataset test_datasets val_data_path dataset_val",
    "data.sources": "dataset_mixer dataset_mixture data_mixture data_sources interleave_datasets",
    "data.delimiter": "sep csv_delimiter csv_sep",
    "data.tokens_field": "input_ids_field tokens_column",
    "data.task": "task_name glue_task",
    "data.hub_config": "dataset_config dataset_config_name subset data.config",
    "data.split": "dataset_split dataset_train_split",
    "data.text_field": "text_column dataset_text_field field",
    "data.prompt_field": "field_instruction prompt_column instruction_column instruction_field prompt_key instruction_key",
    "data.input_field": "field_input input_column input_key query_column",
    "data.response_field": """field_output response_column output_column output_field completion_field response_key
        output_key""",
    "data.messages_field": "field_messages messages_column conversations_column conversation_column messages_key",
    "data.chat_template": "template prompt_style conversation_style chat_template_path",
    "data.loss_on: last": "mask_history",
    "data.loss_on: responses": "assistant_only_loss completion_only_loss mask_prompt response_only",
    "data.validation_split": "dataset_test_split",
    "data.loss_on": "train_on_inputs train_on_input train_on_prompt",
    "data.validation_fraction": "val_size val_set_size val_split_fraction validation_split_percentage",
    "data.tokenizer": "tokenizer_name tokenizer_name_or_path tokenizer_path tokenizer_dir tokenizer_config",
    "data.max_length": """cutoff_len seq_len seq_length sequence_len sequence_length max_seq_len max_seq_length
        block_size context_length model_max_length""",
    "data.packing": "sample_packing neat_packing packed",
    "data.isolate_documents": """padding_free block_diag_attn document_masking reset_position_ids
        reset_attention_mask""",
    "data.shuffle_buffer_size": "buffer_size",
    "data.shuffle": "shuffle_dataset",
    "data.num_proc": "preprocessing_num_workers dataset_processes dataset_num_proc dataloader_num_workers num_workers workers",
    "data.cache_dir": "tokenized_path dataset_prepared_path",
    "optim.method": """optimizer finetuning_type optim.name optim.type optim.class optim.class_path optim._target_
        optim._component_""",
    "optim.method: galore": "use_galore",
    "optim.learning_rate": "lr max_lr",
    "optim.head_learning_rate": "unembedding_lr lm_head_lr head_lr classifier_lr classifier_learning_rate",
    "optim.embedding_learning_rate": "embedding_lr embed_lr",
    "optim.lr_scheduler_type": "scheduler lr_scheduler lr_schedule",
    "optim.warmup_steps": "warmup num_warmup_steps lr_warmup_steps",
    "optim.warmup_ratio": "warmup_fraction lr_warmup_fraction",
    "optim.min_lr_ratio": "min_lr_rate cosine_min_lr_ratio",
    "optim.lr_decay_steps": "decay_steps num_decay_steps cooldown_steps lr_cooldown_steps",
    "optim.lr_decay_ratio": "decay_ratio decay_fraction cooldown_ratio warmdown_ratio lr_decay_fraction",
    "optim.lr_decay_type": "decay_type cooldown_type",
    "optim.lr_num_cycles": "num_cycles cycles lr_cycles",
    "optim.lr_power": "power lr_scheduler_power",
    "model.router_aux_loss": "router_aux_loss_coef moe_aux_loss_coef",
    "optim.weight_decay": "wd",
    "optim.adam_beta1": "beta1",
    "optim.adam_beta2": "beta2",
    "optim.adam_epsilon": "eps epsilon",
    "optim.max_grad_norm": "grad_clipping grad_clip gradient_clipping gradient_clip_val clip_grad_norm max_norm",
    "optim.rank": "galore_rank lora_r lora_rank r",
    "optim.target_modules": """optim_target_modules galore_target galore_target_modules target_modules_list lora_target
        lora_target_modules lora_attn_modules""",
    "optim.target_modules: [self_attn, mlp]": "lora_target_linear",
    "optim.scale": "galore_scale galore_alpha",
    "optim.update_proj_gap": "galore_update_proj_gap galore_update_interval update_gap",
    "optim.proj_type": "galore_proj_type",
    "optim.projector_dtype: int4": "proj_quant",
    "optim.update: immediate": "galore_layerwise optimizer_in_bwd",
    "optim.state_dtype": "optim_bits",
    "optim.relora_gap": "relora cycle_length relora_steps relora_interval",
    "optim.relora_warmup_steps": "restart_warmup_steps relora_warmup",
    "optim.lora_dropout": "dropout",
    "optim.train_modules": "additional_target modules_to_save lora_modules_to_save",
    "train.seed": "data_seed random_state random_seed",
    "train.max_steps": "num_training_steps total_steps train_steps num_steps steps max_iters",
    "train.num_train_epochs": "epochs num_epochs n_epochs",
    "train.global_batch_size": "total_batch_size train_batch_size effective_batch_size",
    "train.micro_batch_size": "per_device_train_batch_size device_batch_size",
    "train.gradient_checkpointing": "activation_checkpointing enable_activation_checkpointing use_gradient_checkpointing",
    "train.offload_activations": "enable_activation_offloading activation_offloading",
    "train.compile": "torch_compile",
    "train.z_loss": "z_loss_weight z_loss_coefficient auxiliary_loss_multiplier",
    "train.device": "accelerator",
    "train.device: cpu": "no_cuda use_cpu",
    "train.save_steps": "save_every save_interval checkpoint_interval checkpoint_every save_freq",
    "train.save_best": "load_best_model_at_end save_best_model save_best_checkpoint keep_best",
    "train.early_stopping_patience": "early_stopping patience early_stopping_rounds early_stopping_steps",
    "train.save_total_limit": "keep_last_n_checkpoints",
    "eval.eval_steps": "eval_every eval_interval eval_freq run_val_every_n_steps",
    "eval.max_tokens": "max_eval_tokens eval_tokens",
    "eval.micro_batch_size": "per_device_eval_batch_size eval_batch_size",
    "eval.sample_prompt": "prompt",
    "eval.sample_tokens": "max_new_tokens eval_max_new_tokens",
    "log.logging_steps": "log_interval log_every log_every_n_steps",
    "log.report_to": "metric_logger logger_name",
    "log.report_to: wandb": "use_wandb",
    "log.wandb_project": "project trackio_project",
    "log.run_name": "wandb_name wandb_run_name experiment_name name",
}

# advice, where no single field takes its place → other names
ADVICE = {
    "accumulation is train.global_batch_size / train.micro_batch_size: set global_batch_size to their product": """
        gradient_accumulation_steps gradient_accumulation grad_accumulation_steps accumulate_grad_batches""",
    "write train.global_batch_size (sequences per optimizer step) and train.micro_batch_size (per forward)": "batch_size",
    "write train.global_batch_size = tokens / data.max_length: it is in sequences": """
        tokens_per_batch tokens_per_step batch_size_tokens global_batch_size_tokens""",
    "a data set of the hub is data.path, with data.source: hub; a configuration of it data.hub_config": """
        data.name data.repo data.repo_id data.hub""",
    "write the keys themselves below `optim:`, each on its own line: learning_rate, weight_decay, adam_beta1, …": """
        optim.params optim.kwargs""",
    "write train.max_steps = tokens / (train.global_batch_size × data.max_length)": "max_train_tokens",
    "write optim.adam_beta1 and optim.adam_beta2, one number each": "betas",
    "write optim.rank, optim.scale, optim.update_proj_gap and optim.proj_type, each on its own line": "optim_args",
    "write optim.lora_alpha (LoRA) or optim.scale (GaLore)": "alpha",
    "float16 is not supported; write model.dtype: bfloat16": "fp16 float16 half",
    "float32 matrix products follow torch's own setting: leave it out": "tf32",
    "base weights are not quantized: leave it out": "load_in_8bit load_in_4bit quantization_bit quantize",
    "code from the hub is never run: leave it out": "trust_remote_code",
    "the token is read from the environment variable HF_TOKEN only": "hf_token use_auth_token",
    "sequences are packed to one length: leave it out": "group_by_length",
    "only the columns that section data names are read: leave it out": "remove_unused_columns",
    "name the columns: data.prompt_field and data.response_field, or data.messages_field": "column_map column_mapping",
    "data.prompt_field and data.response_field, or data.messages_field, make it instruction tuning: leave it out": "stage",
    "`galore train` trains, `galore eval` evaluates: leave it out": "do_train do_eval do_predict",
    "set the interval in steps: train.save_steps, eval.eval_steps, log.logging_steps": """
        save_strategy eval_strategy evaluation_strategy logging_strategy""",
    "the best checkpoint is that of the lowest held-out loss: train.save_best keeps it": """
        metric_for_best_model greater_is_better monitor""",
    "checkpoints are always safetensors with a manifest: leave it out": "save_safetensors save_only_model",
    "it is given on the command line: galore train RECIPE --output-dir DIR": "output_dir out_dir save_dir",
    "a folder that holds a run is never overwritten: choose another --output-dir, or --resume": "overwrite_output_dir",
    "it is given on the command line: galore train RECIPE --output-dir DIR --resume": """
        resume resume_from_checkpoint continue_from auto_resume_from_checkpoints""",
    "torchrun starts the processes, and parallel.mode (ddp or fsdp) says how they share a run: docs/scaling.md": """
        ddp fsdp deepspeed devices num_nodes single_gpu local_rank strategy""",
    "export with `galore export RUN OUT`, and upload that folder": "push_to_hub hub_model_id",
}

SECTIONS = {
    "optim": "optimizer optimization optimisation galore lora peft",
    "train": "training trainer training_args training_arguments",
    "data": "dataset datasets",
    "model": "checkpointer model_args model_arguments",
    "eval": "evaluation",
    "log": "logging logger wandb metric_logger",
}

# what the others write as a value of `optim` or `optimizer` → what to write in section optim
OPTIMIZERS = {
    "galore_adamw": "method: galore",
    "galore_adamw_8bit": "method: galore and state_dtype: 8bit",
    "galore_adamw8bit": "method: galore and state_dtype: 8bit",
    "galore_adamw_layerwise": "method: galore and update: immediate",
    "galore_adamw_8bit_layerwise": "method: galore, state_dtype: 8bit and update: immediate",
    "galore_adamw8bit_per_layer": "method: galore, state_dtype: 8bit and update: immediate",
    "apollo_adamw": "method: galore, residual: apollo and proj_type: random",
    "adafactor": "method: full and inner: adafactor",
    "muon": "method: full and inner: muon",
    "adam": "method: full",
    "adamw": "method: full",
    "adamw_torch": "method: full",
    "adamw_torch_fused": "method: full",
    "adam8bit": "method: full and state_dtype: 8bit",
    "adamw_8bit": "method: full and state_dtype: 8bit",
    "adamw_bnb_8bit": "method: full and state_dtype: 8bit",
    "paged_adamw_8bit": "method: full and state_dtype: 8bit",
}

# field → value to write → what the others write
VALUES = {
    "model.dtype": {
        "bfloat16": "bf16 bf16-true torch.bfloat16 auto",
        "float32": "fp32 float 32 32-true",
        "bfloat16 (float16 is not supported)": "fp16 float16 half 16-mixed",
    },
    "model.attn_implementation": {
        "flash_attention_2": "fa2 flash flash_attn flash_attention true",
        "eager": "disabled false",
    },
    "data.source": {"hub": "hf huggingface", "local": "file files disk", "packaged": "embedded builtin"},
    "data.format": {"jsonl": "json", "txt": "text"},
    "data.packing": {"packed": "true", "paper": "false"},
    "data.loss_on": {"responses": "response completion completions assistant false", "all": "true"},
    "data.on_bad_rows": {"error": "raise fail", "skip": "ignore"},
    "optim.method": {"lora": "qlora", "full": "freeze none"},
    "optim.lr_scheduler_type": {
        "cosine_with_restarts": "cosine_restarts cosine_with_hard_restarts",
        "cosine (its end is optim.min_lr_ratio)": "cosine_with_min_lr cosine_warmup_with_min_lr",
        "warmup_stable_decay": "wsd trapezoidal trapezoid warmup_stable_decay_lr",
        "inverse_sqrt": "rsqrt inverse_square_root inv_sqrt",
        "polynomial": "poly polynomial_decay",
        "constant (no schedule here looks at the loss; train.early_stopping_patience does)": """
            reduce_lr_on_plateau plateau greedy""",
        "constant": "none null",
    },
    "optim.proj_type": {
        "svd (the projected side is optim.side)": "std reverse_std left right",
        "randomized": "rsvd random",
    },
    "optim.state_dtype": {"8bit": "int8 8 8-bit uint8", "4bit": "int4 4 4-bit", "float32": "fp32 32bit 32"},
    "optim.accumulator_dtype": {"bfloat16": "bf16", "float32": "fp32"},
    "optim.target_modules": {"[self_attn, mlp]": "all all-linear all_linear"},
    "train.gradient_checkpointing": {"true (and train.offload_activations: true)": "unsloth offload"},
    "train.device": {"cuda": "gpu cuda:0", "cpu": "mps"},
    "log.report_to": {
        "none": "null false",
        "[wandb, tensorboard]": "all true",
        "none (every step is in the run's metrics.jsonl)": "csv json jsonl disk",
        "wandb (or tensorboard, trackio, mlflow)": "comet_ml comet neptune clearml swanlab aim dvclive",
    },
}


def inverse(table: dict[str, str]) -> dict[str, str]:
    """Other name → what it means here."""
    return {name: meaning for meaning, names in table.items() for name in names.split()}
