"""What can be chosen: Hydra's config groups as YAML, and the schema that a composed configuration must fit."""
