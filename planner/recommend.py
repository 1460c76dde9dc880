"""Which setup to take: every setup of the space compared (``merits``), the best of each method in order, a front of
those that none beats in memory, time and evidence together, the rejected with a way out.

The comparison is exact, though few setups are priced: what a setup takes at least (``bounds``) rules most of them out,
and the rest are looked at best first (``search``). docs/recommend.md explains the order.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import log2
from typing import Any

from vramplan.planner.bounds import Least, SetupBounds
from vramplan.planner.candidate import Candidate
from vramplan.planner.device import Device, share_of_rank
from vramplan.planner.errors import NoProgramError, UnsupportedError, UsageError
from vramplan.planner.memory.static import count_static
from vramplan.planner.merits import Known, Merits, speed_of
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.objectives import Objectives, why_ruled_out
from vramplan.planner.reasons import reasons_for
from vramplan.planner.recommendation import Alternative, Recommendation, Searched
from vramplan.planner.resolve import Resolved
from vramplan.planner.search import Found, Key, Step, best_first, front
from vramplan.planner.space import MAIN_METHODS, Cell, Space, Subject, space_of
from vramplan.planner.suggest import Rank, suggest_rank, suggestions
from vramplan.planner.ways_out import rejected
from vramplan.planner.workload import RowLengths

Price = Callable[[Resolved], Candidate]
"""A complete setup to its price; raises NoProgramError or UnsupportedError where there is none."""
METHODS_RANKED = 4
"""Methods whose best setup is looked for; the others are behind all of these."""
ALTERNATIVES = 4
"""Setups of the front that are priced."""
_UNPRICED = (NoProgramError, UnsupportedError)


def recommend(
    model: ModelSpec,
    device: Device | None,
    given: Mapping[str, Any],
    price: Price,
    *,
    num_examples: int | None = None,
    rows: RowLengths | None = None,
    objectives: Objectives | None = None,
    bounds: SetupBounds | None = None,
) -> Recommendation:
    """Compare every setup under the options a person gave.

    Args:
        given: options by name, as ``resolve`` takes them; see ``space`` for what of them is varied.
        num_examples: rows of the training file, where there is one.
        rows: how long its rows are, where that was measured.
        objectives: what matters; quality first where nothing is said.
        bounds: without them every setup is priced.

    Raises:
        UsageError: the options make no sense.
        NoProgramError, UnsupportedError: not one method could be priced; the first reason.
    """
    objectives = objectives or Objectives()
    subject = Subject(model, device, num_examples, rows)
    rank = _suggested_rank(given, subject, objectives)
    return _Comparison(subject, given, price, objectives, rank, bounds).answer()


def _suggested_rank(given: Mapping[str, Any], subject: Subject, objectives: Objectives) -> Rank:
    options = {
        name: value for name, value in given.items() if name in ("target", "sequence_length", "task", "num_labels")
    }
    params, tokens = None, None
    try:
        one = subject.resolve({**options, "method": "lora", "rank": 1})
        params = count_static(subject.model, one.setup).trainable_params
        if subject.rows is not None and subject.rows.histogram is not None:
            tokens = subject.rows.histogram.cut(one.workload.sequence_length).kept_tokens
        elif subject.num_examples is not None:
            tokens = subject.num_examples * one.workload.sequence_length
    except UsageError:  # no LoRA on this model; then nothing asks for a rank
        pass
    return suggest_rank(objectives.complexity, tokens, params, given=given.get("rank"))


class _Comparison:
    """One question, with what has been learnt of its cells so far."""

    def __init__(
        self,
        subject: Subject,
        given: Mapping[str, Any],
        price: Price,
        objectives: Objectives,
        rank: Rank,
        bounds: SetupBounds | None,
    ) -> None:
        self.subject, self.given, self.objectives, self.rank, self.bounds = subject, given, objectives, rank, bounds
        self.merits = Merits(subject.model, subject.device, objectives, rank=rank.rank, data=rank.data)
        self.space: Space = space_of(given, subject, rank.rank)
        share = None if subject.device is None else share_of_rank(subject.device, int(given.get("gpus") or 1))
        self.available = None if share is None else share.available_bytes
        self.failures: dict[str, Exception] = dict(self.space.failures)
        self._price = price
        self._priced: dict[
            int, tuple[Cell, Candidate]
        ] = {}  # by identity; the cell is kept so that no other gets its own
        self._known: dict[int, Known] = {}
        self._done: set[str] = set()
        self.ruled_out = self._needs()

    def answer(self) -> Recommendation:
        """Everything, in order."""
        cells = [cell for cell in self.space.cells if cell.kind not in self.ruled_out]
        best = self._best(cells)
        alternatives = self._front(cells)
        turned_down = tuple(
            rejected(self._asked(), [found.item for found in best], cells, self.candidate, self.may_fit, self.subject)
        )
        if not best and not turned_down and self.failures:
            named = (self.given.get("method"), *MAIN_METHODS, *self.failures)
            raise next(self.failures[kind] for kind in named if kind in self.failures)
        known = {cell.kind for cell, _ in self._priced.values()}
        candidates = tuple(self._candidate(found.item) for found in best)
        seen = [candidate for _, candidate in self._priced.values()]
        return Recommendation(
            ranked=candidates,
            reasons=tuple(
                reasons_for(self._candidate(found.item), self.rank.data, self.objectives, seen) for found in best
            ),
            tiers=tuple(self.merits.tier(found.item) for found in best),
            options=tuple(dict(found.item.given) for found in best),
            front=alternatives,
            rejected=turned_down,
            ruled_out=tuple(self.ruled_out.values()),
            unpriced=tuple(f"{kind}: {_words(error)}" for kind, error in self.failures.items() if kind not in known),
            suggestions=self._suggestions(best),
            objectives=self.objectives,
            searched=Searched(
                setups=len(self.space.cells),
                ruled_out_by_bound=len(self.space.cells) - len(self._priced),
                priced=len(self._priced),
            ),
        )

    def _needs(self) -> dict[str, str]:
        asked = self.space.asked.items()
        needs = (
            (kind, why_ruled_out(cell.setup.method, self.objectives, cell.workload.sequence_length))
            for kind, cell in asked
        )
        return {kind: why for kind, why in needs if why is not None}

    def _asked(self) -> list[Cell]:
        """The methods as they were asked for that a person should hear of when they do not fit."""
        named = (*MAIN_METHODS, self.given.get("method"))
        return [cell for kind, cell in self.space.asked.items() if kind in named and kind not in self.ruled_out]

    # -------------------------------------------------------------- what is known of a cell
    def candidate(self, cell: Cell) -> Candidate | None:
        """Its price, asked for once; None where it has none."""
        if id(cell) not in self._priced:
            try:
                self._priced[id(cell)] = cell, self._price(self.subject.resolve(cell.given))
            except _UNPRICED as error:
                self._fail(cell, error)
                return None
        return self._candidate(cell)

    def _candidate(self, cell: Cell) -> Candidate:
        return self._priced[id(cell)][1]

    def may_fit(self, cell: Cell) -> bool:
        """Whether a cell may fit, as far as bounds can tell."""
        if self.bounds is None or self.available is None:
            return True
        if not self._static_fits(cell):
            return False
        least = self._least(cell)
        return least is not None and least.high_process_bytes <= self.available

    def _least(self, cell: Cell) -> Least | None:
        assert self.bounds is not None
        try:
            return self.bounds.allocated(cell)
        except _UNPRICED as error:
            self._fail(cell, error)
            return None

    def _fail(self, cell: Cell, error: Exception) -> None:
        if not cell.changes:
            self.failures.setdefault(cell.kind, error)

    def _key(self, cell: Cell, known: Known) -> Key:
        self._known[id(cell)] = known
        return self.merits.key(cell, known)

    # -------------------------------------------------------------- the steps of the search
    def _steps(self) -> list[Step[Cell]]:
        if self.bounds is None:
            return [lambda cell: self.merits.key(cell, Known()), self._by_price]
        return [self._by_static, self._by_allocated, self._by_time, self._by_price]

    def _by_static(self, cell: Cell) -> Key | None:
        assert self.bounds is not None
        try:
            return self._bounded(cell, self.bounds.static(cell))
        except UsageError as error:
            self._fail(cell, error)
            return None

    def _by_allocated(self, cell: Cell) -> Key | None:
        if self._is_settled(cell):
            return None
        least = self._least(cell)
        return None if least is None else self._bounded(cell, least)

    def _bounded(self, cell: Cell, least: Least) -> Key | None:
        if self.available is not None and least.process_bytes > self.available:
            return None
        tight = self.available is not None and least.high_process_bytes > self.available
        return self._key(cell, Known(least.high_process_bytes, tight))

    def _by_time(self, cell: Cell) -> Key | None:
        assert self.bounds is not None
        if self._is_settled(cell):
            return None
        return self._key(cell, replace(self._known[id(cell)], speed=speed_of(self.bounds.time(cell))))

    def _by_price(self, cell: Cell) -> Key | None:
        candidate = None if self._is_settled(cell) else self.candidate(cell)
        if candidate is None or candidate.verdict == "no":
            return None
        known = Known(candidate.budget.high_process_bytes, candidate.verdict == "tight", speed_of(candidate.time))
        return self._key(cell, known)

    def _is_settled(self, cell: Cell) -> bool:
        """Its method's best was found, or something that is known to learn was and this is not."""
        return cell.kind in self._done or (
            self.merits.is_weak(cell) and bool(self._done) and self.given.get("method") is None
        )

    # -------------------------------------------------------------- the answers
    def _best(self, cells: Sequence[Cell]) -> list[Found[Cell]]:
        """The best cell of each method, best first."""
        found: list[Found[Cell]] = []
        for each in best_first(cells, self._steps()):
            if each.item.kind not in self._done:
                found.append(each)
                self._done.add(each.item.kind)
            if len(found) == METHODS_RANKED:
                break
        return found

    def _front(self, cells: Sequence[Cell]) -> tuple[Alternative, ...]:
        """The cells without doubts that fit and are on the front, from the least memory to the most."""
        if self.bounds is None or self.available is None:
            return ()
        left = list(self._contenders(cells))
        while True:
            members = _spread(front(left, lambda each: each[0]))
            unfit = [each for each in members if not self._fits(each[1])]
            if not unfit:
                break
            left = [each for each in left if each not in unfit]
        alternatives = [
            Alternative(candidate=self._candidate(cell), options=dict(cell.given), evidence_tier=self.merits.tier(cell))
            for _, cell in members
        ]
        return tuple(sorted(alternatives, key=lambda each: each.candidate.budget.high_process_bytes))

    def _contenders(self, cells: Sequence[Cell]) -> Iterator[tuple[Key, Cell]]:
        for cell in cells:
            if self.merits.doubts(cell) or self.merits.is_weak(cell) or not self.may_fit(cell):
                continue
            assert self.bounds is not None
            least, time = self.bounds.allocated(cell), self.bounds.time(cell)
            tier = self.merits.tier(cell)
            yield (_same_memory(least.high_process_bytes), speed_of(time), tier, len(cell.changes)), cell

    def _static_fits(self, cell: Cell) -> bool:
        assert self.bounds is not None
        assert self.available is not None
        try:
            return self.bounds.static(cell).high_process_bytes <= self.available
        except UsageError:
            return False

    def _fits(self, cell: Cell) -> bool:
        candidate = self.candidate(cell)
        return candidate is not None and candidate.verdict == "fits"

    def _suggestions(self, best: Sequence[Found[Cell]]) -> Any:
        if not best:
            return ()
        resolved = self.subject.resolve(best[0].item.given)
        return suggestions(resolved, self.rank, task=resolved.workload.task, num_examples=self.subject.num_examples)


def _same_memory(size_bytes: int) -> int:
    """The same figure for sizes within 5 % of each other."""
    return round(log2(size_bytes) / log2(1.05))


def _spread(members: list[tuple[Key, Cell]]) -> list[tuple[Key, Cell]]:
    """At most so many, evenly over the memory they take, the ends among them."""
    ordered = sorted(members, key=lambda each: each[0])
    if len(ordered) <= ALTERNATIVES:
        return ordered
    last = len(ordered) - 1
    return [ordered[round(place * last / (ALTERNATIVES - 1))] for place in range(ALTERNATIVES)]


def _words(error: Exception) -> str:
    return str(error.args[0])
