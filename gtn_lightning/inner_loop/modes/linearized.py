"""Mode ``linearized``: compiled, and the intermediate results that the derivative needs are kept.

Mode ``compiled`` recomputes the gradient in the backward pass, a quarter of its work: three of the twelve convolutions
per layer. Here the results of costly operators are kept and those of cheap ones recomputed. It is the fastest mode; its
memory grows with every inner step, by about half of what double backward keeps.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from gtn_lightning.inner_loop.compiler.layout import channels_last, channels_last_batch
from gtn_lightning.inner_loop.modes.base import first_order
from gtn_lightning.inner_loop.modes.compiled import Compiled, confirmed_gradient, confirmed_products
from gtn_lightning.inner_loop.modes.mixed import tangents
from gtn_lightning.inner_loop.modes.node import Call, Computed, NodeMode, Saved
from gtn_lightning.inner_loop.types import Batch, Cotangents, InnerGradient, LossFn, Products


class Linearized(NodeMode):
    """The gradient is linearized where it is computed (as ``torch.func.linearize`` does for a function).

    Args:
        compiled: the mode to share programs with, and to use for learners that cannot be compiled.
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
        found = program.linearized(
            call.loss_fn, channels_last(params), call.buffers, channels_last_batch(params, batch), wanted
        )
        if found is not None and not self._compiled.repeats(call):
            call.context.rewind()
            found = None
        if found is None:
            return self._compiled.gradient(call, params, batch, wanted)
        gradient, (kept, apply) = found
        if program.fresh:
            expected = first_order(call.loss_fn, params, call.buffers, batch)
            gradient = confirmed_gradient(program, gradient, expected)

        def products(call: Call, saved: Saved, cotangents: Cotangents, wanted: Sequence[bool]) -> Products:
            # A cotangent of the loss would need the gradient, which is not kept.
            if cotangents.has_vector and cotangents.loss is None:
                applied = apply(saved.kept, channels_last(tangents(saved.params, cotangents)))
                if applied is not None:
                    if not program.fresh:
                        return applied
                    expected = self._compiled.uncompiled.products(call, saved, cotangents, wanted)
                    return confirmed_products(program, applied, expected, call)
            return self._compiled.products(call, saved, cotangents, wanted)

        return Computed(gradient, kept, products)
