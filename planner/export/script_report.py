"""How the standalone script measures itself: the parts that write a report ``vramplan explain`` reads.

Kept as text, and small: phases by the caching allocator's own statistics on CUDA, static bytes counted on the live
tensors on any device, one report a process.
"""

PHASES_CUDA = '''
class Phases:
    """The most bytes seen in each phase of the run, from the caching allocator, read and reset where phases change."""

    measured_by = "torch.cuda.max_memory_allocated and max_memory_reserved, reset at the edges of every phase"

    def __init__(self):
        self.now, self.peaks = None, {}

    def enter(self, phase):
        if phase == self.now:
            return
        if self.now is not None:
            seen = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
            self.peaks[self.now] = tuple(map(max, seen, self.peaks.get(self.now, (0, 0))))
        torch.cuda.reset_peak_memory_stats()
        self.now = phase

    def leave(self):
        self.enter(None)

    def watch(self, model):
        """The last decoder layer's output ends the forward phase; its gradient begins the backward one."""
        count = model.config.get_text_config().num_hidden_layers
        lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
        if lists:
            lists[0][-1].register_forward_hook(self._last_layer)

    def _last_layer(self, module, args, output):
        if self.now == "forward":  # checkpointing runs the layer again in the backward pass
            self.enter("loss")
            hidden = output[0] if isinstance(output, (tuple, list)) else output
            if hidden.requires_grad:
                hidden.register_hook(lambda gradient: self.enter("backward"))
'''

PHASES_CPU = '''
class Phases:
    """A CPU's allocator keeps no statistics: phases are not measured."""

    measured_by = "static bytes counted on the live tensors; a CPU's allocator keeps no peaks"
    peaks = {}

    def enter(self, phase):
        pass

    def leave(self):
        pass

    def watch(self, model):
        pass
'''

REPORT = '''
MEASURED_STEP = 3  # the optimizer's states are there, and the longest rows still are


class Report(TrainerCallback):
    """One report a process: report.json, and report-rank1.json ... beside it. Read it back beside the plan with
    `vramplan explain PLAN REPORT`."""

    trainer = None

    def __init__(self):
        self.begun, self.started_at = time.monotonic(), datetime.now(timezone.utc)
        self.facts = {"static": {}, "steps": 0, "losses": [], "process_bytes": None, "measured_shape": None}

    def on_pre_optimizer_step(self, args, state, control, **_):
        phases.enter("optimizer_step")
        if state.global_step < MEASURED_STEP:
            model, count = self.trainer.model, Counter(args.device.type)
            mine = [p for p in model.parameters() if p.requires_grad and hasattr(model, "peft_config")]
            others = [p for p in model.parameters() if not (p.requires_grad and hasattr(model, "peft_config"))]
            self.facts["static"] = {
                "weights": count(others),
                "quantization_state": count(quantization_tensors(model, others)),
                "adapter": count(mine),
                "buffers": count([*model.buffers(), *getattr(model, "prompt_tokens", {}).values()]),
                "gradients": count(p.grad for p in model.parameters() if p.grad is not None),
            }
            shape, labels, mask = self.trainer.batch
            self.facts["measured_shape"] = {
                "micro_batch_size": shape[0],
                "sequence_length": shape[1],
                "valid_labels": int((labels[..., 1:] != -100).sum()),
                "padding_tokens": 0 if mask is None else int((mask == 0).sum()),
                "gradient_accumulation_steps": args.gradient_accumulation_steps,
            }

    def on_optimizer_step(self, args, state, control, **_):
        if state.global_step < MEASURED_STEP:
            optimizer = self.trainer.optimizer
            states = getattr(optimizer, "optimizer", optimizer).state
            self.facts["static"]["optimizer"] = Counter(args.device.type)(tensors_in(list(states.values())))

    def on_step_end(self, args, state, control, **_):
        phases.leave()
        self.facts["steps"] = state.global_step
        if args.device.type == "cuda":
            free_bytes, total_bytes = torch.cuda.mem_get_info()
            used_bytes = total_bytes - free_bytes
        else:
            used_bytes = psutil.Process().memory_info().rss
        self.facts["process_bytes"] = max(self.facts["process_bytes"] or 0, used_bytes)

    def on_log(self, args, state, control, logs=None, **_):
        if logs and "loss" in logs:
            self.facts["losses"].append((state.global_step, logs["loss"]))

    def write(self, status, failure):
        rank, world_size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        losses = self.facts["losses"]
        peaks = phases.peaks
        content = {
            "plan_fingerprint": FINGERPRINT,
            "status": status,
            "failure": failure,
            "started_at": self.started_at.isoformat(),
            "ended_at": datetime.now(timezone.utc).isoformat(),
            "seconds": time.monotonic() - self.begun,
            "environment": {"rank": rank, "world_size": world_size, "python": platform.python_version()},
            "packages": {name: version(name) for name in PACKAGES},
            "measured_by": phases.measured_by,
            "phases": [
                {"name": name, "allocated_bytes": allocated, "reserved_bytes": reserved}
                for name, (allocated, reserved) in peaks.items()
            ],
            "peak_allocated_bytes": max((allocated for allocated, _ in peaks.values()), default=None),
            "peak_reserved_bytes": max((reserved for _, reserved in peaks.values()), default=None),
            "first_loss": losses[0][1] if losses else None,
            "last_loss": losses[-1][1] if losses else None,
            "output_dir": places.output_dir,
            **self.facts,
            "losses": losses[:: -(-len(losses) // 200) or 1],
        }
        place = Path(places.report)
        if rank != "0":
            place = place.with_name(f"{place.stem}-rank{rank}{place.suffix}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(content, indent=2) + "\\n", encoding="utf-8")


class Counter:
    """Adds up the storages it has not met before, each rounded up to the allocator's grain."""

    def __init__(self, device_type):
        self.device_type, self.grain, self.seen = device_type, 512 if device_type == "cuda" else 1, set()

    def __call__(self, tensors):
        total = 0
        for tensor in tensors:
            tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # this process's shard
            storage = tensor.untyped_storage()
            if tensor.device.type == self.device_type and storage.data_ptr() not in self.seen:
                self.seen.add(storage.data_ptr())
                total += -(-storage.nbytes() // self.grain) * self.grain
        return total


def tensors_in(value):
    """Every tensor inside dicts, lists, tuples and bitsandbytes' states."""
    if isinstance(value, torch.Tensor):
        return [value]
    if type(value).__name__ == "QuantState":
        value = vars(value)
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for item in value for tensor in tensors_in(item)] if isinstance(value, (list, tuple)) else []


def quantization_tensors(model, weights):
    """What bitsandbytes keeps beside quantised weights: absmax, code and offset; for 8 bits the row scales."""
    found = []
    for holder in (*weights, *model.modules()):
        state = getattr(holder, "quant_state", None)
        found += tensors_in([state, getattr(holder, "SCB", None), getattr(getattr(holder, "state", None), "SCB", None)])
    return found
'''
