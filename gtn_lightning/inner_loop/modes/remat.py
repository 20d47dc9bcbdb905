"""Mode ``remat``: the backward pass recomputes the gradient with its graph and differentiates it in reverse mode.

It works for every loss that torch can differentiate twice.
"""

from collections.abc import Sequence

from gtn_lightning.inner_loop.modes.node import Call, Recomputing, Saved
from gtn_lightning.inner_loop.modes.reverse_over_reverse import reverse_over_reverse
from gtn_lightning.inner_loop.types import Cotangents, Products


class Remat(Recomputing):
    """Reverse over reverse, on a graph that exists for one inner step at a time."""

    def products(self, call: Call, saved: Saved, cotangents: Cotangents, wanted: Sequence[bool]) -> Products:
        """Build the gradient's graph and differentiate it; see the base class."""
        found, recomputed = reverse_over_reverse(
            call.loss_fn, saved.params, call.buffers, saved.batch, cotangents, wanted, call.traits, call.context
        )
        call.check_recomputation(recomputed.loss, recomputed.grads)
        return found
