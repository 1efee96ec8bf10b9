"""How poses are decoded: the one home of the decoder's settings on the host, with their defaults.

firmware/decoder.py and firmware/posenet.py repeat the defaults, because a board holds only files of firmware/;
a test compares the three.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from common.pose import SCORE_ONE_Q15


@dataclass(frozen=True)
class DecoderOptions:
    """The settings have tfjs PoseNet's names and defaults. Scores are 0…1, distances are in pixels of the field."""

    single: bool = False
    max_poses: int = 5
    score_threshold: float = 0.5
    nms_radius_px: int = 20
    refinement_steps: int = 2
    min_pose_score: float = 0.4
    min_keypoints: int = 4

    @classmethod
    def of_board(cls, threshold_percent: int, max_poses: int) -> DecoderOptions:
        """The options that firmware/posenet.py makes of its settings: its threshold is in whole percent, rounded
        down."""
        threshold_q15 = threshold_percent * SCORE_ONE_Q15 // 100
        return cls(score_threshold=threshold_q15 / SCORE_ONE_Q15, max_poses=max_poses)

    def for_board(self) -> dict[str, Any]:
        """The keywords of firmware/decoder.py's Decoder, which counts scores in 1/32768."""
        return {
            "score_threshold_q15": round(self.score_threshold * SCORE_ONE_Q15),
            "nms_radius_px": self.nms_radius_px,
            "max_poses": self.max_poses,
            "refinement_steps": self.refinement_steps,
            "min_pose_score_q15": int(self.min_pose_score * SCORE_ONE_Q15),
            "min_keypoints": self.min_keypoints,
        }

    def for_reference(self) -> dict[str, Any]:
        """The keywords of model_build.reference_decoder.ReferenceDecoder."""
        return {name: value for name, value in asdict(self).items() if name != "single"}


DEFAULTS = DecoderOptions()
