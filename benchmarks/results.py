"""What came out: medians, ratios and spread, held against the goals; and all of it as JSON."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.arena import Sample
    from benchmarks.data import Dataset
    from benchmarks.sides import Side
    from benchmarks.works import Goal, Work


@dataclass
class Standing:
    """A side and its runs of one work, one a round."""

    side: Side
    samples: list[Sample] = field(default_factory=list)

    @property
    def good(self) -> list[float]:
        """Seconds of the runs whose bytes were right."""
        return [sample.seconds for sample in self.samples if not sample.fault]

    @property
    def median(self) -> float:
        """Seconds; not a number where no run was right."""
        return statistics.median(self.good) if self.good else float("nan")

    @property
    def spread(self) -> str:
        """Least and most seconds."""
        return f"{min(self.good):.2f}..{max(self.good):.2f}" if self.good else ""

    @property
    def faults(self) -> list[str]:
        """What went wrong, each once."""
        return list(dict.fromkeys(sample.fault for sample in self.samples if sample.fault))

    @property
    def peak(self) -> int:
        """The most memory of a run, in bytes."""
        return max((sample.peak_bytes for sample in self.samples), default=0)

    def data(self) -> dict[str, Any]:
        """Give it for programs."""
        return {
            "name": self.side.name,
            "cipher": self.side.cipher,
            "median_seconds": _number(self.median),
            "min_seconds": min(self.good, default=None),
            "max_seconds": max(self.good, default=None),
            "peak_bytes": self.peak,
            "samples": [dataclasses.asdict(sample) for sample in self.samples],
        }


@dataclass
class Result:
    """A work and how every side stands in it, the project first."""

    work: Work
    data: Dataset
    standings: list[Standing]

    @property
    def ours(self) -> Standing:
        """The project's."""
        return self.standings[0]

    def ratio(self, standing: Standing) -> float:
        """How many times as long as the project a side takes, by medians."""
        return standing.median / self.ours.median

    def ratios(self, standing: Standing) -> list[float]:
        """Give the same round by round."""
        pairs = zip(self.ours.samples, standing.samples, strict=False)
        return [peer.seconds / our.seconds for our, peer in pairs if not our.fault + peer.fault]

    def rival(self, goal: Goal) -> Standing | None:
        """Give the best of a goal's peers; None where none of them is here."""
        there = [s for s in self.standings if s.side.name in goal.peers and s.good]
        return min(there, key=lambda standing: standing.median, default=None)

    def verdicts(self) -> list[Verdict]:
        """Hold the medians against the goals."""
        found = []
        for goal in self.work.goals:
            rival = self.rival(goal)
            if rival is not None and self.ours.good:
                found.append(Verdict(self, goal, rival))
        return found

    def as_data(self) -> dict[str, Any]:
        """Give it for programs."""
        return {
            "name": self.work.name,
            "title": self.work.title,
            "rtt_seconds": self.work.rtt,
            "account": self.work.account,
            "packed_bytes": self.data.packed,
            "bytes": self.data.size,
            "files": self.data.files,
            "goals": [verdict.as_data() for verdict in self.verdicts()],
            "sides": [
                {**standing.data(), "ratio": _number(self.ratio(standing))}
                for standing in self.standings
            ],
        }


@dataclass(frozen=True)
class Verdict:
    """A goal, and how far it is reached."""

    result: Result
    goal: Goal
    rival: Standing

    @property
    def ratio(self) -> float:
        """The rival's median over ours."""
        return self.result.ratio(self.rival)

    @property
    def spread(self) -> str:
        """The least and the largest ratio of a round."""
        ratios = self.result.ratios(self.rival)
        return f"{min(ratios):.2f}..{max(ratios):.2f}" if ratios else ""

    @property
    def met(self) -> bool:
        """Whether the medians' ratio reaches the goal."""
        return self.ratio >= self.goal.ratio

    def as_data(self) -> dict[str, Any]:
        """Give it for programs."""
        return {
            "against": self.goal.against,
            "rival": self.rival.side.name,
            "goal": self.goal.ratio,
            "ratio": _number(self.ratio),
            "met": self.met,
        }


@dataclass(frozen=True)
class Line:
    """A straight line through points, by least squares, and how well it fits."""

    base: float
    slope: float
    r2: float

    @classmethod
    def through(cls, points: Iterable[tuple[float, float]]) -> Line | None:
        """Fit one; None for fewer than three points."""
        xs, ys = zip(*points, strict=True) if (points := list(points)) else ((), ())
        if len(xs) < 3:
            return None
        fit = statistics.linear_regression(xs, ys)
        r = statistics.correlation(xs, ys) if len(set(ys)) > 1 else 1.0
        return cls(fit.intercept, fit.slope, r * r)

    def at(self, x: float) -> float:
        """Give its height."""
        return self.base + self.slope * x


def _number(value: float) -> float | None:
    """Round; JSON has no NaN."""
    return None if value != value else round(value, 4)  # noqa: PLR0124 (only NaN differs)
