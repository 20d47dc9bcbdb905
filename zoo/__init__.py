"""Files of synthetic data that come with the package: ``gtn_lightning.load_zoo(NAME)`` reads one."""
