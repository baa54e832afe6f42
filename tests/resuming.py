"""A fit that is stopped on the way and goes on is the one that was not stopped, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import zoo


def check_resumed(model: Any, x: Any, out: Path, column: str, **options: Any) -> None:
    """Fit whole; fit until two fifths are done, and go on; the same parameters and the same column of the history."""
    whole = zoo.fit(model, x, **options)

    def stop(row: dict[str, Any], fraction: float | None) -> None:
        if fraction is not None and fraction > 0.4:
            raise KeyboardInterrupt

    cut = zoo.fit(model, x, out=out, checkpoint_every=1, progress=stop, **options)
    assert cut.status == "interrupted"
    torch.manual_seed(99)
    again = zoo.fit(model, x, out=out, resume=True, **options)
    assert again.status == whole.status
    assert again.history[column] == whole.history[column]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
