"""remix_study: Data Remixing for multimodal models, and the evidence that it worked"""

__version__ = "0.1.0"
