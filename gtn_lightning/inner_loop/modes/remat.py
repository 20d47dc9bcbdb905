"""Mode ``remat``: the gradient is computed again, with its graph, and differentiated by reverse mode.

It works for whatever torch can differentiate twice.
"""

from collections.abc import Sequence

from gtn_lightning.inner_loop.modes.node import Call, Recomputing, Saved
from gtn_lightning.inner_loop.modes.reverse_over_reverse import Cotangents, Products, reverse_over_reverse


class Remat(Recomputing):
    """Reverse over reverse, on a graph that exists for one inner step at a time."""

    def products(self, call: Call, saved: Saved, cotangents: Cotangents, wanted: Sequence[bool]) -> Products:
        """Build the gradient's graph and walk back through it; see the base class."""
        found, again = reverse_over_reverse(
            call.loss_fn, saved.params, call.buffers, saved.batch, cotangents, wanted, call.traits, call.surroundings
        )
        call.check_recomputation(again.loss, again.grads)
        return found
