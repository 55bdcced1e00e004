"""RetNet among transformers' Auto classes, and its code as files that stand beside exported weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig

from galore.kernels.model import retention
from galore.trainer.common.reading import read_bounded
from galore.trainer.models.retnet import configuration_retnet, modeling_retnet
from galore.trainer.models.retnet.configuration_retnet import RetNetConfig
from galore.trainer.models.retnet.modeling_retnet import RetNetForCausalLM, RetNetModel

FILES = (configuration_retnet, modeling_retnet, retention)
_OURS = re.compile(r"^from galore\.\S+\.(\w+) import", re.MULTILINE)

# so that this code is what galore runs, and never what a folder brings
AutoConfig.register(RetNetConfig.model_type, RetNetConfig)
AutoModel.register(RetNetConfig, RetNetModel)
AutoModelForCausalLM.register(RetNetConfig, RetNetForCausalLM)


def brings_code(config: PreTrainedConfig) -> bool:
    """Whether transformers alone needs code beside the weights of such a model, and leave to run it."""
    return isinstance(config, RetNetConfig)


def code_files(config: PreTrainedConfig) -> Iterator[tuple[str, str]]:
    """Name and text of each file that has to stand beside the weights of such a model; none for most."""
    for module in FILES if brings_code(config) else ():
        file = Path(str(module.__file__))
        yield file.name, _OURS.sub(r"from .\1 import", read_bounded(file).decode())
