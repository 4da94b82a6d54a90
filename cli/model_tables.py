"""Tables of models that fit the screen: a number that is cut off is a wrong one, so names fold and columns give way."""

from collections.abc import Sequence

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

UNBOUNDED = 240  # columns, where no terminal sets a width
BEST = " *"  # ends the cell of the best
_GAP = 2  # columns of the screen between those of the table
_NAME_WIDTH = 24  # what a model's id needs at least, folded


class Column(msgspec.Struct, frozen=True):
    """One column: its title, its cells, and when it gives way on a narrow screen (the highest first; 0: never)."""

    title: str
    cells: Sequence[str]
    gives_way: int = 0
    right: bool = True

    @property
    def width(self) -> int:
        """Columns of the screen that its cells need."""
        return max(len(self.title), *(len(cell) for cell in self.cells)) if self.cells else len(self.title)


def console() -> Console:
    """Return where tables go: the terminal, or wide lines where there is none."""
    found = Console()
    return found if found.is_terminal else Console(width=UNBOUNDED)


def table_of(name: Column, columns: Sequence[Column], width: int) -> RenderableType:
    """Return a table whose first column folds, with as many of the others as fit."""
    shown = _fitting(columns, width - min(name.width, _NAME_WIDTH))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(name.title, overflow="fold")
    for column in shown:
        table.add_column(
            column.title, justify="right" if column.right else "left", no_wrap=True, min_width=column.width
        )
    for place, cell in enumerate(name.cells):
        table.add_row(Text(cell), *(Text(column.cells[place]) for column in shown))
    return table


def side_by_side(labels: Sequence[str], models: Sequence[Column], width: int) -> list[RenderableType]:
    """Return tables with a row for each label and a column for each model, as many models in each as fit."""
    left = max(len(label) for label in labels)
    widest = max(len(cell.removesuffix(BEST)) for model in models for cell in model.cells) + len(BEST)
    each = max(widest, _NAME_WIDTH // 2) + _GAP
    fit = max(1, (width - left) // each)
    return [_side(labels, models[start : start + fit], left) for start in range(0, len(models), fit)]


def _side(labels: Sequence[str], models: Sequence[Column], left: int) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True, min_width=left)
    for model in models:
        least = max((len(cell.removesuffix(BEST)) for cell in model.cells), default=0) + len(BEST)
        table.add_column(model.title, justify="right", overflow="fold", min_width=least)
    for place, label in enumerate(labels):
        table.add_row(Text(label), *(_starred(model.cells[place]) for model in models))
    return table


def _starred(cell: str) -> Text:
    """Return a cell of a comparison; one without a star ends where the others' numbers do."""
    return Text(cell, style="green") if cell.endswith(BEST) else Text(cell + " " * len(BEST))


def _fitting(columns: Sequence[Column], width: int) -> list[Column]:
    shown = [column for column in columns if any(cell not in ("", "-") for cell in column.cells)]
    for column in sorted(shown, key=lambda one: -one.gives_way):
        if sum(one.width + _GAP for one in shown) <= width or not column.gives_way:
            break
        shown.remove(column)
    return shown
