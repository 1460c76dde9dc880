"""The names of a screen's views, the one shown marked; a click shows another."""

from textual.content import Content
from textual.widgets import Static


class ViewBar(Static):
    """``‹ledger›  phases   tensors   step``"""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(id="views")
        self._names = names

    def show(self, current: str) -> None:
        """Mark one of them."""
        parts = [
            (Content.styled(f"‹{name}›", "bold reverse") if name == current else Content(f" {name} ")).stylize(
                f"@click=screen.view('{name}')"
            )
            for name in self._names
        ]
        self.update(Content(" ").join(parts))
