"""Base class of components that teacher files describe and recipes name, other than ``torch.nn.Module``s."""


class Component:
    """Base class of the parts of a GTN that are not ``torch.nn.Module``s: tasks, learner distributions, search spaces.

    A component stores its constructor's arguments as attributes of the same names, from which a file describes it.

    Attributes:
        makes_networks: whether network classes among its arguments are factories of networks.
    """

    makes_networks: bool = False

    def described_as(self) -> "Component":
        """Return the component to write to a file: itself, or an equivalent one that needs less to be rebuilt."""
        return self
