"""Losses by sample of common transformers models: classification and causal language models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F
from transformers.models.auto import modeling_auto

from infobatch_stream.errors import ConfigError

__all__ = ["classification_losses", "language_model_losses", "sample_losses"]

IGNORED = -100


def sample_losses(model: Any, unwrapped: Any, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, Any]:
    """Losses float (B,) and the outputs of a model that transformers knows as a classifier or causal language model.

    Terms that belong to no sample, such as a router's, are left out.

    Args:
        model: the model to call, perhaps in a wrapper.
        unwrapped: the model itself; its class decides how losses are computed.
        inputs: its arguments, with `labels`.

    Raises:
        ConfigError: another model, or no labels.
    """
    losses_of = _losses_by_class().get(type(unwrapped).__name__)
    if losses_of is None:
        raise ConfigError(
            f"the losses by sample of a {type(unwrapped).__name__} are not known: override compute_losses(model, "
            "inputs) to return them, (B,)"
        )
    if "labels" not in inputs:
        raise ConfigError(f"the batch has {', '.join(sorted(inputs))}, and no labels to take losses of")
    outputs = model(**{key: value for key, value in inputs.items() if key != "labels"})
    logits = outputs[0] if isinstance(outputs, tuple) else outputs.logits
    return losses_of(logits, inputs["labels"]), outputs


def classification_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As transformers has them, but (B,): cross-entropy for classes, else the mean over a sample's targets.

    Args:
        logits: float (B, K).
        labels: int64 (B,) classes; or float (B, K), several labels a sample; with K = 1 float (B,), a regression.
    """
    if logits.shape[-1] == 1:
        return (logits.squeeze(-1) - labels.view(-1)).square()
    if labels.is_floating_point():
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=-1)
    return F.cross_entropy(logits, labels.view(-1), reduction="none")


def language_model_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each sample's next tokens, (B,); labels of −100 don't count; without any other it is 0.

    Args:
        logits: float (B, T, V); position t is for the label at t + 1.
        labels: int64 (B, T).
    """
    targets = labels[:, 1:]
    tokens = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), targets, reduction="none", ignore_index=IGNORED)
    return tokens.sum(dim=1) / targets.ne(IGNORED).sum(dim=1).clamp(min=1)


def _losses_by_class() -> dict[str, Any]:
    losses: dict[str, Any] = {}
    for name in (
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
        "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    ):
        for classes in getattr(modeling_auto, name).values():
            names = [classes] if isinstance(classes, str) else classes
            losses |= dict.fromkeys(names, classification_losses)
    return losses | dict.fromkeys(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(), language_model_losses)
