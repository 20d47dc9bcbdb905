"""The experiments that come with the package, one YAML file each: ``gtn fit --config NAME`` runs one."""
