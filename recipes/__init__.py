"""YAML only: demo, finetune-instruct, roberta-glue, llama-60m … llama-13b and their variants."""
