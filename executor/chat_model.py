"""One base, and the adapters of several runs on it: switched between questions, nothing loaded again."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from vramplan.executor.chat_wire import Answered, Ask, ChatRequest, Piece, Ready
from vramplan.executor.finished_model import load_for_use, load_tuned, tokenizer_of, use_device, with_adapter
from vramplan.executor.process import Stop
from vramplan.planner.errors import UnsupportedError
from vramplan.planner.methods import trains_base
from vramplan.planner.values import Value


class ChatModel:
    """Loads on construction.

    Raises:
        ModelMissingError: the base is not where the first run's plan says.
        RunError: an adapter does not fit.
    """

    def __init__(self, request: ChatRequest, say: Callable[[str], None]) -> None:
        first, plan = request.runs[0], request.runs[0].plan()
        self.device = use_device()
        self.encodes = plan.workload.task == "seq2seq"
        self.tokenizers = [tokenizer_of(run, run.plan()) for run in request.runs]
        say(f"loading {plan.model.repo_id}")
        self.adapted = not trains_base(plan.setup.method)
        if not self.adapted:
            self.model = load_tuned(first, plan, device=self.device)
            return
        self.model = load_for_use(plan, device=self.device)
        for number, run in enumerate(request.runs):
            say(f"adding the adapter of {run.name}")
            self.model = with_adapter(self.model, run, run.plan(), name=adapter_name(number))

    @property
    def ready(self) -> Ready:
        return Ready(device=self.device, has_template=all(each.chat_template for each in self.tokenizers))

    def answer(self, ask: Ask, send: Callable[[Value], None], stop: Stop) -> Answered:
        """Generate an answer, sending pieces as they come.

        Raises:
            UnsupportedError: the tokenizer has no chat template to write the turns with.
        """
        import torch
        from transformers import set_seed

        began = time.monotonic()
        tokenizer = self.tokenizers[ask.run or 0]
        inputs = self._inputs(tokenizer, ask)
        set_seed(ask.seed)
        sampling = {"do_sample": True, "temperature": ask.temperature} if ask.temperature else {"do_sample": False}
        pieces = Pieces(tokenizer, send)
        with self._switched(ask.run), torch.inference_mode():
            self.model.generate(
                **inputs,
                **sampling,
                max_new_tokens=ask.max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=self._ends(tokenizer),
                streamer=pieces,
                stopping_criteria=[_Stopped(stop)],
            )
        return Answered(new_tokens=pieces.tokens, seconds=time.monotonic() - began, stopped=stop.requested)

    def _ends(self, tokenizer: Any) -> list[int]:
        """Tokens that end an answer: those of the generation config, and the one training put after each row."""
        named = self.model.generation_config.eos_token_id
        ends = set(named if isinstance(named, list) else [named]) | {tokenizer.eos_token_id}
        return sorted(ends - {None})

    def _inputs(self, tokenizer: Any, ask: Ask) -> Any:
        if ask.template:
            if not tokenizer.chat_template:
                raise UnsupportedError("this tokenizer has no chat template", remedy="chat with --no-template")
            turns = [turn.model_dump() for turn in ask.turns]
            inputs = tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        else:
            inputs = tokenizer(ask.turns[-1].content, return_tensors="pt", return_token_type_ids=False)
        return inputs.to(self.device)

    @contextmanager
    def _switched(self, run: int | None) -> Iterator[None]:
        """The model as one run left it, or the base alone."""
        if not self.adapted:
            yield
        elif run is None:
            with self.model.disable_adapter():
                yield
        else:
            self.model.set_adapter(adapter_name(run))
            yield


def adapter_name(number: int) -> str:
    """PEFT's name of a run's adapter."""
    return f"run{number}"


def chat(request: str, send: Callable[[Value], None], stop: Stop, lines: Iterator[str]) -> None:
    """Answer one ``Ask`` a line until there are no more.

    Args:
        request: a ``ChatRequest`` as JSON.
    """
    from vramplan.executor.finished_worker import narrate

    model = ChatModel(ChatRequest.model_validate_json(request), narrate(send))
    stop.patient = True
    send(model.ready)
    for line in lines:
        stop.requested = False
        send(model.answer(Ask.model_validate_json(line), send, stop))


class Pieces(BaseStreamer):  # type: ignore[misc]
    """Sends text as soon as no later token can change it: transformers' own streamer waits for a space, which some
    languages never write. A character of several tokens is replaced (U+FFFD) until its last one is there."""

    def __init__(self, tokenizer: Any, send: Callable[[Value], None]) -> None:
        self.tokenizer = tokenizer
        self.send = send
        self.tokens = 0
        self._line: list[int] = []
        """Tokens since the last line break; what is before one is never decoded again."""
        self._sent = ""
        """The part of the line that was sent."""
        self._prompt_is_next = True

    def put(self, value: Any) -> None:
        """The prompt at first, then every new token."""
        if self._prompt_is_next:
            self._prompt_is_next = False
            return
        new = value.flatten().tolist()
        self.tokens += len(new)
        self._line += new
        text = self._text()
        if text.endswith("\ufffd"):
            return
        self._tell(text)
        if text.endswith("\n"):
            self._line, self._sent = [], ""

    def end(self) -> None:
        """Send what is left."""
        self._tell(self._text())

    def _text(self) -> str:
        return str(self.tokenizer.decode(self._line, skip_special_tokens=True))

    def _tell(self, text: str) -> None:
        if len(text) > len(self._sent):
            self.send(Piece(text=text[len(self._sent) :]))
            self._sent = text


class _Stopped(StoppingCriteria):  # type: ignore[misc]
    """True once somebody asked to stop."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        import torch

        return torch.full((input_ids.shape[0],), self.stop.requested, device=input_ids.device)
