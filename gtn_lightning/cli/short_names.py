"""The packages whose classes recipes may name without their path, such as ``class_path: Full``.

The parser (jsonargparse) accepts the short names of all classes that are imported and fit the type of the argument. To
import them is all that this module does.
"""

from gtn_lightning import (  # noqa: F401
    callbacks,
    curricula,
    data,
    inner_loop,
    learners,
    loggers,
    nas,
    tasks,
    teachers,
)
