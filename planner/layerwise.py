"""Which parameters learn at the lower layers' rate, told from a parameter's name alone.

Howard and Ruder (2018, arXiv:1801.06146, section 3.2) give lower layers smaller rates, because they hold what is
general; embeddings lie below the first layer.
"""

import re

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
_EMBEDDINGS = ("embed", "wte.", "wpe.", "shared.")


def learns_slower(name: str, lower_layers: int) -> bool:
    """Whether a parameter is an embedding or of one of the first ``lower_layers`` layers.

    >>> [learns_slower(f"model.{name}.weight", 6) for name in ("embed_tokens", "layers.5.mlp.up_proj")]
    [True, True]
    >>> [learns_slower(f"model.{name}.weight", 6) for name in ("layers.6.mlp.up_proj", "norm", "lm_head")]
    [False, False, False]
    """
    layer = _LAYER.search(name)
    if layer is not None:
        return int(layer[1]) < lower_layers
    return any(part in name for part in _EMBEDDINGS)
