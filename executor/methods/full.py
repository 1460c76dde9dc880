"""Full fine-tuning: every weight trains."""

from typing import Any


def attach(model: Any) -> Any:
    """Every parameter of the model, trainable."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model
