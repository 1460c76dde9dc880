"""Every key of the app, once. Bindings, the command palette and the help overlay are all made from this table."""

from dataclasses import dataclass
from typing import Literal

from textual.binding import Binding, BindingType

Scope = Literal[
    "app", "list", "model", "hardware", "workload", "budget", "knobs", "compare", "plan", "run", "runs", "chat",
    "dialog", "question", "help",
]  # fmt: skip


@dataclass(frozen=True)
class Action:
    """One thing a key does. ``id`` is what a user's keymap names."""

    id: str
    keys: str
    action: str
    label: str
    help: str
    scope: Scope
    footer: bool = False


STEPS: tuple[tuple[str, str], ...] = (
    ("model", "Model"),
    ("hardware", "Hardware"),
    ("workload", "Workload"),
    ("budget", "Budget"),
    ("compare", "Compare"),
    ("plan", "Plan"),
    ("run", "Run"),
    ("runs", "Runs"),
    ("chat", "Chat"),
)
"""The screens in the order of the work: name, title. Their numbers are the keys."""


def key_of(step: str) -> int:
    """The key of a screen.

    >>> key_of("model")
    1
    """
    return [name for name, _ in STEPS].index(step) + 1


ACTIONS: tuple[Action, ...] = (
    *(
        Action(f"app.{name}", str(number), f"go('{name}')", title, f"go to {title}", "app")
        for number, (name, title) in enumerate(STEPS, start=1)
    ),
    Action("list.down", "j", "cursor_down", "Down", "one row down (also the arrow)", "list"),
    Action("list.up", "k", "cursor_up", "Up", "one row up (also the arrow)", "list"),
    Action("list.top", "g", "scroll_top", "Top", "first row", "list"),
    Action("list.bottom", "G", "scroll_bottom", "Bottom", "last row", "list"),
    Action("list.take", "enter", "select_cursor", "Take", "take this row: a model, a device, a method", "list", True),
    Action("model.filter", "slash", "filter", "Find", "search models, or type a folder or Hub id", "model", True),
    Action("model.recent", "r", "recent", "Recent", "to the models that were looked at last", "model"),
    Action("model.hub", "h", "search_hub", "Hub", "search the Hub for what is in the box", "model", True),
    Action("model.card", "i", "toggle_card", "Card", "what is known of the model under the cursor", "model", True),
    Action("hardware.filter", "slash", "filter", "Find", "search products, or type a size", "hardware", True),
    Action("hardware.mark", "space", "mark_price", "Price", "price the choice on this product too", "hardware", True),
    Action("hardware.ranks", "o", "options", "Options", "GPUs, nodes, sharding", "hardware", True),
    Action("workload.data", "f", "pick_data", "File", "choose the training file", "workload", True),
    Action("knobs.down", "j,down", "cursor_down", "Down", "next option", "knobs"),
    Action("knobs.up", "k,up", "cursor_up", "Up", "previous option", "knobs"),
    Action("knobs.less", "h,left", "turn(-1)", "Less", "previous value", "knobs"),
    Action("knobs.more", "l,right", "turn(1)", "More", "next value", "knobs"),
    Action("knobs.edit", "enter", "edit", "Type", "type an exact value", "knobs", True),
    Action("knobs.all", "a", "all", "All", "every option of the command line, or the usual ones", "knobs", True),
    Action("knobs.reset", "backspace", "reset", "Default", "back to the default", "knobs", True),
    Action("budget.view", "v", "next_view", "View", "ledger, phases, tensors at the peak, one step", "budget", True),
    Action("budget.undo", "u", "app.undo", "Undo", "undo the last change of an option", "budget", True),
    Action("budget.redo", "U", "app.redo", "Redo", "do it again", "budget"),
    Action("budget.next", "n", "app.go('compare')", "Next", "compare the methods", "budget"),
    Action("compare.sort", "o", "sort", "Sort", "best first, or by memory, speed, time, cost", "compare", True),
    Action("compare.fits", "f", "only_fits", "Fits", "only what fits, or all", "compare", True),
    Action("plan.save", "s", "save_plan", "Save", "write the plan file", "plan", True),
    Action("plan.run", "r", "app.run_saved", "Run", "check the plan and run it (asks first)", "plan", True),
    Action("plan.diff", "c", "compare_plans", "Diff", "what differs from another plan", "plan", True),
    Action("plan.export", "e", "export", "Export", "write it for another engine", "plan", True),
    Action("run.start", "r", "start_run", "Run", "start the run (asks first)", "run", True),
    Action("run.pause", "p", "pause_run", "Pause", "save and wait after this step, or go on", "run", True),
    Action("run.checkpoint", "c", "save_run", "Checkpoint", "save after this step", "run", True),
    Action("run.stop", "x", "stop_run", "Stop", "stop the run (asks first)", "run", True),
    Action("runs.resume", "r", "resume", "Resume", "go on from its checkpoint, or begin it (asks first)", "runs", True),
    Action("runs.merge", "m", "merge", "Merge", "fold the adapter into its base (asks first)", "runs", True),
    Action("runs.chat", "c", "chat", "Chat", "ask the model that came of it", "runs", True),
    Action("runs.mark", "space", "mark", "Mark", "mark for a chat with several adapters", "runs", True),
    Action("chat.say", "slash", "say", "Say", "write a prompt", "chat", True),
    Action("chat.next", "n", "next_adapter", "Next", "the next adapter answers, or the base", "chat", True),
    Action("chat.stop", "x", "stop", "Stop", "cut the answer short", "chat", True),
    Action("chat.clear", "l", "clear", "Clear", "forget the conversation", "chat", True),
    Action("chat.leave", "escape", "leave", "Back", "out of the prompt, or to the screen before", "chat", True),
    Action("chat.end", "e", "end", "End", "end the chat and free its memory", "chat", True),
    Action("dialog.cancel", "escape", "dismiss(None)", "Cancel", "leave the box, nothing changes", "dialog", True),
    Action("question.yes", "y", "dismiss(True)", "Yes", "yes", "question", True),
    Action("question.no", "n,escape", "dismiss(False)", "No", "no", "question", True),
    Action("help.close", "escape,question_mark,q", "dismiss(None)", "Close", "close this list", "help", True),
    Action("app.device", "d", "device", "Device", "name the device to plan for: part of its name, or a size", "app"),
    Action("app.theme", "T", "change_theme", "Theme", "light, dark and other looks; the choice is kept", "app"),
    Action("app.demo", "t", "demo", "Demo", "train a small model on what is here (asks first)", "app"),
    Action("app.cancel", "ctrl+x", "cancel", "Cancel", "give up what is being worked out", "app"),
    Action("app.copy", "y", "copy_command", "Copy", "copy the equivalent command line", "app", True),
    Action("app.help", "question_mark", "help", "Help", "this list", "app", True),
    Action("app.back", "escape", "back", "Back", "to the screen before", "app", True),
    Action("app.quit", "q", "quit", "Quit", "leave (asks while a run is under way)", "app", True),
)


TITLES: dict[Scope, str] = {
    "app": "everywhere",
    "list": "in a table",
    "model": "1 Model",
    "hardware": "2 Hardware",
    "workload": "3 Workload",
    "budget": "4 Budget",
    "knobs": "on the options",
    "compare": "5 Compare",
    "plan": "6 Plan",
    "run": "7 Run",
    "runs": "8 Runs",
    "chat": "9 Chat",
    "dialog": "in a box",
    "question": "in a question",
    "help": "in the list of keys",
}
"""Where the keys of each scope work."""
_KEY_NAMES = {"slash": "/", "question_mark": "?", "escape": "esc"}


def key_names(keys: str) -> str:
    """The keys of an action as a person reads them.

    >>> key_names("n,escape")
    'n esc'
    """
    return " ".join(_KEY_NAMES.get(key, key) for key in keys.split(","))


def bindings(*scopes: Scope) -> list[BindingType]:
    """The Textual bindings of some scopes, in table order."""
    return [
        Binding(action.keys, action.action, action.label, show=action.footer, id=action.id, tooltip=action.help)
        for action in ACTIONS
        if action.scope in scopes
    ]
