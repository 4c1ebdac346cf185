"""Targets of the unimodal losses: labels, or the uniform distribution for samples that are judged uninformative

To add a detector, write it in `remix_study/balancing/uninformative.py`, and add its name here.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from remix_study.config.part import Part
from remix_study.config.schedule import NotNegative

Judge = Literal["truth", "history", "held_out"]
READING_CONTROL: tuple[Judge, ...] = ("held_out",)


class AbstainConfig(Part):
    """The unimodal losses of samples that are judged uninformative in the modality have a uniform target."""

    kind: Literal["abstain"] = "abstain"
    of: Judge = Field(
        description="truth: what a rendered corpus says; or a detector: history reads the training samples, "
        "held_out also the control split"
    )
    weight: NotNegative = Field(default=1.0, description="factor of these losses")
    begin: int = Field(default=1, ge=0, description="the first epoch that a detector judges for, counted from 0")
    every: int = Field(default=1, ge=1, description="epochs between two judgements of a detector")

    @model_validator(mode="after")
    def _used(self) -> "AbstainConfig":
        if self.of == "truth":
            given = [key for key in ("begin", "every") if getattr(self, key) != type(self).model_fields[key].default]
            if given:
                raise ValueError(
                    f"`{given[0]}` is for detectors, but `of: truth` knows every sample from the first epoch on; leave "
                    "it out"
                )
        return self


def targets_reading_control(content: Any) -> list[str]:
    """The targets in a configuration that read the control split while training; the configuration may be invalid."""
    targets = content.get("targets") if isinstance(content, Mapping) else None
    of = targets.get("of") if isinstance(targets, Mapping) else None
    return [f"`targets: {{of: {of}}}`"] if of in READING_CONTROL else []
