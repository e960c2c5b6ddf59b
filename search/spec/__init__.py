"""A study file (`studies/*.toml`) becomes a `StudySpec`: validated, frozen, unknown keys refused with a suggestion."""

from search.spec.sections import (
    OPTIMIZER_OPTIONS,
    PRUNER_OPTIONS,
    DatasetName,
    DataSpec,
    L1Mode,
    ModelName,
    ModelSpec,
    OptimizerName,
    PrunerName,
    PrunerSpec,
    SamplerName,
    SearchSpec,
    TrainingSpec,
)
from search.spec.space import PARAMETERS, Parameter, Range, Setting, SpaceSpec, parameter_of
from search.spec.spec import StudySpec, check_study_name, load_spec, shipped_studies, spec_differences

__all__ = [
    "OPTIMIZER_OPTIONS",
    "PARAMETERS",
    "PRUNER_OPTIONS",
    "DataSpec",
    "DatasetName",
    "L1Mode",
    "ModelName",
    "ModelSpec",
    "OptimizerName",
    "Parameter",
    "PrunerName",
    "PrunerSpec",
    "Range",
    "SamplerName",
    "SearchSpec",
    "Setting",
    "SpaceSpec",
    "StudySpec",
    "TrainingSpec",
    "check_study_name",
    "load_spec",
    "parameter_of",
    "shipped_studies",
    "spec_differences",
]
