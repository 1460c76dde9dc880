"""The price of one rank under DeepSpeed's ZeRO, stage by stage, as it was measured (benchmarks/sharded.py).

With n trainable parameters of e bytes and W ranks (Rajbhandari et al., 2020, arXiv:1910.02054, section 5; DeepSpeed
0.19.8, deepspeed/runtime/zero/stage_1_and_2.py and stage3.py):

    all     fp32 masters and the optimizer's states of a part of what trains, also where it is in fp32 already: both
            single_partition_of_fp32_groups and fp32_partitioned_groups_flat are clones
    zero1   weights whole; gradients whole until the last backward reduces them, then the part's
    zero2   weights whole; gradients go through a bucket (zero_step.py)
    zero3   weights a part, and tensors of few elements whole beside their parts; a part's gradients and the bucket
            last; the rest is whole while its module runs (zero3_step.py)

The step begins with the norm, of each gradient in fp64 (zero/utils.py, get_norm_dtype); then, group after group, the
part's gradients are flattened and put into fp32. ``offload optimizer``: masters, states and the part's gradients are
in host memory; ``all``: in stage 3 the weights too.
"""

from vramplan.planner.deepspeed import SUB_GROUP_ELEMENTS, stage_of, zero_sizes
from vramplan.planner.memory import optimizer, phases
from vramplan.planner.memory.budget import Component, PhaseName
from vramplan.planner.memory.groups import Group, round_up, total_bytes
from vramplan.planner.memory.many_gpus import ManyGpus
from vramplan.planner.memory.price import Question
from vramplan.planner.memory.replay import Replay
from vramplan.planner.memory.reserved import reserved_bytes
from vramplan.planner.memory.static import StaticMemory
from vramplan.planner.memory.units import Parameter, units_of
from vramplan.planner.memory.zero3_step import Buckets, zero3_replay
from vramplan.planner.memory.zero_layout import Layout, part_numel
from vramplan.planner.memory.zero_modules import Modules
from vramplan.planner.memory.zero_step import zero_replay
from vramplan.planner.methods import trains_base
from vramplan.planner.programs.program import Program

MASTER_BYTES = 4
NORM_BYTES = 8


class ZeroPricing(ManyGpus):
    """What DeepSpeed splits, split, and its buffers where they come and go."""

    def __init__(self, question: Question, program: Program) -> None:
        super().__init__(question, program)
        stage = stage_of(self.asked)
        assert stage is not None
        self.stage, self.sizes = stage, zero_sizes(question.model.config)
        self.on_host = self.asked.offload != "none"
        self.units = units_of(question.model, self.question.setup)
        self.layout = Layout.of(self.units, self.world)
        self.element_bytes = max((group.element_bytes for group in self.static.trainable), default=2)
        self.whole_weights_bytes = sum(group.rounded(1) for group in (*self.static.weights, *self.static.adapter))
        self.whole_gradients = self.static.trainable
        self.whole_weights: list[Group] = []
        self.whole_adapter: list[Group] = []
        """What is whole beside its parts between the micro batches of stage 3."""
        self.static = self._in_parts() if stage == 3 else self._flat()
        masters = self.static.trainable
        states = optimizer.state_groups(
            self.asked.optimizer, masters, self.question.route, loop=self.question.setup.loop
        )
        self.states = [] if self.on_host else masters + states
        self.step_held, self.step_peak = self._while_updating()
        self._rewrite()
        self.because |= self._reasons()

    # -------------------------------------------------------------- what lasts
    def _flat(self) -> StaticMemory:
        """Stages 1 and 2: what trains is one tensor for each of the optimizer's groups."""
        flat = [Group(numel, self.element_bytes, 1) for numel in self.layout.groups if numel]
        whole = trains_base(self.question.setup.method)
        return StaticMemory(
            weights=flat if whole else self.static.weights,
            quantization_state=self.static.quantization_state,
            adapter=[] if whole else flat,
            trainable=[Group(numel, MASTER_BYTES, 1) for numel in self.layout.parts],
            quantized_params=self.static.quantized_params,
        )

    def _in_parts(self) -> StaticMemory:
        """Stage 3: the parts of what trains are one tensor, of what is frozen each its own."""
        every = [each for unit in self.units.all for each in unit.parameters]
        trained = [each for each in every if each.trains]
        flat = Group(sum(part_numel(each, self.world) for each in trained), self.element_bytes, 1)
        frozen = [Group(part_numel(each, self.world), each.stored_bytes, 1) for each in every if not each.trains]
        whole = [each for each in every if self._persists(each)]
        self.whole_weights = [Group(_numel(each), each.stored_bytes, 1) for each in whole if not each.adapter]
        self.whole_adapter = [Group(_numel(each), each.stored_bytes, 1) for each in whole if each.adapter]
        base, adapter = ([flat], []) if trains_base(self.question.setup.method) else (frozen, [flat])
        if self.asked.offload == "all":
            base, adapter = [], []
        return StaticMemory(
            weights=base + self.whole_weights,
            quantization_state=self.static.quantization_state,
            adapter=adapter + self.whole_adapter,
            trainable=[Group(numel, MASTER_BYTES, 1) for numel in self._sub_groups(trained)],
            quantized_params=self.static.quantized_params,
        )

    def _persists(self, parameter: Parameter) -> bool:
        return _numel(parameter) <= self.sizes.param_persistence_threshold

    def _sub_groups(self, trained: list[Parameter]) -> list[int]:
        """Elements of the part that the step works on at a time (stage3.py, _create_fp16_sub_groups)."""
        out = []
        for decays in (True, False):
            group = [part_numel(each, self.world) for each in trained if each.decays == decays]
            if sum(group) <= SUB_GROUP_ELEMENTS:
                out += [sum(group)] if group else []
                continue
            here = 0
            for number, numel in enumerate(group, start=1):
                here += numel
                if here >= SUB_GROUP_ELEMENTS or number == len(group):
                    out.append(here)
                    here = 0
        return out

    # -------------------------------------------------------------- the step
    def _rewrite(self) -> None:
        if self.stage == 3:
            threshold = self.sizes.param_persistence_threshold
            self.replay = zero3_replay(
                self.replay,
                Modules(self.question.model, self.question.setup, threshold),
                Buckets(self.world, self.element_bytes, self.sizes.reduce_bucket_size, threshold),
                standard_loss=self.question.setup.loss == "standard",
            )
        else:
            self.replay = zero_replay(
                self.replay,
                self.layout,
                self.stage,
                element_bytes=self.element_bytes,
                bucket_elements=self.sizes.reduce_bucket_size,
                on_host=self.on_host,
            )
        self.replayed = self.replay.run()

    def _while_updating(self) -> tuple[list[Group], int]:
        """What the optimizer's step holds beside the part's gradients: for the largest group, and at its highest."""
        if self.on_host:
            return [], 0
        quantum = self.question.quantum_bytes
        largest = self.layout.largest_piece() if self.stage < 3 else self._largest_part()
        highest, held = round_up(largest * NORM_BYTES, quantum), [Group(largest, NORM_BYTES, 1)]
        # gathered anew at the end (stage3.py, _post_step)
        whole = total_bytes(self.whole_weights + self.whole_adapter, quantum)
        if whole > highest:
            highest, held = whole, []
        for group in self.static.trainable:
            flat = [Group(group.numel, self.element_bytes, 1)]
            both = flat + ([group] if self.element_bytes < MASTER_BYTES else [])
            updating = optimizer.step_peak_bytes(
                self.asked.optimizer, [group], self.question.route, quantum, loop=self.question.setup.loop
            )
            here = max(total_bytes(both, quantum), group.rounded(quantum) + updating)
            if here > highest:
                highest, held = here, both
        return held, highest

    def _largest_part(self) -> int:
        trained = [each for unit in self.units.all for each in unit.trained]
        return max((part_numel(each, self.world) for each in trained), default=0)

    # -------------------------------------------------------------- parts
    @property
    def part_gradients(self) -> list[Group]:
        """Between the last backward and the step."""
        if self.on_host:
            return []
        if self.stage == 3:
            return [Group(sum(group.numel for group in self.static.trainable), self.element_bytes, 1)]
        return [Group(self.layout.touched_numel(), self.element_bytes, 1)]

    @property
    def kept_gradients(self) -> list[Group]:
        """Between the micro batches of a step; in stage 3 always."""
        if self.stage == 3 or (self.stage == 2 and self.question.accumulating):
            return self.part_gradients
        return self.whole_gradients if self.question.accumulating else []

    def base(self, *, gradients: bool) -> dict[Component, int]:
        """Stage 3's bucket lasts; stage 1's is there from the first backward of a step to its last."""
        quantum = self.question.quantum_bytes
        lasts = self.stage == 3 or (self.stage == 1 and gradients and self.question.accumulating)
        bucket = self.sizes.reduce_bucket_size * self.element_bytes if lasts else 0
        kept = self.kept_gradients if gradients or self.stage == 3 else []
        return super().base(gradients=False) | {
            "gradients": total_bytes(kept, quantum),
            "communication": round_up(bucket, quantum),
        }

    def _between_steps(self, *, gradients: bool) -> dict[Component, int]:
        """When the last backward is over, gradients are the part's, and nothing is whole that need not be (stage3.py,
        _partition_all_parameters). The step is inside ``backward`` (accelerate/utils/deepspeed.py), so the loss still
        holds its graph: where the embeddings' output is a leaf (transformers/modeling_utils.py,
        enable_input_require_grads), that and its gradient."""
        found = super()._between_steps(gradients=False)
        if gradients:
            found["gradients"] = total_bytes(self.part_gradients, self.question.quantum_bytes)
            found["weights"] -= total_bytes(self.whole_weights, self.question.quantum_bytes)
            found["adapter"] -= total_bytes(self.whole_adapter, self.question.quantum_bytes)
            setup = self.question.setup
            if setup.gradient_checkpointing and not trains_base(setup.method):
                values = self.replay.values
                leaf = Group(values["B"] * values["S"] * values["h"], self.element_bytes, 2)
                found["activations"] = leaf.rounded(self.question.quantum_bytes)
        return found

    def still_parts(self) -> dict[PhaseName, dict[Component, int]]:
        """Making the flat groups holds what trains twice (stage_1_and_2.py, flatten_dense_tensors_aligned)."""
        found = super().still_parts()
        found.pop("merge", None)
        if self.stage < 3:
            load, quantum = found["load"], self.question.quantum_bytes
            flat = [Group(numel, self.element_bytes, 1) for numel in self.layout.groups]
            load["temporaries"] = max(load.get("temporaries", 0), total_bytes(flat, quantum))
        return found

    def _reserved_over(self, steps: list[Replay], limit_bytes: int | None = None) -> int:
        lasting = [Group(self.sizes.reduce_bucket_size, self.element_bytes, 1)] if self.stage == 3 else []
        before = [*self.static.weights, *self.static.quantization_state, *self.static.adapter, *lasting]
        return reserved_bytes(
            steps,
            warmed_up_bytes=phases.warmed_up_bytes(self.static.weights, self.question.setup),
            loading_bytes=phases.quantizing_bytes(self.question.model, self.question.setup),
            before=[*before, *self.buffers, *self.batch, *(self.kept_gradients if self.stage == 3 else [])],
            optimizer=self.states,
            gradients=self.kept_gradients if self.stage < 3 else [],
            step_temporaries=self.step_held,
            workspace_bytes=self.workspaces_bytes,
            alloc_conf=self.question.setup.alloc_conf,
            limit_bytes=limit_bytes,
        )

    # -------------------------------------------------------------- words
    def _reasons(self) -> dict[Component, str]:
        host = ", in host memory" if self.on_host else ""
        bucket = f"the reduction bucket of {self.sizes.reduce_bucket_size:,} elements (reduce_bucket_size)"
        gradients = {
            1: "whole until the last backward reduces them",
            2: f"1/{self.world} and what else of a tensor is in it{host}",
            3: f"1/{self.world} of each tensor{host}",
        }
        threshold = self.sizes.param_persistence_threshold
        because: dict[Component, str] = {
            "optimizer": f"fp32 masters and states, 1/{self.world}{host}",
            "gradients": gradients[self.stage],
            "communication": f"{bucket}, and what is copied to be reduced",
            "gathered": f"a module's parameters while it runs; up to {threshold:,} elements are always whole",
        }
        if self.stage == 3:
            because["weights"] = f"{self.because['weights']}; 1/{self.world} of each tensor"
            because["adapter"] = f"{self.because['adapter']}; 1/{self.world} of each tensor"
        return because


def _numel(parameter: Parameter) -> int:
    return part_numel(parameter, 1)
