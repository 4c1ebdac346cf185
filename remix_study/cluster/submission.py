"""A study together with everything that `remix-study submit` needs to run it on a cluster"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from remix_study.cluster.cluster_file import ClusterFile
from remix_study.config.study import StudyConfig

PACKAGE = "remix_study"


@dataclass(frozen=True)
class Submission:
    """One study for one cluster.

    Args:
        study: the study; None if its file has problems.
        file: absolute path of the study file on this machine.
        working_dir: absolute path of the folder to upload.
        workspace: path or URL as the cluster's nodes see it.
        corpus: path or URL as the nodes see it; None to use the one in the study file.
        retry_failed: whether failed trials are retried.
        environment: variables to set for the cluster's processes.
        cluster_file: the cluster; None if it is given by the address of its dashboard.
        several_nodes: whether nodes other than the head run trials.
    """

    study: StudyConfig | None
    file: Path
    working_dir: Path
    workspace: str | None
    corpus: str | None = None
    retry_failed: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    cluster_file: ClusterFile | None = None
    several_nodes: bool = True

    @property
    def inside(self) -> str | None:
        """The study file relative to the working directory; None if it is outside."""
        if not self.file.is_relative_to(self.working_dir):
            return None
        return self.file.relative_to(self.working_dir).as_posix()

    @property
    def brings_package(self) -> bool:
        """Whether the working directory contains the remix_study package."""
        return (self.working_dir / PACKAGE / "__init__.py").exists()

    def corpus_of(self, study: StudyConfig) -> str:
        """The corpus given on the command line, otherwise the one in the study file; empty if neither names one."""
        return str(study.base.get("corpus") or "") if self.corpus is None else self.corpus


def package_folder() -> Path:
    """The folder of the installed remix_study package."""
    return Path(__file__).parents[1]
