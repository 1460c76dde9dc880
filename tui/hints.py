"""What a screen says to a person who comes to it for the first time."""

HINTS: dict[str, str] = {
    "model": "enter takes a row; / searches by name; ? lists every key",
    "hardware": "/ and a name or a size, or the arrows; enter plans for it; space prices it too",
    "workload": "f chooses the training file; left and right turn an option; what matters ranks the methods on Compare",
    "budget": "up and down choose an option, left and right turn it; v shows the memory another way; u undoes",
    "compare": "enter takes a method; o sorts; f leaves only what fits",
    "plan": "s writes the plan file, r runs it; y copies the command; t runs a demo here",
    "run": "r starts the run, p pauses it, x stops it; you may look at other screens meanwhile",
    "runs": "r resumes, m merges, c chats with what came of a run; space marks several for one chat",
    "chat": "n lets another adapter answer; esc leaves the box",
}
