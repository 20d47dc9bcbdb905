"""What a teacher file may describe and a recipe may name, beside modules of torch."""


class Component:
    """Base class of the parts of a GTN that are no modules of torch: tasks, learner distributions, search spaces.

    A component stores its constructor's arguments under their own names, so that a file can describe it.

    Attributes:
        makes_networks: whether classes of networks among its arguments stand for what makes networks.
    """

    makes_networks: bool = False

    def described_as(self) -> "Component":
        """Return what stands for it in a file: itself, or something that needs less where the file is read."""
        return self
