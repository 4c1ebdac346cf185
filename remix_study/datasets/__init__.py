"""Corpora: their clips, labels and splits; one module per corpus

manifest               the format that every corpus is converted to: JSON Lines, one clip per line
corpus                 prepares the clip store of a corpus, and opens it
check                  checks a corpus before its preparation
clips                  reads batches of a clip store
splits                 draws splits and folds by group and class
published              reads the lists that are published with a corpus
table                  your own clips, from a CSV, JSON Lines or Parquet table
synthetic              tones and gratings, rendered by this package
cremad                 CREMA-D: acted emotions, with human ratings
kinetics_sounds, ave   audio-visual actions and events
mosei                  CMU-MOSEI: sentiment, as feature arrays of three modalities
ucf101                 UCF-101: actions, as video and optical flow
"""

from remix_study.datasets.clips import ClipReader
from remix_study.datasets.corpus import open_corpus, prepare_corpus
from remix_study.datasets.manifest import SPLITS, read_manifest, write_manifest
from remix_study.datasets.synthetic import SyntheticSpec, render

__all__ = [
    "SPLITS",
    "ClipReader",
    "SyntheticSpec",
    "open_corpus",
    "prepare_corpus",
    "read_manifest",
    "render",
    "write_manifest",
]
