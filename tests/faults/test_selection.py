"""What a run selects: globs, several paths, the good files among broken ones; dry runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import hosts
from client import CSVS, Client, left_over, put, tarred, tree, zipped
from selection import LANDED, TREE, counts, report, sha256

pytestmark = pytest.mark.sshd


# --- globs --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--include=a.csv", "--include=B.CSV"], {"a.csv", "deep/b.csv"}),
        (["--exclude=b.csv", "--exclude=two*"], {"a.csv", "deep/er/c.csv", "zips/p/one.csv"}),
        (["--include=deep/*"], {"deep/b.csv", "deep/er/c.csv"}),
        (["--exclude=zips/*"], TREE.keys()),
        (["--exclude=*.zip"], TREE.keys()),
        (["--include=*.csv", "--include=*.txt"], LANDED.keys() | {"notes.txt"}),
        (["--include=?.csv", "--exclude=deep/*/*"], {"a.csv", "deep/b.csv"}),
    ],
)
def test_globs_select_files(client: Client, home: Path, flags: list[str], names: set[str]) -> None:
    report(client, *flags)
    assert tree(client.target).keys() == names
    assert report(client, *flags)["status"] == "unchanged"


@pytest.mark.parametrize(("task", "path"), [("1", "csv.zip"), ("2", "csv.tar.gz")])
def test_globs_select_members(client: Client, task: str, path: str) -> None:
    client.put({"csv.zip": zipped(CSVS), "csv.tar.gz": tarred(CSVS)})
    report(client, "--include=2026/*", "--exclude=02.csv", task=task, path=path)
    assert tree(client.target).keys() == {"2026/01.csv"}
    done = client.run(task, path, "--include=no*thing")
    assert (done.code, "no*thing" in done.err) == (3, True)
    assert tree(client.target).keys() == {"2026/01.csv"}


def test_config_file_lists_globs_and_paths(client: Client, home: Path) -> None:
    config = client.folder / "mine.yaml"
    config.write_text(
        "tasks:\n  3:\n    remote_file_path:\n"
        f"      - {home / 'tree/deep'}\n      - {home / 'tree/zips'}\n"
        "    include: ['*.csv']\n    exclude: [c.csv, one.*]\n"
    )
    assert client.run("3", None, f"--config-file={config}").code == 0
    assert tree(client.target).keys() == {"deep/b.csv", "zips/two.csv"}


# --- several paths --------------------------------------------------------------------------


def test_archive_whose_name_without_suffix_leads_out_of_the_target_is_refused(
    client: Client,
) -> None:
    client.put({"in/.x.zip": zipped({"a.csv": b"1"}), "in/...zip": zipped({"b.csv": b"2"})})
    done = client.run("1", "in/.*.zip")
    assert (done.code, "leads out" in done.err) == (3, True)
    assert not client.target.exists()
    assert not list(client.target.parent.glob("*.csv"))


def test_each_archive_of_a_glob_lands_in_a_folder_of_its_name(client: Client) -> None:
    one, two = {"a.csv": b"1"}, {"a.csv": b"2"}
    client.put({
        "in/x/2026-01.tar.gz": tarred(one), "in/y/2026-02.tar": tarred(two, "w:"),
        "in/.hidden/2026-03.tar.gz": b"", "in/y/other.txt": b"", "in/file.tar": b"",
    })  # fmt: skip
    assert counts(report(client, task="2", path="in/*/2026-*.tar*")) == (2, 0, 0, 0)
    assert tree(client.target) == {"2026-01/a.csv": b"1", "2026-02/a.csv": b"2"}
    client.put({"in/x/2026-04.tgz": tarred(one), "in/y/2026-05.tar.gz": tarred(one)})
    assert counts(report(client, task="2", path="in/*/2026-*.tar*")) == (1, 0, 0, 2)
    assert tree(client.target).keys() == {f"2026-0{month}/a.csv" for month in (1, 2, 5)}


def test_single_archive_of_a_glob_lands_in_its_own_folder(client: Client) -> None:
    client.put({"one.zip": zipped(CSVS)})
    report(client, task="1", path="o*.zip")
    assert tree(client.target) == {f"one/{name}": content for name, content in CSVS.items()}


def test_each_folder_of_a_list_lands_in_its_own_folder(client: Client, home: Path) -> None:
    more = f"--remote-file-path={home}/tree/zips"
    data = report(client, more, path="tree/deep")
    assert counts(data) == (3, 0, 0, 0)
    assert tree(client.target).keys() == {
        "deep/b.csv", "deep/er/c.csv", "zips/p/one.csv", "zips/two.csv"
    }  # fmt: skip
    assert report(client, more, path="tree/deep")["status"] == "unchanged"


def test_path_named_twice_is_downloaded_once(client: Client, home: Path) -> None:
    data = report(client, f"--remote-file-path={home}/tree/d*", path="tree/deep")
    assert counts(data) == (2, 0, 0, 0)


@pytest.mark.parametrize("path", ["none-*.zip", "*/none.zip", "tree/a.csv/*", "none/*/a.zip"])
def test_glob_without_matches_is_an_error(client: Client, home: Path, path: str) -> None:
    done = client.run("1", path)
    assert (done.code, path in done.err, len(done.err.splitlines())) == (3, True, 1)
    assert not client.target.parent.exists()


@pytest.mark.parametrize(("task", "path"), [("3", "tree"), ("1", "*.zip")])
def test_listing_has_a_limit(client: Client, home: Path, task: str, path: str) -> None:
    put(home, {f"{number}.zip": zipped(CSVS) for number in range(4)})
    done = client.run(task, path, "--max-members=3")
    assert (done.code, "max_members" in done.err) == (3, True)


def test_missing_path_of_a_list_is_an_error(client: Client, home: Path) -> None:
    done = client.run("3", "tree", f"--remote-file-path={home}/missing")
    assert (done.code, "missing" in done.err) == (3, True)


def test_existing_name_with_brackets_is_not_a_glob(client: Client) -> None:
    client.put({"a[1].zip": zipped({"right.csv": b"1"}), "a1.zip": zipped(CSVS)})
    report(client, task="1", path="a[1].zip")
    assert tree(client.target) == {"right.csv": b"1"}
    (client.server.home / "a[1].zip").unlink()
    report(client, "--mirror", task="1", path="a[1].zip")
    assert tree(client.target) == {f"a1/{name}": content for name, content in CSVS.items()}


# --- a broken file among many ----------------------------------------------------------------

BROKEN = zipped({"p/one.csv": b"never seen\n" * 50})[:-25]


def test_on_error_continue_lands_the_other_files(client: Client, home: Path) -> None:
    report(client)
    put(home, {"tree/zips/packed.zip": BROKEN, "tree/zips/new.zip": BROKEN, "tree/a.csv": b"new\n"})
    done = client.run("3", "tree", "--on-error=continue")
    assert done.code == 7, done.err
    assert "partial" in done.out
    assert done.out.count("failed: unsafe or broken archive") == 2
    assert tree(client.target) == {**LANDED, "a.csv": b"new\n"}, "the old data of the broken one"
    data = report(client, "--on-error=continue", code=7)
    assert (data["status"], data["exit_code"], counts(data)) == ("partial", 7, (1, 1, 0, 3))
    assert {Path(failed["path"]).name for failed in data["failed"]} == {"packed.zip", "new.zip"}
    assert {failed["exit_code"] for failed in data["failed"]} == {7}
    put(home, {"tree/zips/packed.zip": zipped({"two.csv": b"repaired\n"})})
    (home / "tree/zips/new.zip").unlink()
    report(client, "--on-error=continue")
    assert tree(client.target) == {**TREE, "a.csv": b"new\n", "zips/two.csv": b"repaired\n"}
    assert left_over(client) == []


def test_on_error_fail_lands_nothing(client: Client, home: Path) -> None:
    report(client)
    put(home, {"tree/zips/broken.zip": BROKEN, "tree/a.csv": b"new\n"})
    data = report(client, code=7)
    assert data["status"] == "failed"
    assert tree(client.target) == LANDED
    assert left_over(client) == []


def test_nothing_lands_if_all_are_broken(client: Client) -> None:
    client.put({"x.zip": BROKEN, "y.zip": BROKEN})
    assert client.run("1", "*.zip", "--on-error=continue").code == 7
    assert not client.target.parent.exists()


def test_on_error_continue_skips_a_file_with_a_wrong_checksum(client: Client, home: Path) -> None:
    put(home, {"tree/zips/packed.zip.sha256": sha256(b"other").encode()})
    data = report(client, "--on-error=continue", code=6)
    assert [Path(failed["path"]).name for failed in data["failed"]] == ["packed.zip"]
    assert tree(client.target) == TREE


def test_on_error_continue_skips_an_unreadable_file(client: Client, home: Path) -> None:
    client.environ["PASSWORD"] = hosts.PASSWORD
    client.options["ssh-key-file"] = None
    put(home, {"tree/b.csv.sha256": b"", "tree/readable.csv": b"r\n"})
    with hosts.host(hosts.Unreadable, client.known_hosts) as address:
        flags = [f"--remote-host-address={address}", "--include=*.csv", "--include=*.sha256"]
        data = report(client, "--on-error=continue", *flags, code=3)
        assert [Path(failed["path"]).name for failed in data["failed"]] == ["b.csv.sha256"]
        assert tree(client.target) == {**LANDED, "readable.csv": b"r\n"}


# --- dry runs and explanations ------------------------------------------------


def everything(folder: Path) -> dict[str, tuple[float, int]]:
    """Return the time and inode of every path in a folder."""
    facts = {str(path): path.lstat() for path in [folder, *folder.rglob("*")]}
    return {path: (fact.st_mtime_ns, fact.st_ino) for path, fact in facts.items()}


def test_dry_run_lists_the_changes_and_makes_none(client: Client, home: Path) -> None:
    before = everything(client.folder)
    done = client.run("3", "tree", "--dry-run")
    assert done.code == 0, done.err
    assert "would download 4 files" in done.out
    for name in ("a.csv", "deep/b.csv", "deep/er/c.csv", "zips/packed.zip"):
        assert f"{home}/tree/{name}" in done.out
    assert everything(client.folder) == before
    report(client)
    (home / "tree/deep/b.csv").unlink()
    put(home, {"tree/a.csv": b"new\n", "tree/new.csv": b"new\n"})
    before = everything(client.folder)
    data = report(client, "--dry-run", "--mirror")
    assert data["status"] == "planned"
    assert [Path(path).name for path in data["added"]] == ["new.csv"]
    assert [Path(path).name for path in data["changed"]] == ["a.csv"]
    assert [Path(path).name for path in data["removed"]] == ["b.csv"]
    assert data["fetched_bytes"] == 8
    assert everything(client.folder) == before
    assert tree(client.target) == LANDED


def test_dry_run_fails_where_a_run_would(client: Client, home: Path) -> None:
    put(client.target, {"mine.txt": b"precious"})
    assert client.run("3", "tree", "--dry-run").code == 8
    assert client.run("3", "missing", "--dry-run", file_save_path="out/other").code == 3


def test_explain_names_the_methods_chosen(client: Client, home: Path) -> None:
    report(client)
    put(home, {"tree/new.csv": b"new\n"})
    done = client.run("3", "tree", "--explain", "--max-rate=50MB/s")
    chosen = [line for line in done.out.splitlines() if line.startswith("  chose: ")]
    for word in ("gcm", "round trip", "50MB/s", "1 to download, 4 unchanged", "verified by"):
        assert any(word in line for line in chosen), word
    assert report(client, "--explain")["explained"]
