"""The character language models of unit scaling (arXiv 2303.11257), known to transformers' ``Auto`` classes on import.

``configuration.py``: their sizes. ``layers.py``: residual layers, feed-forward and convolution. ``attention.py`` and
``recurrent.py``: the other two ways to mix a sequence. ``network.py``: the whole model and its initialisation.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from qexp.models.charlm.configuration import CharLMConfig
from qexp.models.charlm.network import CharLMForCausalLM, CharLMModel

__all__ = ["CharLMConfig", "CharLMForCausalLM", "CharLMModel"]

AutoConfig.register(CharLMConfig.model_type, CharLMConfig)
AutoModel.register(CharLMConfig, CharLMModel)
AutoModelForCausalLM.register(CharLMConfig, CharLMForCausalLM)
