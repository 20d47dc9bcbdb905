"""Compiles the derivatives of an inner loss; used by the modes ``compiled`` and ``linearized`` alone.

Dynamo captures the loss (`program`, `captured`). ``torch.func`` differentiates it, and the derivative is traced to
tensor operators (`graphs`). Operations with zeros are removed (`zeros`); for ``linearized`` the graph is split
(`partition`). Inductor compiles it into a private folder (`cache`). `formulas` and `layout` replace operators and
memory layouts that compile badly.
"""
