"""docs/keys.md, made from the one table of actions.

python -m vramplan.tui.keys_page > docs/keys.md
"""

import sys

from vramplan.tui.bindings import ACTIONS, TITLES, key_names

HEAD = """# Keys

Made by `python -m vramplan.tui.keys_page` from the table that also makes the app's bindings, its footer, its command
palette (`ctrl+p`) and its help (`?`). The id is what a keymap names.
"""


def keys_page() -> str:
    """The page, whole."""
    parts = [HEAD]
    for scope, title in TITLES.items():
        parts += [f"\n## {title[0].upper()}{title[1:]}\n\n", "| key | does | id |\n", "|---|---|---|\n"]
        for action in ACTIONS:
            if action.scope == scope:
                parts.append(f"| `{key_names(action.keys)}` | {action.help} | `{action.id}` |\n")
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(keys_page())
