"""Settings: the order of layers, and one line for each error, which says what to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from hypothesis import given, settings
from hypothesis import strategies as st

from docker.setup.envfiles import setting_names
from tasks import env_file
from tasks.config_file import load_config
from tasks.fetch.errors import ConfigError
from tasks.resolve import Resolved, resolve
from tasks.settings import ENVIRONMENT, FIELDS, MASK, Settings
from tree import REPOSITORY

LAYERS = [
    "default",
    "common",
    "variants.dev",
    "tasks.2",
    "tasks.2.dev",
    "environment",
    "command line",
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "envs").mkdir()
    return tmp_path


def settings_of(
    text: str = "",
    task: str = "2",
    env: dict[str, str] | None = None,
    env_file: str | None = None,
    variant: str = "dev",
    **arguments: Any,
) -> Resolved:
    """Resolve a task's settings from a config file, an environment and arguments."""
    Path("config.yaml").write_text(text, encoding="utf-8")
    if env_file is not None:
        Path(f"envs/{variant}.env").write_text(env_file, encoding="utf-8")
    return resolve(task, arguments, environ={"LIGHTERAGE_VARIANT": variant, **(env or {})})


def value(name: str, text: str = "", **more: Any) -> Any:
    """Resolve, and return one setting."""
    return getattr(settings_of(text, **more).settings, name)


def refusal(text: str = "", **more: Any) -> str:
    """Resolve what must be refused, and return the error, which is one line."""
    with pytest.raises(ConfigError) as caught:
        settings_of(text, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the order ----------------------------------------------------------------------------


@pytest.mark.parametrize("top", range(len(LAYERS)), ids=LAYERS)
def test_each_layer_beats_those_below_it(top: int) -> None:
    """With the layers up to `top` given, the value is that of `top`, and its origin says so."""
    values = [3, 11, 12, 13, 14, 15, 16]
    given = dict(zip(LAYERS[: top + 1], values, strict=False))

    def line(layer: str, indent: int) -> str:
        return f"{' ' * indent}max_tries: {given[layer]}\n" if layer in given else ""

    text = (
        f"common:\n{line('common', 2)}"
        f"variants:\n  dev:\n{line('variants.dev', 4)}  prod:\n    max_tries: 99\n"
        f"tasks:\n  1:\n    max_tries: 98\n  2:\n{line('tasks.2', 4)}"
        f"    dev:\n{line('tasks.2.dev', 6)}    prod:\n      max_tries: 97\n"
    )
    env = {"MAX_TRIES": str(given["environment"])} if "environment" in given else {}
    arguments = {"max_tries": str(given["command line"])} if "command line" in given else {}
    resolved = settings_of(text, env=env, **arguments)
    assert resolved.settings.max_tries == values[top]
    origin = resolved.origins.get("max_tries", "default")
    assert origin == LAYERS[top] if top in {0, 5, 6} else origin == f"config.yaml: {LAYERS[top]}"


def test_layers_are_joined_setting_by_setting() -> None:
    text = "common: {max_tries: 5}\ntasks: {2: {retry_delay: 7, prod: {timeout: 9}}}"
    found = settings_of(
        text, variant="prod", env={"USERNAME": "me"}, overwrite=False, wait=None
    ).settings
    assert (found.max_tries, found.retry_delay, found.timeout) == (5, 7, 9)
    assert (found.username, found.overwrite, found.wait) == ("me", False, 0)


# --- the environment, and the env file ----------------------------------------------------


@pytest.mark.parametrize(
    ("env_file", "env", "expected"),
    [
        ("USERNAME=account\n", {"USERNAME": "desktop"}, "account"),
        ("USERNAME=\n", {"USERNAME": "desktop"}, "configured"),
        ("TZ=Europe/Zurich\nUSERNAME=a=b==\n", {}, "a=b=="),
        ("# a comment\n\n#USERNAME=no\n", {"USERNAME": "desktop"}, "desktop"),
        ("USERNAME=account\n", {"LIGHTERAGE_ENV_FILE": "other.env"}, "other"),
        # in a container the engine has read it, and a file beside the code is another one's
        ("USERNAME=account\n", {"LIGHTERAGE_ENV_FILE": "", "USERNAME": "engine"}, "engine"),
        ("", {"LIGHTERAGE_VARIANT": "prod"}, "full"),
    ],
)
def test_env_file_of_the_variant_has_priority_over_the_environment(
    env_file: str, env: dict[str, str], expected: str
) -> None:
    Path("other.env").write_text("USERNAME=other\n")
    Path("envs/prod.env").write_text("USERNAME=full\n")
    assert value("username", "common: {username: configured}", env=env, env_file=env_file) == (
        expected
    )


def test_variables_that_are_no_settings_are_for_the_tasks() -> None:
    resolved = settings_of(env_file="TZ=Europe/Zurich\nUSERNAME=me\nHTTPS_PROXY=x\n")
    assert resolved.others == {"TZ": "Europe/Zurich", "HTTPS_PROXY": "x"}
    assert resolved.origins["username"] == "environment (envs/dev.env)"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("USERNMAE=me", "envs/dev.env: unknown variable USERNMAE (did you mean USERNAME?)"),
        ("REMOTE_HOST=host", "did you mean REMOTE_HOST_ADDRESS?"),
        ("username=me", "did you mean USERNAME?"),
        ("HOST_KEYS=known", "HOST_KEYS is not read from the environment: set host_keys in config"),
        ("MAX_MEMBERS=10", "set max_members in config.yaml"),
    ],
)
def test_misspelled_or_unreadable_variable_is_refused(line: str, says: str) -> None:
    assert says in refusal(env_file=f"{line}\n")


@pytest.mark.parametrize(
    "line",
    ["USERNAME", "USERNAME: zoe", "export USERNAME=zoe", 'USERNAME="zoe"', "USERNAME='zoe'",
     "PASSWORD=zoe$b", "PASSWORD=zoe #b", "PASSWORD=zoe#b", "USERNAME = zoe", "USERNAME= zoe"],
)  # fmt: skip
def test_line_that_programs_parse_differently_is_refused(line: str) -> None:
    """docker, compose 1.29 and compose v2 differ in quotes, comments and variables."""
    error = refusal(env_file=f"# the account\n{line}\n")
    assert error.startswith("envs/dev.env:2: ")
    assert "zoe" not in error, "a value may be a secret"


@given(st.text(st.sampled_from("AB=#\"'$\\ \t\r\n\f\u2028:`é") | st.characters(), max_size=30))
@settings(derandomize=True, max_examples=500, deadline=None)
def test_checked_env_file_means_the_same_to_make_and_to_tasks(text: str) -> None:
    """Make has no python-dotenv before .venv exists, and uses the values of the check."""
    path = Path("any.env")
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    try:
        checked = env_file.read(path)
    except ConfigError:
        return
    assert dotenv_values(path, interpolate=False) == checked


def test_env_file_that_cannot_be_read_is_refused() -> None:
    Path("envs/dev.env").write_bytes(b"USERNAME=\xff\n")
    assert "envs/dev.env:1: byte 0xff is not UTF-8" in refusal()
    Path("envs/dev.env").unlink()
    Path("envs/dev.env").mkdir()
    assert "envs/dev.env: cannot be read" in refusal()
    assert "no such file" in refusal(env={"LIGHTERAGE_ENV_FILE": "missing.env"})


@pytest.mark.parametrize(
    ("variant", "hint"), [("prd", "did you mean prod?"), ("/etc/profile", "dev, prod")]
)
def test_unknown_variant_is_refused(variant: str, hint: str) -> None:
    error = refusal(env={"LIGHTERAGE_VARIANT": variant})
    assert error.startswith(f"LIGHTERAGE_VARIANT is {variant}")
    assert hint in error


def test_variant_is_known_by_its_section() -> None:
    text = "variants: {staging: {max_tries: 7}}\ntasks: {2: {prod: {max_tries: 8}}}"
    assert [value("max_tries", text, variant=v) for v in ("staging", "prod", "dev")] == [7, 8, 3]


# --- invalid config files -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("common: {max_trys: 1}", ": common", "unknown key max_trys (did you mean max_tries?)"),
        ("tasks: {2: {file_save_pth: x}}", ": tasks.2", "unknown key file_save_pth (did you mean"),
        ("tasks: {2: {prd: {schedule: x}}}", "", "unknown variant prd (did you mean prod?)"),
        ("comon: {}", "", "unknown section comon (did you mean common?)"),
        ("max_tries: 1", "", "unknown section max_tries"),
        ("common: {task: 2}", "", "unknown key task"),
        ("common: {force: true}", "", "unknown key force"),
        ("common: {1: 2}", "", "unknown key 1"),
        ("common: 5", "", "common is 5: expected keys and values"),
        ("variants: {dev: 1}", "", "variants.dev is 1: expected keys and values"),
        ("tasks: {2: {dev: 1}}", "", "tasks.2.dev is 1: expected keys and values"),
        ("just words", "", "expected keys and values"),
        # also in a section that this run does not use
        ("variants: {prod: {typo: 1}}", ": variants.prod", "unknown key typo"),
        ("tasks: {1: {typo: 1}}", ": tasks.1", "unknown key typo"),
        ("tasks: {2: {prod: {typo: 1}}}", ": tasks.2.prod", "unknown key typo"),
        # a duplicate key, of which YAML would silently use the last
        ("common:\n  max_tries: 1\n  max_tries: 2\n", ":3", "set twice"),
        ("common: {}\ntasks: {}\ncommon: {}\n", ":3", "set twice"),
        ("tasks:\n  2:\n    dev: {}\n    dev: {}\n", ":4", "set twice"),
        ("common:\n  max_tries: [1\nvariants: {}\n", ":3", "not valid YAML"),
        ("common:\n\tmax_tries: 1\n", ":2", "not valid YAML"),
        ("common: {}\n---\ncommon: {}\n", ":2", "not valid YAML"),
        ("common: !!python/name:os.system x\n", ":1", "not valid YAML"),
        ("common: {? [a] : 2}\n", ":1", "not valid YAML"),
        # errors that PyYAML does not wrap
        ("common: {remote_file_path: 2026-13-45}", "", "not valid YAML"),
        ("common: !!int x", "", "not valid YAML"),
        ("common: !!timestamp x", "", "not valid YAML"),
        ("common: {max_tries: \x00}", "", "not valid YAML"),
        ("[" * 5000, "", "not valid YAML"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_invalid_config_file_is_refused_with_the_place(text: str, place: str, says: str) -> None:
    error = refusal(text)
    assert error.startswith(f"config.yaml{place}: ")
    assert says in error


@pytest.mark.parametrize("section", ["common: {%s}", "variants: {dev: {%s}}", "tasks: {2: {%s}}"])
def test_password_in_a_config_file_is_refused_and_not_shown(section: str) -> None:
    error = refusal(section % "password: hunter2")
    assert "PASSWORD_FILE" in error
    assert "hunter2" not in error


def test_anchors_and_merge_keys_work() -> None:
    text = "common: &base {max_tries: 7}\ntasks: {2: {<<: *base, retry_delay: 9}}"
    found = settings_of(text).settings
    assert (found.max_tries, found.retry_delay) == (7, 9)
    assert settings_of(text).origins["max_tries"] == "config.yaml: tasks.2"


def test_config_file_that_cannot_be_read_is_refused() -> None:
    Path("x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"x\.yaml: cannot be read"):
        load_config(Path("x.yaml"))
    with pytest.raises(ConfigError, match=r"missing\.yaml: there is no such config file"):
        load_config(Path("missing.yaml"))


def test_named_config_file_replaces_the_default_one() -> None:
    Path("config.yaml").write_text("common: {max_tries: 7}")
    Path("other.yaml").write_text("common: {retry_delay: 9}")
    resolved = resolve("2", {}, config_file=Path("other.yaml"), environ={})
    assert (resolved.settings.max_tries, resolved.settings.retry_delay) == (3, 9)
    assert resolved.origins["retry_delay"] == "other.yaml: common"


@pytest.mark.parametrize("text", ["", "# nothing\n", "common:\nvariants:\ntasks:\n  2:\n"])
def test_empty_config_file_or_section_is_none(text: str) -> None:
    assert value("max_tries", text) == 3


def test_task_runs_on_arguments_alone() -> None:
    """No config file, no env file."""
    arguments = {"remote_file_path": "a.zip", "file_save_path": "out", "remote_host_address": "h"}
    found = resolve("1", arguments, environ={}).settings.require()
    assert found.remote_file_path == ("a.zip",)
    assert found.target == Path("out")
    assert found.host_keys == "known", "the careful choice is the default"


def test_repositorys_own_config_file_is_valid_and_its_variants_differ() -> None:
    path = Path(__file__).parents[2] / "config.yaml"
    known = {}
    for variant in ("dev", "prod"):
        environ = {"LIGHTERAGE_VARIANT": variant, "REMOTE_HOST_ADDRESS": "h"}
        for task in ("1", "2", "3"):
            known[variant] = resolve(task, {}, config_file=path, environ=environ).settings.require()
    dev, prod = known["dev"], known["prod"]
    assert (dev.log_level, dev.keep_archive, dev.host_keys) == ("DEBUG", True, "accept-new")
    assert (prod.log_level, prod.keep_archive, prod.host_keys) == ("WARNING", False, "known")


# --- types --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("max_tries", "5", 5),
        ("retry_delay", "2.5", 2.5),
        ("overwrite", "off", False),
        ("overwrite", "'1'", True),
        ("log_level", "debug", "DEBUG"),
        ("max_unpacked_size", "500MB", 500 * 10**6),
        ("max_unpacked_size", "500 mb", 500 * 10**6),
        ("max_unpacked_size", "1KiB", 1024),
        ("max_unpacked_size", "1.5T", 1_500_000_000_000),
        ("username", "'0123'", "0123"),
        ("remote_file_path", "a b/données.zip", ("a b/données.zip",)),
        ("remote_file_path", "[a.zip, 'b?.zip']", ("a.zip", "b?.zip")),
        ("exclude", "[]", ()),
        ("max_rate", "20MB/s", 20_000_000),
        ("max_rate", "20MB/s 08:00-18:00", 20_000_000),
        ("max_rate", "'20MB/s 08:00-18:00, 5MB 18:00-24:00, 0 00:00-08:00'", 5_000_000),
        ("max_rate", "0", 0),
        ("exec", "NEVER", "never"),
        ("file_save_path", "data/x", Path("data/x")),
    ],
)
def test_value_becomes_its_type(name: str, text: str, wanted: object) -> None:
    got = value(name, f"common: {{{name}: {text}}}")
    assert got == wanted
    assert not isinstance(wanted, bool | float) or type(got) is type(wanted)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("max_tries", "many", "expected a whole number"),
        ("max_rate", "fast", "expected a rate such as 20MB/s"),
        ("max_rate", "-1", "expected a rate such as 20MB/s"),
        ("max_rate", "20MB/s 8-18", "expected a rate such as 20MB/s"),
        ("max_rate", "20MB/s 08:00-25:00", "expected a rate such as 20MB/s"),
        ("max_rate", "20MB/s 08:00-08:00", "expected a rate such as 20MB/s"),
        ("max_rate", "'20MB/s 08:00-18:00, 5MB/s 17:00-19:00'", "expected a rate such as 20MB/s"),
        ("max_rate", "'20MB/s, 5MB/s'", "expected a rate such as 20MB/s"),
        ("max_tries", "2.5", "expected a whole number"),
        ("max_tries", "true", "expected a whole number"),
        ("max_tries", "0", "of at least 1"),
        ("retry_delay", "-1", "a number of at least 0"),
        ("retry_delay", ".inf", "expected a number"),
        ("retry_delay", ".nan", "expected a number"),
        ("overwrite", "1", "expected true or false"),
        ("log_level", "LOUD", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("max_unpacked_size", "1 PB", "a size such as 500MB"),
        ("max_unpacked_size", "0", "of at least 1"),
        ("file_save_path", "5", "expected a path"),
        ("file_save_path", "~nobody-of-this-name/x", "expected a path"),
        ("known_hosts_file", "''", "expected a path"),
        ("remote_file_path", "[1]", "expected text"),
        ("include", "['']", "expected text"),
        ("remote_file_path", '"a\\0b"', "expected text"),
        # YAML reads 007 as 7, 1.10 as 1.1 and 12:30 as 750: what was written is lost
        ("username", "007", "expected text"),
        ("remote_file_path", "1.10", "expected text"),
    ],
)
def test_wrong_value_is_refused_with_its_place_and_what_was_expected(
    name: str, text: str, says: str
) -> None:
    error = refusal(f"tasks: {{2: {{{name}: {text}}}}}")
    assert error.startswith(f"config.yaml: tasks.2: {name} is ")
    assert says in error


def test_wrong_value_of_the_environment_or_an_argument_names_where_it_is() -> None:
    assert refusal(env={"MAX_TRIES": "x"}) == (
        "environment: max_tries is 'x': expected a whole number of at least 1"
    )
    Path("envs/dev.env").write_text("MAX_TRIES=x\n")
    assert refusal().startswith("environment (envs/dev.env): max_tries is 'x'")
    assert refusal(env={"LIGHTERAGE_ENV_FILE": ""}, max_tries="x").startswith("command line: ")


@pytest.mark.parametrize("name", ["file_save_path", "password_file", "ssh_key_file"])
def test_empty_path_is_none_and_not_this_folder(name: str) -> None:
    assert value(name, f"common: {{{name}: x}}", **{"env": None, name: ""}) is None
    assert value(name, f"common: {{{name}: ''}}") is None


def test_home_folder_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert value("ssh_key_file", env={"SSH_KEY_FILE": "~/.ssh/id"}) == folder / ".ssh/id"


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("remote_file_path", "tasks.2, or pass --remote-file-path"),
        ("file_save_path", "tasks.2, or pass --file-save-path"),
        ("remote_host_address", "envs/dev.env, or pass --remote-host-address"),
    ],
)
def test_missing_value_is_named_with_where_to_set_it(missing: str, says: str) -> None:
    names = ("remote_file_path", "file_save_path", "remote_host_address")
    for empty in (None, ""):
        given: dict[str, Any] = {**dict.fromkeys(names, "x"), missing: empty}
        found = settings_of(**given).settings
        with pytest.raises(ConfigError, match="is missing") as caught:
            found.require()
        assert says in str(caught.value)


# --- make config ------------------------------------------------------------------------


def test_rows_give_each_setting_its_value_and_origin_and_mask_secrets() -> None:
    resolved = settings_of(
        "common: {max_tries: 5}", env_file="PASSWORD=hunter2\nUSERNAME=me\n", overwrite=False
    )
    rows = {name: (shown, origin) for name, shown, origin in resolved.rows()}
    assert set(rows) == set(FIELDS)
    assert rows["max_tries"] == ("5", "config.yaml: common")
    assert rows["username"] == ("me", "environment (envs/dev.env)")
    assert rows["password"] == (MASK, "environment (envs/dev.env)")
    assert rows["overwrite"] == ("False", "command line")
    assert rows["timeout"] == ("30.0", "default")
    assert rows["file_save_path"] == ("", "default")
    assert rows["variant"] == ("dev", "LIGHTERAGE_VARIANT")
    assert ("variant", "dev", "default") in resolve("2", {}, environ={}).rows()
    assert "hunter2" not in str(rows)


def test_secret_is_neither_in_an_error_nor_in_the_text_of_the_settings() -> None:
    assert "hunter2" not in refusal(env={"PASSWORD": "hunter2\0"})
    assert "hunter2" not in repr(settings_of(env={"PASSWORD": "hunter2"}).settings)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().max_tries = 5  # type: ignore[misc]  # that is what is tested


def test_make_reads_the_same_settings_from_the_source() -> None:
    assert setting_names(REPOSITORY) == (set(ENVIRONMENT), set(FIELDS))
