"""Added methods as methods of their own: `method: {name: ogm_ge, alpha: 0.3}`

Each has the options that it has in `with`, and is added to joint training, with unimodal losses if it needs them.
"""

from typing import Literal

from remix_study.config.balancing import (
    AGMOptions,
    AUGOptions,
    DGLOptions,
    GBlendLiteOptions,
    GBlendOptions,
    InfoRegOptions,
    LFMOptions,
    MILESOptions,
    MLAOptions,
    MMCosineOptions,
    MMParetoOptions,
    ModalityDropoutOptions,
    OGMGEOptions,
    OGMOptions,
    OGMPlusOptions,
    OPMOptions,
    PDMPOptions,
    PMROptions,
    ReconBoostOptions,
    RelearningOptions,
    SMVOptions,
    TCMaxOptions,
    UMTOptions,
)


class ModalityDropoutConfig(ModalityDropoutOptions):
    """Joint training with modality dropout."""

    name: Literal["modality_dropout"]


class OPMConfig(OPMOptions):
    """Joint training with OPM."""

    name: Literal["opm"]


class PDMPConfig(PDMPOptions):
    """Joint training with PDMP."""

    name: Literal["pdmp"]


class InfoRegConfig(InfoRegOptions):
    """Joint training with InfoReg."""

    name: Literal["inforeg"]


class MLAConfig(MLAOptions):
    """MLA."""

    name: Literal["mla"]


class SMVConfig(SMVOptions):
    """Joint training with SMV."""

    name: Literal["smv"]


class OGMConfig(OGMOptions):
    """Joint training with OGM."""

    name: Literal["ogm"]


class OGMGEConfig(OGMGEOptions):
    """Joint training with OGM-GE."""

    name: Literal["ogm_ge"]


class OGMPlusConfig(OGMPlusOptions):
    """Joint training with a control for OGM."""

    name: Literal["ogm_plus"]


class AGMConfig(AGMOptions):
    """Joint training with AGM."""

    name: Literal["agm"]


class DGLConfig(DGLOptions):
    """Joint training with DGL."""

    name: Literal["dgl"]


class ReconBoostConfig(ReconBoostOptions):
    """Joint training with unimodal losses and ReconBoost's weights."""

    name: Literal["reconboost"]


class TCMaxConfig(TCMaxOptions):
    """Joint training with TCMax."""

    name: Literal["tcmax"]


class LFMConfig(LFMOptions):
    """Joint training with LFM."""

    name: Literal["lfm"]


class MMCosineConfig(MMCosineOptions):
    """Joint training with MMCosine."""

    name: Literal["mmcosine"]


class MMParetoConfig(MMParetoOptions):
    """Joint training with unimodal losses and MMPareto."""

    name: Literal["mmpareto"]


class PMRConfig(PMROptions):
    """Joint training with PMR."""

    name: Literal["pmr"]


class GBlendLiteConfig(GBlendLiteOptions):
    """Joint training with unimodal losses and Gradient-Blending whose estimates cost two passes."""

    name: Literal["gblend_lite"]


class RelearningConfig(RelearningOptions):
    """Joint training with Diagnosing & Re-learning."""

    name: Literal["relearning"]


class UMTConfig(UMTOptions):
    """Joint training with UMT."""

    name: Literal["umt"]


class MILESConfig(MILESOptions):
    """Joint training with MILES."""

    name: Literal["miles"]


class GBlendConfig(GBlendOptions):
    """Joint training with unimodal losses and Gradient-Blending."""

    name: Literal["gblend"]


class AUGConfig(AUGOptions):
    """Joint training with unimodal losses and AUG."""

    name: Literal["aug"]


AddedConfig = (
    UMTConfig
    | RelearningConfig
    | PMRConfig
    | DGLConfig
    | ReconBoostConfig
    | TCMaxConfig
    | LFMConfig
    | MMCosineConfig
    | MMParetoConfig
    | OGMConfig
    | OGMGEConfig
    | OGMPlusConfig
    | AGMConfig
    | ModalityDropoutConfig
    | OPMConfig
    | GBlendLiteConfig
    | PDMPConfig
    | InfoRegConfig
    | MILESConfig
    | GBlendConfig
    | SMVConfig
    | AUGConfig
    | MLAConfig
)
