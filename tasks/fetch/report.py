"""The report: how a run ended, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tasks.fetch.progress import human

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.fetch.errors import LighterageError
    from tasks.fetch.manifest import Manifest
    from tasks.fetch.plan import Plan

Status = Literal["landed", "partial", "unchanged", "planned"]


@dataclass(frozen=True)
class Failed:
    """A remote file that could not be brought while the others were."""

    path: str
    error: LighterageError


@dataclass(frozen=True)
class Report:
    """How a run ended: what is where, and how it got there.

    Attributes:
        status: `landed`; `partial` where some files failed and the others landed; `unchanged`
            where nothing had to be done; `planned` of a dry run.
        target: The folder with the data.
        manifest: What is in it; of a dry run, what was there before.
        plan: What was to be done.
        failed: What could not be brought.
        explained: The ways that were chosen, and why; empty where nobody asked.
        seconds: What the run took.
        special: How many links and special files the host has in the folder; none is fetched.
    """

    status: Status
    target: str
    manifest: Manifest
    plan: Plan
    failed: list[Failed] = field(default_factory=list)
    explained: list[str] = field(default_factory=list)
    seconds: float = 0.0
    special: int = 0

    @property
    def exit_code(self) -> int:
        """0, or that of the first file that failed."""
        return self.failed[0].error.exit_code if self.failed else 0

    def lines(self) -> list[str]:
        """Give the report for people."""
        return [*self._result(), *self._failures(), *(f"  chose: {why}" for why in self.explained)]

    def _result(self) -> list[str]:
        manifest, plan = self.manifest, self.plan
        name = f"task {manifest.task} ({manifest.variant})"
        where = f"{manifest.host}:{manifest.remote_file_path}"
        if self.status == "planned":
            size = human(sum(item.source.size for item in plan.fetched))
            first = f"{name}: would fetch {_count(len(plan.fetched), 'file')}, {size}, "
            return [f"{first}into {self.target}", f"  source: {where}", *self._planned()]
        size = human(sum(file.size for file in manifest.files))
        held = f"{_count(len(manifest.files), 'file')}, {size}, in {self.target}"
        if self.status == "unchanged":
            return [
                f"{name}: unchanged since {manifest.finished}: {held}",
                f"  source: {where}; --force fetches it again",
                *self._left(),
            ]
        packed = human(sum(item.source.size for item in plan.fetched))
        lines = [
            f"{name}: {self.status} {held}",
            f"  source: {where}, {packed}, in {self.seconds:.1f} s; checked: {self._checked()}",
        ]
        if plan.unchanged or plan.removed or len(plan.fetched) > 1:
            counts = ", ".join(f"{count} {what}" for what, count in self._counts().items())
            lines.append(f"  remote files: {counts}")
        lines += self._left()
        if manifest.archives:
            lines.append(f"  kept: {_some(archive.path for archive in manifest.archives)}")
        if manifest.skipped:
            selected = manifest.include + (
                f" without {manifest.exclude}" if manifest.exclude else ""
            )
            lines.append(f"  skipped: {manifest.skipped} not matching {selected}")
        if self.special:
            lines.append(f"  links and special files: {self.special}")
        return lines

    def _planned(self) -> list[str]:
        plan = self.plan
        rows = [(item.source.path, "added", item.source.size) for item in plan.added]
        rows += [(item.source.path, "changed", item.source.size) for item in plan.changed]
        rows += [(kept.source.path, "removed", kept.source.size) for kept in plan.removed]
        lines = [f"  {what:9} {human(size):>10}  {path}" for path, what, size in sorted(rows)]
        if plan.unchanged:
            lines.append(f"  unchanged {len(plan.unchanged)}")
        return lines

    def _checked(self) -> str:
        """Say what the fetched files were compared with."""
        fetched = {item.source.path for item in self.plan.fetched}
        ways = {source.verified for source in self.manifest.sources if source.path in fetched}
        archives = any(item.packed for item in self.plan.fetched)
        told = "size only" if ways <= {"size"} else "size, sha256" if len(ways) == 1 else (
            "size, sha256 of some"
        )  # fmt: skip
        return told + (", archive CRC" if archives else "")

    def _left(self) -> list[str]:
        there = {source.path for source in self.manifest.sources}
        removed = (kept.source.path for kept in self.plan.removed)
        gone = [path for path in removed if path in there]
        if not gone:
            return []
        return [f"  gone from the host, and left here (--mirror removes it): {_some(gone)}"]

    def _failures(self) -> list[str]:
        return [f"  failed: {failed.error.kind}: {failed.error}" for failed in self.failed]

    def _counts(self) -> dict[str, int]:
        plan = self.plan
        return {
            "added": len(plan.added),
            "changed": len(plan.changed),
            "removed": len(plan.removed),
            "unchanged": len(plan.unchanged),
        }

    def data(self) -> dict[str, object]:
        """Give the report for programs."""
        manifest, plan = self.manifest, self.plan
        data: dict[str, object] = {
            "status": self.status,
            "task": manifest.task,
            "variant": manifest.variant,
            "target": self.target,
            "files": len(manifest.files),
            "bytes": sum(file.size for file in manifest.files),
            "host": manifest.host,
            "remote_file_path": manifest.remote_file_path,
            "remote_bytes": sum(source.size for source in manifest.sources),
            "fetched_bytes": sum(item.source.size for item in plan.fetched),
            "remote_files": self._counts(),
            "archives": [archive.path for archive in manifest.archives],
            "skipped": manifest.skipped,
            "links_and_special_files": self.special,
            "seconds": round(self.seconds, 3),
        }
        if self.status == "planned":
            data["added"] = [item.source.path for item in plan.added]
            data["changed"] = [item.source.path for item in plan.changed]
            data["removed"] = [kept.source.path for kept in plan.removed]
        else:
            data["checked"] = self._checked() if plan.fetched else ""
        if self.failed:
            data["exit_code"] = self.exit_code
            data["failed"] = [
                {
                    "path": failed.path,
                    "kind": failed.error.kind,
                    "exit_code": failed.error.exit_code,
                    "error": str(failed.error),
                }
                for failed in self.failed
            ]
        if self.explained:
            data["explained"] = self.explained
        return data


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _some(names: Iterable[str], most: int = 5) -> str:
    """List names, and of many the first few."""
    known = list(names)
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more
