"""How long a step takes, and what it costs: FLOPs counted, traffic summed over a memory program, a roofline a phase."""
