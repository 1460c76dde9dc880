"""Where to start: rank, alpha, learning rate, epochs, each with the place it comes from.

An adapter stores about 2 bits a trained parameter (arXiv:2404.05405), and a token of text has at most about 1 bit to
learn (LoRA Without Regret, 2025). The rank follows the task's complexity, and is doubled while the data holds more than
that.
"""

from typing import NamedTuple

from vramplan.planner.evidence import RANK_OF_COMPLEXITY, SCHULMAN, Data
from vramplan.planner.methods import Lora, Qlora
from vramplan.planner.objectives import Complexity
from vramplan.planner.recommendation import Suggestion
from vramplan.planner.resolve import Resolved
from vramplan.planner.units import format_count

BITS_PER_PARAMETER = 2
LARGEST_SUGGESTED_RANK = 64
"""The largest rank of PEFT's comparison that learnt more than smaller ones."""
_FEW_ROWS, _MANY_ROWS = 2_000, 100_000


class Rank(NamedTuple):
    """A rank, why, and whether adapters of it can hold what the data teaches."""

    rank: int
    because: str
    source: str
    data: Data


def suggest_rank(
    complexity: Complexity, data_tokens: int | None, params_per_rank: int | None, *, given: int | None = None
) -> Rank:
    """The rank to start from.

    Args:
        data_tokens: of one epoch; None without a training file.
        params_per_rank: trained parameters of an adapter of rank 1; None where none can be put on the model.
        given: the rank a person asked for, which stays.

    >>> suggest_rank("moderate", 898 * 1024, 2_621_440).rank, suggest_rank("simple", None, 2_621_440).rank
    (16, 8)
    >>> suggest_rank("moderate", 10**9, 2_621_440).data
    'large'
    """
    rank = given or RANK_OF_COMPLEXITY[complexity]
    because, source = (
        f"a {complexity} task",
        "rule of thumb; LoRA's paper, arXiv:2106.09685, table 6: little between 4 and 64",
    )
    if data_tokens is None or params_per_rank is None:
        return Rank(rank, because, source, "unknown")
    while given is None and rank < LARGEST_SUGGESTED_RANK and not _holds(rank * params_per_rank, data_tokens):
        rank *= 2
        because, source = f"{format_count(data_tokens)} tokens of data ask for as many parameters", SCHULMAN
    return Rank(rank, because, source, "small" if _holds(rank * params_per_rank, data_tokens) else "large")


def _holds(trained_params: int, data_tokens: int) -> bool:
    return data_tokens <= BITS_PER_PARAMETER * trained_params


def suggestions(resolved: Resolved, rank: Rank, *, task: str, num_examples: int | None) -> tuple[Suggestion, ...]:
    """What to start from with the first setup."""
    out = []
    method = resolved.setup.method
    if isinstance(method, Lora | Qlora):
        out.append(Suggestion(name="rank", value=str(method.r), because=rank.because, source=rank.source))
        alpha = f"{method.lora_alpha / method.r:g} x rank"
        because = "LoRA's scale is alpha / rank, so it stays while the rank changes"
        source = "Biderman et al., 2024, arXiv:2405.09673: alpha = 2 x rank"
        out.append(Suggestion(name="alpha", value=f"{method.lora_alpha} ({alpha})", because=because, source=source))
    rate = next((option for option in resolved.options if option.name == "learning_rate"), None)
    if rate is not None:
        because = "given" if rate.origin == "given" else "try a third and three times of it"
        out.append(
            Suggestion(name="learning rate", value=f"{rate.value:g}", because=because, source=rate.because or "given")
        )
    return (*out, _epochs(task, num_examples))


def _epochs(task: str, num_examples: int | None) -> Suggestion:
    if task == "classification":
        return Suggestion(name="epochs", value="2 to 4", because="classification", source="BERT, arXiv:1810.04805, A.3")
    if num_examples is None:
        value, because, source = "1 to 3", "the size of the data is not known", "Alpaca (Taori et al., 2023) took 3"
    elif num_examples <= _FEW_ROWS:
        value, because, source = "3 to 15", f"{num_examples:,} rows", "LIMA, arXiv:2305.11206: 15 over 1,000 rows"
    elif num_examples <= _MANY_ROWS:
        value, because, source = "1 to 3", f"{num_examples:,} rows", "Alpaca (Taori et al., 2023): 3 over 52,002 rows"
    else:
        value, because, source = "1", f"{num_examples:,} rows", "Llama 2's SFT, arXiv:2307.09288: 2 over 27,540 rows"
    return Suggestion(name="epochs", value=value, because=because, source=source)
