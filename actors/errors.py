"""Errors a user can mend: shown as a message, without a traceback."""

from __future__ import annotations

from rlcore.loops.stop import Interrupted

__all__ = ["USER_ERRORS", "Interrupted"]


def USER_ERRORS() -> tuple[type[Exception], ...]:
    """Imported late, so that `rlcore --help` stays quick."""
    from actors.group import ActorError
    from actors.handles import RolloutStalled
    from actors.judge import JudgeError
    from actors.models import ModelError
    from actors.placement import PlacementError
    from actors.ray_probe import ClusterError
    from actors.restarts import WorkerFailed
    from actors.run_folder import RunFolderError
    from actors.validate import ConfigError
    from rlcore.checkpoint import CheckpointError
    from rlcore.data.sources.readers import DataError
    from rlcore.loops.offline import NothingToTrainOn
    from rlcore.loops.parity import ParityError
    from rlcore.loops.sampling import RewardFailure
    from rlcore.report import ReportError
    from rlcore.rewards import RewardError
    from rlcore.rewards.judge.endpoint import EndpointError
    from rlcore.rewards.scorers import ScorerLate
    from rlcore.rounds.artefact import ArtefactError
    from rlcore.tracking import TrackingError

    return (
        ActorError, ArtefactError, CheckpointError, ClusterError, ConfigError, DataError, EndpointError,
        JudgeError, ModelError, NothingToTrainOn, ParityError, PlacementError, ReportError,
        RewardError, RewardFailure, RolloutStalled, RunFolderError,
        ScorerLate, TrackingError, WorkerFailed,
    )  # fmt: skip
