"""An encoder is added by one file, one class in `config/run.py` and one line in `networks.py` (CONTRIBUTING.md)"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import remix_study

ENCODER = '''
from typing import ClassVar

import torch
from torch import nn

from remix_study.models.encoder import Encoder, Layout


class MeanEncoder(Encoder):
    """(B, T, in_features) -> (B, width): a linear layer on the mean over time."""

    takes: ClassVar[tuple[Layout, ...]] = ("sequence",)

    def __init__(self, in_features: int, width: int = 32) -> None:
        super().__init__()
        self.out_features = width
        self.linear = nn.Linear(in_features, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features_BW: torch.Tensor = self.linear(x.mean(dim=1))
        return features_BW
'''
CONFIG = '''
class MeanEncoderConfig(Part):
    """The mean over time; for features that are a sequence of vectors."""

    name: Literal["mean"]
    width: int = Field(default=32, ge=1)


EncoderConfig = Annotated[
    MeanEncoderConfig | '''
USE = """
import copy
import sys
from pathlib import Path

import torch

from remix_study.networks import build_model
from remix_study.config.load import parse_run
from remix_study.datasets.corpus import open_corpus
from remix_study.errors import ConfigError
from remix_study.fit import require_fit
from remix_study.media.presets import FeaturePreset, Preset

corpus = Path(sys.argv[1])
store = copy.copy(open_corpus(corpus))
store.preset = Preset("three", {**store.preset.parts, "text": FeaturePreset("sequence", (5, 6))})
store.modalities = ("audio", "video", "text")


def run(modality):
    encoders = {modality: {"name": "mean", "width": 9}}
    return parse_run(
        {"corpus": str(corpus), "method": {"name": "joint"}, "model": {"encoders": encoders}}, "the test"
    )


require_fit(run("text"), store)
model = build_model(run("text"), store)
print(type(model.encoders["text"]).__name__, tuple(model.encode("text", torch.ones(2, 5, 6)).shape))
try:
    require_fit(run("audio"), store)
except ConfigError as error:
    print(error)
"""


@pytest.mark.slow
def test_an_encoder_is_added_by_one_file_and_one_entry_each_in_config_and_networks(
    tmp_path: Path, small_corpus: Path
) -> None:
    package = tmp_path / "remix_study"
    shutil.copytree(Path(remix_study.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "models" / "mean.py").write_text(ENCODER)
    _replace(package / "config" / "run.py", "\nEncoderConfig = Annotated[\n    ", CONFIG)
    _replace(
        package / "networks.py",
        "    c.TinyEncoderConfig: TinyEncoder,\n",
        "    c.TinyEncoderConfig: TinyEncoder,\n    c.MeanEncoderConfig: MeanEncoder,\n",
    )
    _replace(
        package / "networks.py",
        "from remix_study.seeds import",
        "from remix_study.models.mean import MeanEncoder\nfrom remix_study.seeds import",
    )

    ended = subprocess.run(
        [sys.executable, "-c", USE, str(small_corpus)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    built, *problems = ended.stdout.splitlines()
    assert built == "MeanEncoder (2, 9)"
    assert problems[1].startswith("  - the encoder of audio must take spectrograms, but `mean` does not")


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
