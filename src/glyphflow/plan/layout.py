"""How a number of processes shares one model and one batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from glyphflow.core.errors import InputError
from glyphflow.models import MMDiTConfig
from glyphflow.models.parallel import check_heads


@dataclass(frozen=True)
class Layout:
    """Processes along the four axes of the mesh, the outermost first; neighbours along the last one are on one machine.

    Weights, gradients and optimizer are sharded over ``dp_shard`` x ``sp``, for processes that share tokens have the same
    weights; ``dp_replicate`` copies of that stand side by side.
    """

    dp_replicate: int = 1
    dp_shard: int = 1
    sp: int = 1
    tp: int = 1

    @property
    def world(self) -> int:
        """All processes."""
        return self.dp * self.sp * self.tp

    @property
    def dp(self) -> int:
        """Processes, or groups of them, that have samples of their own."""
        return self.dp_replicate * self.dp_shard

    @property
    def shards(self) -> int:
        """Parts that the state of one process's weights is cut into."""
        return self.dp_shard * self.sp

    def __str__(self) -> str:
        copies = f"{self.dp_replicate} x " if self.dp_replicate > 1 else ""
        others = "".join(f" {name} {size}" for name, size in (("sp", self.sp), ("tp", self.tp)) if size > 1)
        return f"dp {copies}{self.dp_shard}{others}"

    def check(self, world: int, config: MMDiTConfig) -> None:
        """Raise InputError unless the layout has ``world`` processes and the model's heads divide."""
        if self.world != world:
            raise InputError(
                f"dp_replicate {self.dp_replicate} x dp_shard {self.dp_shard} x sp {self.sp} x tp {self.tp} is {self.world} "
                f"processes, and there are {world} GPUs; make the product {world}."
            )
        check_heads(config, self.sp, self.tp)


def layouts(
    world: int,
    machine: int,
    config: MMDiTConfig,
    tp: int | None = None,
    sp: int | None = None,
    dp: tuple[int, int] | None = None,
) -> Iterator[Layout]:
    """Those worth comparing on ``world`` GPUs in machines of ``machine``; what is given is kept.

    Tensor and sequence parallelism stay within a machine and are not mixed unless asked for. The state is sharded over all
    processes, over one machine, or over powers of two of machines between.

    Raises InputError when what is given allows none.
    """
    within = min(world, machine)
    pairs = [(t, s) for t in _powers(within) for s in _powers(within) if t == 1 or s == 1]
    if tp is not None or sp is not None:
        pairs = [(t, s) for t in ([tp] if tp else _powers(within)) for s in ([sp] if sp else [1])]
    found = 0
    for t, s in pairs:
        groups, rest = divmod(world, t * s)
        if tp is not None or sp is not None:
            _refuse_rest(world, t, s, rest)
            check_heads(config, s, t)
        if rest or config.num_attention_heads % (t * s):
            continue
        if dp is not None:
            shards = [dp[1]] if dp[0] * dp[1] == groups else []
        else:
            least = max(1, machine // (t * s))
            shards = [n for n in dict.fromkeys((groups, *(least << i for i in range(12)))) if n <= groups and groups % n == 0]
        for shard in shards:
            found += 1
            yield Layout(groups // shard, shard, s, t)
    if not found:
        one = Layout(*(dp or (1, world)), sp or 1, tp or 1)
        one.check(world, config)


def _refuse_rest(world: int, tp: int, sp: int, rest: int) -> None:
    if rest:
        raise InputError(f"{world} GPUs cannot be divided into groups of tp {tp} x sp {sp} = {tp * sp}; make it a divisor.")


def _powers(most: int) -> list[int]:
    return [1 << n for n in range(most.bit_length()) if 1 << n <= most]
