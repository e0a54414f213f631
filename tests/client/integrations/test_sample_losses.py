"""Losses by sample, beside the mean that the models themselves give."""

from __future__ import annotations

import pytest
import torch

from infobatch_stream import ConfigError

transformers = pytest.importorskip("transformers")

from infobatch_client.integrations.sample_losses import language_model_losses, sample_losses  # noqa: E402

SMALL = {"vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def bert(**settings: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, **settings)).eval()


def tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(0, 16, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ({"num_labels": 3}, torch.tensor([0, 2, 1, 1])),
        ({"num_labels": 1}, torch.tensor([0.5, -1.0, 2.0, 0.0])),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, torch.eye(4, 3)),
    ],
    ids=["classes", "regression", "several labels"],
)
def test_their_mean_is_the_models_own_loss(settings: dict[str, object], labels: torch.Tensor) -> None:
    model = bert(**settings)
    inputs = {"input_ids": tokens(4, 5), "labels": labels}
    losses, outputs = sample_losses(model, model, inputs)
    assert losses.shape == (4,)
    assert outputs.logits.shape == (4, settings["num_labels"])
    torch.testing.assert_close(losses.mean(), model(**inputs).loss)


def test_a_sample_has_the_loss_that_it_has_alone() -> None:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)).eval()
    ids = tokens(3, 6)
    labels = ids.clone()
    labels[0, 4:] = -100
    labels[2, :3] = -100
    losses, _ = sample_losses(model, model, {"input_ids": ids, "labels": labels})
    alone = [model(input_ids=ids[row : row + 1], labels=labels[row : row + 1]).loss for row in range(3)]
    torch.testing.assert_close(losses, torch.stack(alone))


def test_a_sample_without_a_label_has_loss_0_and_no_gradient() -> None:
    logits = torch.randn(2, 4, 16, requires_grad=True)
    labels = torch.tensor([[1, 2, 3, 4], [5, -100, -100, -100]])  # the first label is nobody's next
    losses = language_model_losses(logits, labels)
    assert losses[1] == 0
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad[1].abs().sum() == 0
    assert logits.grad[0].abs().sum() > 0


def test_other_models_and_missing_labels_are_refused() -> None:
    model = bert(num_labels=3)
    with pytest.raises(ConfigError, match="the batch has input_ids, and no labels"):
        sample_losses(model, model, {"input_ids": tokens(4, 5)})
    other = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="the losses by sample of a Linear are not known: override compute_losses"):
        sample_losses(other, other, {"labels": torch.zeros(2)})
