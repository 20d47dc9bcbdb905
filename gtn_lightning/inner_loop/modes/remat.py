"""Mode ``remat``: the gradient is computed again, with its graph, and differentiated by reverse mode.

It works for whatever torch can differentiate twice.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gtn_lightning.inner_loop.modes.node import Call, Cotangents, Products, Recomputing, Saved
from gtn_lightning.inner_loop.operators import named_operator, reject_silently_wrong


class Remat(Recomputing):
    """Reverse over reverse, on a graph that exists for one inner step at a time."""

    def products(self, call: Call, saved: Saved, cotangents: Cotangents, wanted: Sequence[bool]) -> Products:
        """Build the gradient's graph and walk back through it; see the base class."""
        # The inner gradient is taken w.r.t. every parameter; a batch tensor is a variable only if somebody asks.
        variables = {name: tensor.detach().requires_grad_() for name, tensor in saved.params.items()}
        inputs = [tensor.detach().requires_grad_(want) for tensor, want in zip(saved.batch, wanted, strict=True)]
        with torch.enable_grad(), named_operator():
            with call.surroundings.again():
                loss, _ = call.loss_fn(variables, call.buffers, *inputs)
                reject_silently_wrong(loss, [*variables.values(), *inputs])
                grads = torch.autograd.grad(loss, list(variables.values()), create_graph=True, materialize_grads=True)
            # Their gradient belongs to the outer backward pass and runs, as in mode reverse, in that pass's
            # autocast state.
            outputs = [(loss, cotangents.loss), *zip(grads, cotangents.grads.values(), strict=True)]
            pairs = [(out, cotangent) for out, cotangent in outputs if cotangent is not None and out.requires_grad]
            sources = [*variables.values(), *(tensor for tensor, want in zip(inputs, wanted, strict=True) if want)]
            products: Sequence[Tensor | None] = [None] * len(sources)
            if pairs:
                products = torch.autograd.grad(
                    [out for out, _ in pairs], sources, [cotangent for _, cotangent in pairs], allow_unused=True
                )
        rest = iter(products[len(variables) :])
        return Products(dict(zip(variables, products, strict=False)), [next(rest) if want else None for want in wanted])
