"""A memory program with what DeepSpeed's stages 1 and 2 do to gradients put in where they do it.

    stage 2   each gradient is copied into a bucket as it comes, and goes; before one that does not fit, the bucket is
              reduced: copied whole where its parts belong to several ranks, and what is this rank's is moved into one
              tensor, which stays until the step. A gradient larger than the bucket waits outside it for the next
    stage 1   gradients stay as one device has them; the bucket comes with the first of them, and after the last
              backward all pass through it

The rank that is priced has its part among the first that are reduced, so it has its tensor longest.
Source: deepspeed/runtime/zero/stage_1_and_2.py, DeepSpeed 0.19.8 (setup_buckets,
reduce_independent_p_g_buckets_and_remove_grads, average_tensor, allreduce_and_scatter, copy_grads_in_partition,
independent_gradient_partition_epilogue).
"""

from vramplan.planner.memory.budget import Component
from vramplan.planner.memory.replay import Replay
from vramplan.planner.memory.rewrite import Name, Rewriter
from vramplan.planner.memory.zero_layout import Flat, Layout


def zero_replay(
    replay: Replay, layout: Layout, stage: int, *, element_bytes: int, bucket_elements: int, on_host: bool = False
) -> Replay:
    """The last micro step of one rank under stage 1 or 2.

    Args:
        element_bytes: of a gradient.
        bucket_elements: reduce_bucket_size.
        on_host: the part's gradients go to host memory.
    """
    return _Writer(replay, layout, stage, element_bytes, bucket_elements, on_host).written()


class _Writer(Rewriter):
    """Writes the program anew."""

    def __init__(
        self, replay: Replay, layout: Layout, stage: int, element_bytes: int, bucket_elements: int, on_host: bool
    ) -> None:
        super().__init__(replay)
        self.layout, self.stage, self.on_host = layout, stage, on_host
        self.element_bytes, self.bucket_elements = element_bytes, bucket_elements
        self.layers = [list(layer) for layer in layout.layers]
        self.outside = list(layout.outside)
        self.gradients: dict[Flat, Name] = {}
        """Stage 1's, until they are reduced."""
        self.bucket: Name | None = None
        self.waiting: list[Flat] = []
        """In the bucket, or too large for it, in the order in which they came."""
        self.apart: list[Name] = []
        """Too large for the bucket."""
        self.kept: Name | None = None

    def accumulated(self, segment: str, layer: int | None, gradient: Name) -> None:
        if self.bucket is None and not (self.stage == 1 and self.replay.at.accumulating):
            self.bucket = self._held(self.bucket_elements, "communication", "DeepSpeed|reduce bucket")
        flat = self._parameter(segment, layer, self.size_of(gradient) // self.element_bytes)
        if self.stage == 2:
            self._reduce_before(flat, gradient)
        elif self.replay.at.accumulating:
            self.free(gradient)
        else:
            self.gradients[flat] = gradient

    def final(self) -> None:
        if self.stage == 1:
            for flat in self.layout.in_order():
                if flat in self.gradients or self.replay.at.accumulating:
                    self._reduce_before(flat, self.gradients.get(flat))
        self._reduce()
        for name in (*self.apart, self.bucket):
            if name is not None:
                self.free(name)
        if self.kept is not None and self.replay.at.accumulating:
            self.free(self.kept)

    def _parameter(self, segment: str, layer: int | None, numel: int) -> Flat:
        """Whose gradient it is: the last one left of its size."""
        left = self.layers[layer] if segment == "backward.layer" and layer is not None else self.outside
        flat = next((each for each in reversed(left) if each.numel == numel), left[-1])
        left.remove(flat)
        return flat

    def _reduce_before(self, flat: Flat, gradient: Name | None) -> None:
        """One more, after the bucket where it would not fit."""
        if sum(each.numel for each in self.waiting) + flat.numel > self.bucket_elements:
            self._reduce()
        self.waiting.append(flat)
        if gradient is None:
            return
        if flat.numel > self.bucket_elements:
            self.apart.append(gradient)
        else:
            self.free(gradient)

    def _reduce(self) -> None:
        """What waits goes to the ranks whose it is."""
        if not self.waiting:
            return
        for numel in self._copied():
            self.passing(numel * self.element_bytes, "communication", "DeepSpeed|bucket, flattened")
        if self.kept is None and not self.on_host:
            self.kept = self._held(self.layout.touched_numel(), "gradients", "DeepSpeed|gradients of the partition")
        if self.stage == 2:
            for name in self.apart:
                self.free(name)
            self.apart = []
        self.waiting = []

    def _copied(self) -> list[int]:
        """Elements of each copy: neighbours of one rank are one slice, a slice alone is sent as it lies, and slices are
        put together until they are more than a bucket."""
        slices: list[tuple[int, int]] = []
        for flat in self.waiting:
            for rank, numel in self.layout.owners(flat):
                if slices and slices[-1][0] == rank:
                    slices[-1] = (rank, slices[-1][1] + numel)
                else:
                    slices.append((rank, numel))
        copies, count, total = [], 0, 0
        for _, numel in slices:
            count, total = count + 1, total + numel
            if total > self.bucket_elements:
                copies += [total] if count > 1 else []
                count = total = 0
        return copies + ([total] if count > 1 else [])

    def _held(self, elements: int, component: Component, label: str) -> Name:
        return self.alloc(elements * self.element_bytes, component, label)
