"""Corpora: which clips, with which labels, in which splits; one file per corpus

manifest   the one road for every corpus: a JSON Lines file with a clip per line
corpus     a folder with a manifest becomes a clip store
clips      batches out of a store, reading only what is trained
synthetic  tones and gratings: rendered here, laziness included
cremad     CREMA-D: acted emotions, and what crowds made of them
kinetics_sounds, ave   actions and events that are seen and heard
published  lists that come with a corpus, and what is there of them
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
