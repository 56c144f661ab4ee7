"""What classifiers that wrap another one share."""

from __future__ import annotations

from torch import nn

from captum_deduce.classifiers.layers import find_layer


class WrappedClassifier(nn.Module):
    """A classifier that runs another one, and passes what describes the images to ``features``.

    Args:
        model (nn.Module): The other one. Not copied.

    Attributes:
        model (nn.Module): Likewise.
        features (nn.Module): Outputs the features, N x D.

    Raises:
        TypeError: A model that is no module.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        self.model = model
        self.features = nn.Identity()
        # Not train(), which would change the mode of the model's parts.
        self.training = self.features.training = model.training

    def name_of(self, layer: nn.Module | str) -> str:
        """Find a layer of the model.

        Args:
            layer (nn.Module or str): The layer, or its dotted name.

        Returns:
            str: Its dotted name: what finds it in copies of the model, too.

        Raises:
            TypeError: Neither a module nor a name.
            ValueError: Not part of the model.
        """
        found = find_layer(self.model, layer)
        names: dict[nn.Module, str] = {part: name for name, part in self.model.named_modules()}
        return names[found] if found is not None else str(layer)
