"""The report: the result of a run, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from tasks.fetch.progress import human
from tasks.fetch.tables.drift import listed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.fetch.errors import LighterageError
    from tasks.fetch.manifest import Manifest
    from tasks.fetch.plan import Plan
    from tasks.fetch.tables.drift import Drift

Status = Literal["landed", "partial", "unchanged", "planned", "shard"]


@dataclass(frozen=True)
class Failed:
    """A remote file that could not be downloaded."""

    path: str
    error: LighterageError

    def data(self) -> dict[str, object]:
        """Return it for programs."""
        error = self.error
        return {
            "path": self.path,
            "kind": error.kind,
            "exit_code": error.exit_code,
            "error": error.text,
            "advice": error.advice,
        }


@dataclass(frozen=True)
class ShardNote:
    """Of a run that has shards: which one this is, and what is missing until it is published."""

    run_id: str
    shard: int
    shards: int
    published: bool
    waiting: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    was_published: bool = False  # before it started

    def line(self) -> str:
        """Return it for people."""
        start = f"run {self.run_id}, shard {self.shard} of {self.shards}: "
        if self.published:
            more = "; start a new run_id for newer data" if self.was_published else ""
            return f"{start}the run is published{more}"
        parts = [
            f"{what} {_some(map(str, numbers))}"
            for what, numbers in (("waits for", self.waiting), ("failed:", self.failed))
            if numbers
        ]
        return f"{start}not published yet: {', '.join(parts)}"


@dataclass(frozen=True)
class Changes:
    """How the published files differ from those that were published before.

    Attributes:
        since: When those were.
        added: Sizes of the files, in bytes; `changed`, `removed` and `unchanged` likewise.
    """

    since: str
    added: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    unchanged: list[int] = field(default_factory=list)

    @classmethod
    def between(cls, before: Manifest, after: Manifest) -> Changes:
        """Compare the files of two manifests, by path and checksum."""
        changes, old = cls(before.finished), {file.path: file for file in before.files}
        for file in after.files:
            known = old.pop(file.path, None)
            if known is None:
                changes.added.append(file.size)
            else:
                is_same = known.sha256 == file.sha256
                (changes.unchanged if is_same else changes.changed).append(file.size)
        changes.removed.extend(file.size for file in old.values())
        return changes

    def line(self) -> str:
        """Return it for people."""
        counts = [
            f"{len(sizes)} {what} ({human(sum(sizes))})" for what, sizes in self._sizes() if sizes
        ]
        return f"files since {self.since}: {', '.join(counts)}"

    def data(self) -> dict[str, object]:
        """Return it for programs."""
        data: dict[str, object] = {"since": self.since}
        for what, sizes in self._sizes():
            data |= {what: len(sizes), f"{what}_bytes": sum(sizes)}
        return data

    def _sizes(self) -> list[tuple[str, list[int]]]:
        names = ("added", "changed", "removed", "unchanged")
        return [(name, getattr(self, name)) for name in names]


@dataclass(frozen=True)
class Report:
    """The result of a run.

    Attributes:
        status: `landed`; `partial` if some files failed and the others landed; `unchanged` if
            nothing had to be done; `planned` of a dry run; `shard` if a shard has landed its part,
            and did not publish the run itself.
        target: The target, as the settings state it.
        manifest: Of the published data; of a dry run, of the data published before.
        plan: What was to be done.
        failed: Remote files that could not be downloaded.
        explanations: The methods that were chosen, and why; empty unless requested.
        seconds: The duration of the run.
        special: How many links and special files the source contains; none is downloaded.
        arrival: What was waited for, or left out as it was not complete.
        after_done: How many sources were removed or moved on the host.
        after_failed: Those that could not be; their data has landed.
        plain_copy: Where the published files are under plain names; empty without publish_layout.
        columns: What has changed in the columns of CSVs.
        shard: Of a run that has shards.
        changes: What landed, compared with what was published before; None at the first time.
    """

    status: Status
    target: str
    manifest: Manifest
    plan: Plan
    failed: list[Failed] = field(default_factory=list)
    explanations: list[str] = field(default_factory=list)
    seconds: float = 0.0
    special: int = 0
    arrival: list[str] = field(default_factory=list)
    after_done: int = 0
    after_failed: list[Failed] = field(default_factory=list)
    plain_copy: str = ""
    columns: list[Drift] = field(default_factory=list)
    shard: ShardNote | None = None
    changes: Changes | None = None

    @property
    def exit_code(self) -> int:
        """0, or the exit code of the first file that failed."""
        failed = [*self.failed, *self.after_failed]
        return failed[0].error.exit_code if failed else 0

    def lines(self) -> list[str]:
        """Return the report for people."""
        return [
            *self._result(),
            *([f"  plain copy: {self.plain_copy}"] if self.plain_copy else []),
            *([f"  {self.shard.line()}"] if self.shard else []),
            *(f"  arrival: {note}" for note in self.arrival),
            *(f"  columns: {text}" for text in listed(self.columns)),
            *([f"  removed or moved on the host: {self.after_done}"] if self.after_done else []),
            *(f"  failed: {failed.error.kind}: {failed.error}" for failed in self.failed),
            *(f"  after: {failed.error.kind}: {failed.error}" for failed in self.after_failed),
            *(f"  chose: {why}" for why in self.explanations),
        ]

    def _result(self) -> list[str]:
        manifest, plan = self.manifest, self.plan
        name = f"task {manifest.task} ({manifest.variant})"
        where = f"{manifest.host}:{manifest.remote_file_path}"
        if self.status == "planned":
            size = human(sum(item.source.size for item in plan.downloads))
            first = f"{name}: would download {_count(len(plan.downloads), 'file')}, {size}, "
            return [f"{first}into {self.target}", f"  source: {where}", *self._planned()]
        size = human(sum(file.size for file in manifest.files))
        data = f"{_count(len(manifest.files), 'file')}, {size}, in {self.target}"
        if self.status == "unchanged":
            return [
                f"{name}: unchanged since {manifest.finished}: {data}",
                f"  source: {where}; --force downloads it again",
                *self._removed(),
            ]
        if self.status == "shard":
            return [f"{name}: landed {_count(len(manifest.files), 'file')}, {size}, of {where}"]
        downloaded = sum(item.source.size for item in plan.downloads)
        how = f"in {self.seconds:.1f} s ({human(downloaded / max(self.seconds, 0.001))}/s)"
        lines = [
            f"{name}: {self.status} {data}",
            f"  source: {where}, {human(downloaded)}, {how}; checked: {self._checked()}",
            *([f"  {self.changes.line()}"] if self.changes else []),
        ]
        if plan.unchanged or plan.removed or len(plan.downloads) > 1:
            counts = ", ".join(f"{count} {what}" for what, count in self._counts().items())
            lines.append(f"  remote files: {counts}")
        lines += self._removed()
        if manifest.archives:
            lines.append(f"  archives kept: {_some(archive.path for archive in manifest.archives)}")
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
        rows += [(old.source.path, "removed", old.source.size) for old in plan.removed]
        lines = [f"  {what:9} {human(size):>10}  {path}" for path, what, size in sorted(rows)]
        if plan.unchanged:
            lines.append(f"  unchanged {len(plan.unchanged)}")
        return lines

    def _checked(self) -> str:
        """Return what the downloaded files were compared with."""
        downloaded = {item.source.path for item in self.plan.downloads}
        ways = {source.verified for source in self.manifest.sources if source.path in downloaded}
        archives = any(item.is_archive for item in self.plan.downloads)
        checked = "size, sha256 of some"
        if len(ways) < 2:
            checked = "size, sha256" if ways == {"sha256"} else "size only"
        return checked + (", archive CRC" if archives else "")

    def _removed(self) -> list[str]:
        if not self.plan.removed:
            return []
        staged = {source.path for source in self.manifest.sources}
        removed = (published.source.path for published in self.plan.removed)
        paths = [path for path in removed if path in staged]
        if not paths:
            return []
        text = "no longer selected on the host, still in the target without --mirror"
        return [f"  {text}: {_some(paths)}"]

    def _counts(self) -> dict[str, int]:
        plan = self.plan
        return {
            "added": len(plan.added),
            "changed": len(plan.changed),
            "removed": len(plan.removed),
            "unchanged": len(plan.unchanged),
        }

    def data(self) -> dict[str, object]:
        """Return the report for programs."""
        manifest, plan = self.manifest, self.plan
        data: dict[str, object] = {
            "status": self.status,
            "exit_code": self.exit_code,
            "task": manifest.task,
            "variant": manifest.variant,
            "target": self.target,
            "files": len(manifest.files),
            "bytes": sum(file.size for file in manifest.files),
            "host": manifest.host,
            "remote_file_path": manifest.remote_file_path,
            "remote_bytes": sum(source.size for source in manifest.sources),
            "fetched_bytes": sum(item.source.size for item in plan.downloads),
            "remote_files": self._counts(),
            "archives": [archive.path for archive in manifest.archives],
            "skipped": manifest.skipped,
            "links_and_special_files": self.special,
            "seconds": round(self.seconds, 3),
        }
        if self.status == "planned":
            data["added"] = [item.source.path for item in plan.added]
            data["changed"] = [item.source.path for item in plan.changed]
            data["removed"] = [old.source.path for old in plan.removed]
        else:
            data["checked"] = self._checked() if plan.downloads else ""
        if self.changes:
            data["changes"] = self.changes.data()
        if self.plain_copy:
            data["plain_copy"] = self.plain_copy
        if self.after_done:
            data["after_done"] = self.after_done
        for key, failures in (("failed", self.failed), ("after_failed", self.after_failed)):
            if failures:
                data[key] = [failure.data() for failure in failures]
        if self.shard:
            data["shard"] = asdict(self.shard)
        if self.arrival:
            data["arrival"] = self.arrival
        if self.columns:
            data["columns"] = [drift.data() for drift in self.columns]
        if self.explanations:
            data["explained"] = self.explanations
        return data


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _some(names: Iterable[str], most: int = 5) -> str:
    """List names, and of many the first few."""
    known = list(names)
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more
