"""Keys of other toolkits that no key here takes the place of: what to do instead, or that there is nothing to do.

Names of LLaMA-Factory, axolotl, torchtune, LitGPT, nanochat, unsloth, Hugging Face Trainer and TRL. One that begins
with a section, as eval_max_iters does, is what `max_iters` means in that section, too.
"""

from __future__ import annotations

APART = {
    # how often
    "set eval.eval_steps in optimizer steps, or eval.eval_epochs: 1 for one evaluation per epoch": "evals_per_epoch",
    "set train.save_steps in optimizer steps: the steps of an epoch / saves_per_epoch; the end is always saved": """
        saves_per_epoch""",
    "the first evaluation comes after eval.eval_steps; eval.at_start: true scores before the first step": """
        eval_delay eval_on_start eval_initial_validation do_initial_eval""",
    "the end is always scored and saved: leave it out": "eval_final_validation save_on_train_end",
    "set train.max_steps, or train.num_train_epochs; train.early_stopping_patience ends a run before that": """
        max_steps_per_epoch max_time max_train_time num_iterations target_flops target_param_data_ratio""",
    "write train.max_steps = tokens / (train.global_batch_size × data.max_length)": "train_max_tokens",
    "a sample comes with each evaluation: set eval.sample_prompt and eval.eval_steps": """
        sample_every evaluate_example eval_table_size do_causal_lm_eval predict_with_generate generate_during_eval""",
    "eval.max_tokens is in tokens: iterations × eval.micro_batch_size × data.max_length": """
        eval_iters eval_max_iters max_eval_iters""",
    "eval.max_tokens bounds what is scored, in tokens": "max_eval_samples eval_max_samples",
    "evaluation sums as it goes: leave it out; eval.micro_batch_size bounds its memory": """
        eval_accumulation_steps eval_do_concat_batches batch_eval_metrics""",
    "held-out loss and perplexity are what is scored: leave it out": """
        compute_accuracy eval_causal_lm_metrics include_for_metrics core_metric_every core_metric_max_per_task
        prediction_loss_only label_names""",
    # rates
    "optim.min_lr_ratio is a share of the peak: the lowest rate / optim.learning_rate": "min_lr min_learning_rate",
    "optim.min_lr_ratio is the last rate as a share of the peak": "final_lr_frac",
    "optim.learning_rate is for all but head and embeddings; docs/own-loop.md for rates by group": """
        matrix_lr scalar_lr loraplus_lr_ratio loraplus_lr_embedding lr_groups""",
    "optim.embedding_learning_rate and head_learning_rate take a factor of optim.learning_rate, too, such as 5x": """
        embedding_lr_scale""",
    "warm-up is linear: leave it out": "lr_quadratic_warmup",
    "no schedule takes further settings in one key: each has a key of its own in section optim": """
        lr_scheduler_kwargs""",
    # how much of the data
    "all rows of data.path are trained on: put the first rows into a file of their own, or set train.max_steps": """
        max_samples num_train_samples""",
    "data.sources mixes several sets, each with a weight; the files of data.path are put together whole": """
        mix_strategy interleave_probs interleave_under""",
    "data.shuffle shuffles the sequences of all files together": "shuffle_merged_datasets",
    "equal documents are kept: remove them before": "dataset_exact_deduplication",
    "the hold-out is by content, from data.validation_fraction or data.validation_path": """
        shuffle_before_merging_datasets""",
    "name files, a folder or a hub set in data.path, with data.source": "dataset_type ds_type",
    "tokens are kept in a verified cache, made anew where anything differs: leave it out": """
        overwrite_cache skip_prepare_dataset dataset_kwargs""",
    "text is read and tokenized in bounded memory: leave it out": """
        preprocessing_batch_size dataset_batch_size dataloader_prefetch_factor dataloader_pin_memory
        dataloader_persistent_workers sample_packing_bin_size sample_packing_group_size pin_memory prefetch_factor""",
    "data.packing says how rows are made, for training and evaluation: leave it out": """
        packing_strategy eval_packing eval_sample_packing pad_to_sequence_len pad_to_multiple_of pad_to_max_length
        pad_to_max_len dataloader_drop_last length_column_name""",
    "what is longer than data.max_length is cut off, and the run says how much: leave it out": """
        excess_length_strategy truncation_mode truncation_side drop_long_sequences truncation""",
    "targets are the next tokens, and data.loss_on says which: leave it out": """
        ignore_index label_pad_token_id train_on_eos roles_to_train roles""",
    "a system message stands in the data, as the first of its messages": """
        new_system_prompt default_system system_prompt system_message default_system_message""",
    "training is on text only: leave it out": "media_dir image_max_pixels video_max_pixels freeze_vision_tower",
    # model and tokenizer
    "the model says what it is: leave it out": """
        model_type is_falcon_derived_model is_llama_derived_model is_mistral_derived_model tokenizer_type
        use_fast_tokenizer tokenizer_legacy tokenizer_use_fast architecture strict model_class use_fast""",
    "name the tokens that the model has no rows for in model.new_tokens: that makes the embedding grow": """
        resize_vocab resize_token_embeddings""",
    "model.vocab_size says how many rows the embedding has: write a multiple of 32": """
        resize_token_embeddings_to_32x""",
    "special tokens are those of the tokenizer: set them there": "pad_token eos_token bos_token unk_token",
    "model.rope scales rotary positions, as in model.rope: {type: yarn, factor: 8} (docs/long-context.md)": """
        rope_scaling rope_scaling_factor rope_parameters rope_type overrides_of_model_config""",
    "a class is not named here: model.name_or_path, data.…, optim.method and log.report_to say what is built": """
        _component_ class_path init_args model_init_kwargs checkpoint_files recipe_checkpoint""",
    "section model has the dimensions one by one: model.num_hidden_layers, model.hidden_size and so on": """
        depth aspect_ratio head_dim""",
    "an export is made once the run is done: galore export RUN OUT": """
        export_dir export_size export_device export_hub_model_id save_merged""",
    "`galore generate RUN` answers from the trained model: leave it out": "infer_backend infer_dtype",
    # methods
    "optim.lora_alpha and optim.rank scale LoRA, which is the plain one: leave it out": """
        use_rslora lora_use_rslora peft_use_rslora use_dora peft_use_dora lora_use_dora use_pissa pissa_init
        pissa_iter pissa_convert loftq_config lora_fan_in_fan_out lora_task_type lora_bias bias init_lora_weights
        peft_init_lora_weights quantization_aware""",
    "optim.target_modules names the modules that get adapters, as in [self_attn, mlp]": """
        lora_query lora_key lora_value lora_projection lora_mlp lora_head apply_lora_to_mlp apply_lora_to_output""",
    "set optim.method: lora for adapters; full or galore train all weights": """
        use_peft full_finetuning unfrozen_parameters freeze_trainable_layers freeze_trainable_modules
        custom_sharded_layers""",
    "adapters begin anew: merge earlier ones into the model first, and name that in model.name_or_path": """
        adapter_name_or_path lora_model_dir""",
    "checkpoints hold all that is trained: leave it out": """
        save_adapter_weights_only save_on_each_node restore_callback_states_from_checkpoint save_first_step""",
    "set optim.residual: apollo and optim.proj_type: random": "use_apollo apollo_rank apollo_scale apollo_target",
    "it is not offered; optim.method: galore is the way here to train all weights in little memory": """
        use_badam badam_mode use_lisa lisa_n_layers use_llama_pro spectrum_top_fraction use_adam_mini""",
    "set optim.method: full and optim.inner: muon": "use_muon",
    "the loss is plain cross-entropy, computed without ever holding the logits: leave it out": """
        use_liger_kernel enable_liger_kernel liger_fused_linear_cross_entropy liger_layer_norm
        liger_cross_entropy flash_attn_cross_entropy
        flash_attn_fuse_mlp flash_attn_fuse_qkv use_unsloth unsloth_cross_entropy_loss cut_cross_entropy
        chunked_cross_entropy loss loss_type use_liger use_liger_loss liger_kernel_config plugins""",
    "there is no noise on embeddings and no smoothing of labels here: leave it out": """
        neftune_noise_alpha label_smoothing_factor label_smoothing noisy_embedding_alpha""",
    "preferences are not trained on here; galore.integrations.hf puts GaLore into TRL's trainers (docs/own-loop.md)": """
        rl pref_beta pref_loss pref_ftx dpo_beta dpo_use_logits_to_keep simpo_gamma kto_desirable_weight
        reward_model ref_model beta""",
    "attention by xformers is not offered; set model.attn_implementation": """
        xformers_attention flex_attention s2_attention shift_attn sage_attention eager_attention""",
    "base weights are not quantized while they train: leave it out": """
        quantization_method quantization_type quantization_device_map double_quantization upcast_layernorm
        upcast_lmhead_output bnb_4bit_quant_type bnb_4bit_compute_dtype bnb_4bit_use_double_quant gptq quantizer
        bnb_config_kwargs quantization_config""",
    # the machine
    "parallel.mode (ddp or fsdp) says all of how processes share a run: leave it out": """
        ddp_timeout ddp_backend ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers fsdp_config
        fsdp_version fsdp_cpu_offload fsdp_reshard_after_forward tensor_parallel_dim tensor_parallel_size
        context_parallel_size context_parallel_dim sequence_parallel_degree data_parallel_shard_dim
        data_parallel_replicate_dim dp_shard_size average_tokens_across_devices accelerator_config
        parallelism_config special_fsdp_modules debug_fsdp deepspeed_config ray_num_workers use_ray past_index""",
    "micro-batches are tried on paper: `galore profile-memory RECIPE --fit FILE` writes one that fits": """
        auto_find_batch_size""",
    "blocks are recomputed by torch's own way; train.gradient_checkpointing is true, false or a number of blocks": """
        gradient_checkpointing_kwargs disable_gradient_checkpointing""",
    "bfloat16 needs no loss scale, and the type is model.dtype: leave it out": """
        half_precision_backend fp16_opt_level fp16_full_eval fp16_backend loss_scale amp""",
    "torch.compile has its own defaults, and train.compile: true asks for it: leave it out": """
        torchdynamo torch_compile_backend torch_compile_mode""",
    "no compiler but torch.compile is used (train.compile: true): leave it out": "jit_mode_eval use_ipex",
    "memory is given back where it runs short: leave it out": "torch_empty_cache_steps",
    "train.deterministic: true": "full_determinism",
    "train.fused: auto": "liger_rope liger_rms_norm liger_glu_activation flash_attn_rms_norm",
    "steps whose gradients are not finite are skipped, and train.max_skipped_steps ends the run: leave it out": """
        loss_watchdog_threshold loss_watchdog_patience logging_nan_inf_filter""",
    "a resumed run goes on with the data where it stopped: leave it out": "ignore_data_skip",
    "torch's fused or foreach ways change nothing that is seen here: leave it out": """
        fused foreach optim.fused""",
    # what is written
    "metrics.jsonl in the run's folder has every step, and report.md the plots: leave it out": """
        plot_loss logging_dir log_dir logging_first_step log_peak_memory_stats include_num_input_tokens_seen
        include_tokens_per_second include_effective_tokens_per_second log_on_each_node profiler profile_memory
        use_tensorboard tensorboard_log_dir""",
    "`galore train --verbose` shows more, and output that is no terminal's gets plain lines: leave it out": """
        log_level log_level_replica disable_tqdm debug verbose progress_bar""",
    "wandb reads its own environment variables, such as WANDB_ENTITY; models and code are not sent: leave it out": """
        wandb_entity wandb_watch wandb_log_model wandb_run_id wandb_api_key""",
    "after the run: galore export RUN OUT, and upload that folder": """
        hub_strategy hub_private_repo hub_always_push hub_revision push_to_hub_token""",
    "tokens are read from the environment only, the hub's from HF_TOKEN: leave it out": "access_token api_token hub_token",
}
