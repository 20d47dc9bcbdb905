"""Mode ``linearized``: compiled, and of the gradient's computation what its derivative needs is kept.

Mode ``compiled`` computes the gradient again in the backward pass, a quarter of all its work (of the twelve
convolutions per layer, three). Kept instead are the results of costly operators; those of cheap ones are computed again
where they are used. It is the fastest mode, for memory that grows with every inner step by some of the activations:
about half of what double backward keeps.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from gtn_lightning.inner_loop.modes.base import first_order
from gtn_lightning.inner_loop.modes.compiled import (
    Compiled,
    confirmed_gradient,
    confirmed_products,
    laid_out,
    laid_out_batch,
)
from gtn_lightning.inner_loop.modes.mixed import tangents
from gtn_lightning.inner_loop.modes.node import Call, Computed, NodeMode, Saved
from gtn_lightning.inner_loop.modes.reverse_over_reverse import Cotangents, Products
from gtn_lightning.inner_loop.types import Batch, InnerGradient, LossFn


class Linearized(NodeMode):
    """The gradient is linearized where it is computed (as ``torch.func.linearize`` does for a function).

    Args:
        compiled: the mode to share programs with; what cannot be compiled runs as it does there.
    """

    def __init__(self, compiled: Compiled) -> None:
        self._compiled = compiled

    def plain(
        self, loss_fn: LossFn, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch
    ) -> InnerGradient:
        """Compute the gradient without a graph; see the base class."""
        return self._compiled.plain(loss_fn, params, buffers, batch)

    def gradient(self, call: Call, params: Mapping[str, Tensor], batch: Batch, wanted: Sequence[bool]) -> Computed:
        """Compute the gradient and its derivative; see the base class."""
        program = self._compiled.program(call.loss_fn, params, call.buffers, batch)
        if program is None or call.traits.uncompilable:
            return self._compiled.gradient(call, params, batch, wanted)
        found = program.linearised(call.loss_fn, laid_out(params), call.buffers, laid_out_batch(params, batch), wanted)
        if found is not None and not self._compiled.repeats(call):
            call.surroundings.rewind()
            found = None
        if found is None:
            return self._compiled.gradient(call, params, batch, wanted)
        gradient, (kept, apply) = found
        if program.fresh:
            expected = first_order(call.loss_fn, params, call.buffers, batch)
            gradient = confirmed_gradient(program, gradient, expected)

        def products(call: Call, saved: Saved, cotangents: Cotangents, wanted: Sequence[bool]) -> Products:
            # With a cotangent of the loss the gradient itself is needed too, which is not kept.
            if cotangents.vector and cotangents.loss is None:
                applied = apply(saved.kept, laid_out(tangents(saved.params, cotangents)))
                if applied is not None:
                    if not program.fresh:
                        return applied
                    expected = self._compiled.uncompiled.products(call, saved, cotangents, wanted)
                    return confirmed_products(program, applied, expected, call)
            return self._compiled.products(call, saved, cotangents, wanted)

        return Computed(gradient, kept, products)
