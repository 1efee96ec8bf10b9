"""Several machines train one network, by TensorFlow's own means (MultiWorkerMirroredStrategy).

Every machine keeps all variables and makes its own part of each batch. Whatever a single machine would sum over a batch
(gradients, the losses' numerators and denominators, batch norm's moments) is summed over the machines. So they take
the step that one machine would take with the whole batch, and their variables stay equal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from common.errors import UserError


@dataclass(frozen=True)
class Machines:
    """index: this machine's number, counted from 0; machine 0 reports and writes files."""

    strategy: tf.distribute.Strategy
    index: int
    count: int

    def sum(self, values: tf.Tensor) -> tf.Tensor:
        """Sum over all machines, with gradients; only inside `together`."""
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)

    def together(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that all machines call at the same time."""

        def run(*arguments: Any) -> Any:
            return self.strategy.run(function, arguments)

        compiled: Callable[..., Any] = tf.function(run)
        return compiled

    def share(self, variables: Sequence[tf.Variable]) -> None:
        """Give all machines machine 0's values."""

        def assign() -> None:
            for variable in variables:
                variable.assign(self.sum(tf.identity(variable) if self.index == 0 else tf.zeros_like(variable)))

        self.together(assign)()


def join(addresses: Sequence[str], index: int) -> Machines:
    """Wait for the other machines, `addresses` as host:port in the same order everywhere. Call it before any other
    operation.

    UserError if the index is not one of theirs, or if this machine has several accelerators.
    """
    if not 0 <= index < len(addresses):
        raise UserError(
            f"--machine is {index}; --machines names {len(addresses)}, so give a number from 0 to {len(addresses) - 1}"
        )
    task = {"type": "worker", "index": index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": list(addresses)}, "task": task})
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"cannot join {', '.join(addresses)} as machine {index}: {reason}") from error
    if strategy.num_replicas_in_sync != len(addresses):
        raise UserError(
            f"{strategy.num_replicas_in_sync} devices on {len(addresses)} machines; let each process see only one "
            "(CUDA_VISIBLE_DEVICES=0), and name a machine once for each of its devices, with different ports"
        )
    return Machines(strategy, index, len(addresses))
