"""The sections of a recipe, one module each."""

from qvl_core.recipe.sections.data import DataSection
from qvl_core.recipe.sections.data_sources import SourceSection, TagSection, ValidationSection
from qvl_core.recipe.sections.env import EnvSection
from qvl_core.recipe.sections.evaluation import EvalSection
from qvl_core.recipe.sections.generation import GenerationSection
from qvl_core.recipe.sections.inference import InferSection
from qvl_core.recipe.sections.launch import LaunchSection
from qvl_core.recipe.sections.layout import LayoutSection
from qvl_core.recipe.sections.media import ImageSection, VideoSection
from qvl_core.recipe.sections.model import ModelSection
from qvl_core.recipe.sections.output import ExpectedSection, OutputSection
from qvl_core.recipe.sections.section import Component, Section
from qvl_core.recipe.sections.train import (
    SETTLED_BYTES,
    LearningRateScale,
    LogSection,
    LoraSection,
    OptimizerSection,
    SaveSection,
    ScheduleSection,
    TrainSection,
)
from qvl_core.recipe.sections.weights import WeightsSection

__all__ = [
    "SETTLED_BYTES",
    "Component",
    "DataSection",
    "EnvSection",
    "EvalSection",
    "ExpectedSection",
    "GenerationSection",
    "ImageSection",
    "InferSection",
    "LaunchSection",
    "LayoutSection",
    "LearningRateScale",
    "LogSection",
    "LoraSection",
    "ModelSection",
    "OptimizerSection",
    "OutputSection",
    "SaveSection",
    "ScheduleSection",
    "Section",
    "SourceSection",
    "TagSection",
    "TrainSection",
    "ValidationSection",
    "VideoSection",
    "WeightsSection",
]
