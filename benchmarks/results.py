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
    def cipher(self) -> str:
        """What encrypted the data."""
        return next((sample.cipher for sample in self.samples if sample.cipher), "")

    @property
    def peak(self) -> int:
        """The most memory of a run, in bytes."""
        return max((sample.peak_bytes for sample in self.samples), default=0)

    @property
    def cpu(self) -> tuple[float, float]:
        """Processor time of the client's processes and of the host's, in seconds, by medians."""
        good = [sample for sample in self.samples if not sample.fault]
        return (
            statistics.median(sample.cpu_seconds for sample in good),
            statistics.median(sample.host_cpu_seconds for sample in good),
        )

    def data(self) -> dict[str, Any]:
        """Give it for programs."""
        return {
            "name": self.side.name,
            "cipher": self.cipher,
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

    def verdicts(self) -> list[Verdict]:
        """Hold the medians against the goals, each against the best of its peers."""
        found = []
        named = {standing.side.name: standing for standing in self.standings if standing.good}
        for goal in self.work.goals:
            peers = [named[name] for name in goal.peers if name in named]
            if peers and goal.by in named:
                best = min(peers, key=lambda standing: standing.median)
                found.append(Verdict(self, goal, named[goal.by], best))
        return found

    def as_data(self) -> dict[str, Any]:
        """Give it for programs."""
        return {
            "name": self.work.name,
            "title": self.work.title,
            "rtt_seconds": self.work.link.rtt,
            "bytes_per_second": self.work.link.bytes_per_s,
            "prior": self.work.prior,
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
    ours: Standing
    rival: Standing

    @property
    def ratio(self) -> float:
        """The rival's median over ours."""
        return self.rival.median / self.ours.median

    @property
    def ratios(self) -> list[float]:
        """The same round by round."""
        pairs = zip(self.ours.samples, self.rival.samples, strict=False)
        return [peer.seconds / our.seconds for our, peer in pairs if not our.fault + peer.fault]

    @property
    def spread(self) -> str:
        """The least and the largest ratio of a round."""
        return f"{min(self.ratios):.2f}..{max(self.ratios):.2f}" if self.ratios else ""

    @property
    def met(self) -> bool:
        """Whether the medians' ratio reaches the goal."""
        return self.ratio >= self.goal.ratio

    @property
    def verdict(self) -> str:
        """Whether the goal is met by the medians, and in the worst round."""
        if not self.met:
            return "NOT met"
        return "met" if min(self.ratios) >= self.goal.ratio else "met, NOT in the worst round"

    def as_data(self) -> dict[str, Any]:
        """Give it for programs."""
        return {
            "by": self.ours.side.name,
            "rival": self.rival.side.name,
            "goal": self.goal.ratio,
            "ratio": _number(self.ratio),
            "worst_ratio": _number(min(self.ratios, default=float("nan"))),
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
