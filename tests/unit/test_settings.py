"""Settings: one order of layers, checked once, each fault one line that says what to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tasks.config_file import load_config
from tasks.fetch.errors import ConfigError
from tasks.resolve import Resolved, resolve
from tasks.settings import FIELDS, MASK, Settings

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
    """Resolve, and give one setting."""
    return getattr(settings_of(text, **more).settings, name)


def refusal(text: str = "", **more: Any) -> str:
    """Resolve what must be refused, and give the error, which is one line."""
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
    settings = settings_of(text, variant="prod", env={"USERNAME": "me"}, overwrite=False).settings
    assert (settings.max_tries, settings.retry_delay, settings.timeout) == (5, 7, 9)
    assert (settings.username, settings.overwrite, settings.keep_archive) == ("me", False, False)


def test_variants_differ_where_the_file_says_so() -> None:
    text = "variants: {dev: {keep_archive: true}, prod: {log_level: WARNING}}"
    dev, prod = settings_of(text).settings, settings_of(text, variant="prod").settings
    assert (dev.keep_archive, dev.log_level, dev.variant) == (True, "INFO", "dev")
    assert (prod.keep_archive, prod.log_level, prod.variant) == (False, "WARNING", "prod")


def test_argument_that_was_not_given_hides_nothing() -> None:
    assert value("max_tries", "common: {max_tries: 5}", max_tries=None) == 5


# --- the environment, and the env file ----------------------------------------------------


def test_env_file_beats_the_surrounding_environment() -> None:
    """USERNAME is a name that desktops export."""
    resolved = settings_of(env={"USERNAME": "desktop"}, env_file="USERNAME=account\n")
    assert resolved.settings.username == "account"
    assert resolved.origins["username"] == "environment (envs/dev.env)"


def test_env_file_is_the_variants_own() -> None:
    Path("envs/prod.env").write_text("USERNAME=full\n")
    assert value("username", env_file="USERNAME=small\n") == "small"
    assert value("username", variant="prod") == "full"


def test_env_file_may_be_named() -> None:
    Path("other.env").write_text("USERNAME=other\n")
    env = {"LIGHTERAGE_ENV_FILE": "other.env"}
    assert value("username", env=env, env_file="USERNAME=account\n") == "other"


def test_empty_name_of_the_env_file_is_none() -> None:
    """In a container the engine has read it; the file beside the code is somebody else's."""
    env = {"LIGHTERAGE_ENV_FILE": "", "USERNAME": "engine"}
    assert value("username", env=env, env_file="USERNAME=account\n") == "engine"


def test_env_file_that_was_named_and_is_not_there_is_refused() -> None:
    assert "no such file" in refusal(env={"LIGHTERAGE_ENV_FILE": "gone.env"})


@pytest.mark.parametrize("line", ["USERNAME=", "USERNAME=\nPASSWORD="])
def test_empty_value_is_not_set(line: str) -> None:
    resolved = settings_of("common: {username: configured}", env_file=line)
    assert resolved.settings.username == "configured"


def test_empty_value_of_the_env_file_hides_the_surrounding_one() -> None:
    assert value("username", env={"USERNAME": "desktop"}, env_file="USERNAME=\n") == ""


def test_env_file_takes_comments_blank_lines_and_values_with_equals_signs() -> None:
    text = "# a comment\n\nPASSWORD=a=b==\nSSH_KEY_FILE=envs/secrets/ssh_key\n#USERNAME=no\n"
    settings = settings_of(env_file=text).settings
    assert settings.password == "a=b=="
    assert settings.ssh_key_file == Path("envs/secrets/ssh_key")
    assert settings.username == ""


def test_env_file_may_hold_what_is_not_ours() -> None:
    assert value("username", env_file="TZ=Europe/Zurich\nHTTPS_PROXY=x\nUSERNAME=me") == "me"


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("USERNMAE=me", "USERNAME"),
        ("REMOTE_HOST=host", "REMOTE_HOST_ADDRESS"),
        ("PASSWORDFILE=x", "PASSWORD_FILE"),
        ("username=me", "USERNAME"),
    ],
)
def test_misspelled_variable_is_met_with_the_nearest(line: str, hint: str) -> None:
    error = refusal(env_file=f"{line}\n")
    assert error.startswith("envs/dev.env: unknown variable " + line.partition("=")[0])
    assert f"did you mean {hint}?" in error


@pytest.mark.parametrize("line", ["HOST_KEYS=known", "TIMEOUT=5", "MAX_MEMBERS=10"])
def test_setting_that_the_environment_does_not_hold_is_refused_there(line: str) -> None:
    """Ignored in silence, the user would take it for set."""
    name = line.partition("=")[0]
    error = refusal(env_file=f"{line}\n")
    assert name in error
    assert f"{name.lower()} in config.yaml" in error


@pytest.mark.parametrize(
    "line",
    ["USERNAME", "USERNAME: zoe", "export USERNAME=zoe", 'USERNAME="zoe"', "USERNAME='zoe'",
     "PASSWORD=zoe$b", "PASSWORD=zoe #b", "PASSWORD=zoe#b", "USERNAME = zoe", "USERNAME= zoe"],
)  # fmt: skip
def test_line_that_readers_take_differently_is_refused(line: str) -> None:
    """docker, compose 1.29 and compose v2 read it in different ways: quotes kept or not, ..."""
    error = refusal(env_file=f"# the account\n{line}\n")
    assert error.startswith("envs/dev.env:2: ")
    assert "zoe" not in error, "a value may be a secret"


def test_env_file_that_is_no_text_is_refused() -> None:
    Path("envs/dev.env").write_bytes(b"USERNAME=\xff\n")
    assert "envs/dev.env:1: byte 0xff is not UTF-8" in refusal()


def test_env_file_that_is_a_folder_is_refused() -> None:
    Path("envs/dev.env").mkdir()
    assert "envs/dev.env: cannot be read" in refusal()


@pytest.mark.parametrize(
    ("variant", "hint"), [("prd", "did you mean prod?"), ("/etc/profile", "dev, prod")]
)
def test_unknown_variant_is_refused(variant: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="LIGHTERAGE_VARIANT") as caught:
        resolve("2", {}, environ={"LIGHTERAGE_VARIANT": variant})
    assert hint in str(caught.value)


def test_variant_that_the_config_file_adds_is_known() -> None:
    assert value("max_tries", "variants: {staging: {max_tries: 7}}", variant="staging") == 7


def test_variant_of_a_task_needs_no_section_of_its_own() -> None:
    text = "tasks: {2: {prod: {max_tries: 7}}}"
    assert value("max_tries", text, variant="prod") == 7
    assert value("max_tries", text) == 3


# --- what a config file may not hold ------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("common: {max_trys: 1}", "common: unknown key max_trys (did you mean max_tries?)"),
        ("variants: {dev: {keep-archive: yes}}", "did you mean keep_archive?"),
        ("tasks: {2: {file_save_pth: x}}", "tasks.2: unknown key file_save_pth (did you mean"),
        ("tasks: {2: {prod: {shedule: x}}}", "tasks.2.prod: unknown key shedule (did you mean"),
        ("tasks: {2: {prd: {schedule: x}}}", "unknown variant prd (did you mean prod?)"),
        ("comon: {}", "unknown section comon (did you mean common?)"),
        ("task: {2: {}}", "unknown section task (did you mean tasks?)"),
        ("max_tries: 1", "unknown section max_tries"),
        ("common: {task: 2}", "unknown key task"),
        ("common: {variant: prod}", "unknown key variant"),
        ("common: {force: true}", "unknown key force"),
        ("common: {config_file: x}", "unknown key config_file"),
        ("common: {1: 2}", "unknown key 1"),
        ("common: 5", "common is 5: expected keys and values"),
        ("common: [a]", "expected keys and values"),
        ("variants: dev", "variants is 'dev': expected keys and values"),
        ("variants: {dev: 1}", "variants.dev is 1: expected keys and values"),
        ("tasks: {2: x}", "tasks.2 is 'x': expected keys and values"),
        ("tasks: {2: {dev: 1}}", "tasks.2.dev is 1: expected keys and values"),
        ("- a\n- b", "expected keys and values"),
        ("just words", "expected keys and values"),
    ],
)
def test_unknown_key_or_shape_is_named_with_its_place(text: str, says: str) -> None:
    error = refusal(text)
    assert error.startswith("config.yaml: ")
    assert says in error


@pytest.mark.parametrize("section", ["common", "variants.dev", "tasks.1", "tasks.2.prod"])
def test_fault_is_found_wherever_it_is(section: str) -> None:
    """A section of another task or variant is checked too: not first when it is used."""
    text = "typo: 1"
    for part in reversed(section.split(".")):
        text = f"{part}: {{{text}}}"
    if section.startswith("tasks"):
        text += "\nvariants: {prod: {}}"
    assert f"{section}: unknown key typo" in refusal(text)


@pytest.mark.parametrize("section", ["common: {%s}", "variants: {dev: {%s}}", "tasks: {2: {%s}}"])
def test_password_in_a_config_file_is_refused_and_not_shown(section: str) -> None:
    error = refusal(section % "password: hunter2")
    assert "PASSWORD_FILE" in error
    assert "hunter2" not in error


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("common:\n  max_tries: 1\n  max_tries: 2\n", 3),
        ("common: {}\ntasks: {}\ncommon: {}\n", 3),
        ("tasks:\n  2: {}\n  '2': {}\n", 3),
        ("tasks:\n  2:\n    dev: {}\n    dev: {}\n", 4),
    ],
)
def test_key_given_twice_is_refused_with_its_line(text: str, line: int) -> None:
    """YAML would keep the last, in silence."""
    error = refusal(text)
    assert error.startswith(f"config.yaml:{line}: ")
    assert "set twice" in error


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("common:\n  max_tries: [1\nvariants: {}\n", 3),
        ("common:\n\tmax_tries: 1\n", 2),
        ("common:\n  a: b: c\n", 2),
        ("common: {}\n---\ncommon: {}\n", 2),
        ("common: *gone\n", 1),
        ("common: !!python/name:os.system x\n", 1),
        ("common: !!map [1]\n", 1),
        ("common: {? [a] : 2}\n", 1),
    ],
)
def test_broken_yaml_is_refused_with_its_line(text: str, line: int) -> None:
    error = refusal(text)
    assert error.startswith(f"config.yaml:{line}: not valid YAML: ")


@pytest.mark.parametrize(
    "text", ["common: {remote_file_path: 2026-13-45}", "common: !!int x", "common: !!timestamp x",
             "common: {max_tries: \x00}", "[" * 5000],
)  # fmt: skip
def test_yaml_that_cannot_be_made_sense_of_is_one_line_too(text: str) -> None:
    assert refusal(text).startswith("config.yaml")


def test_anchors_and_merge_keys_work() -> None:
    text = "common: &base {max_tries: 7}\ntasks: {2: {<<: *base, retry_delay: 9}}"
    settings = settings_of(text).settings
    assert (settings.max_tries, settings.retry_delay) == (7, 9)
    assert settings_of(text).origins["max_tries"] == "config.yaml: tasks.2"


def test_config_file_that_is_no_text_is_refused() -> None:
    Path("x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"x\.yaml: cannot be read"):
        load_config(Path("x.yaml"))


def test_config_file_that_was_named_must_be_there() -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: there is no such config file"):
        resolve("2", {}, config_file=Path("gone.yaml"), environ={})


def test_named_config_file_replaces_the_folders_own() -> None:
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
    settings = resolve("1", arguments, environ={}).settings.require()
    assert settings.remote_file_path == ("a.zip",)
    assert settings.target == Path("out")
    assert settings.host_keys == "known", "the careful choice is the default"


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


def test_schedules_are_those_of_the_variant() -> None:
    text = """
variants: {dev: {}, prod: {}}
tasks:
  1: {schedule: "0 1 * * *"}
  2: {prod: {schedule: "0 2 * * *"}}
  3: {schedule: "0 3 * * *", dev: {schedule: ""}}
"""
    Path("config.yaml").write_text(text)
    config = load_config(None)
    assert config.schedules("dev") == {"1": "0 1 * * *"}
    assert config.schedules("prod") == {"1": "0 1 * * *", "2": "0 2 * * *", "3": "0 3 * * *"}


# --- types --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("max_tries", "5", 5),
        ("max_tries", "'5'", 5),
        ("retry_delay", "0", 0.0),
        ("retry_delay", "2.5", 2.5),
        ("overwrite", "false", False),
        ("overwrite", "off", False),
        ("overwrite", "'no'", False),
        ("overwrite", "'1'", True),
        ("log_level", "debug", "DEBUG"),
        ("host_keys", "accept-new", "accept-new"),
        ("progress", "none", "none"),
        ("max_unpacked_size", "1000", 1000),
        ("max_unpacked_size", "500MB", 500 * 10**6),
        ("max_unpacked_size", "500 mb", 500 * 10**6),
        ("max_unpacked_size", "1k", 1000),
        ("max_unpacked_size", "1KiB", 1024),
        ("max_unpacked_size", "2GiB", 2 * 2**30),
        ("max_unpacked_size", "1.5T", 1_500_000_000_000),
        ("username", "'0123'", "0123"),
        ("remote_file_path", "a b/données.zip", ("a b/données.zip",)),
        ("remote_file_path", "[a.zip, 'b?.zip']", ("a.zip", "b?.zip")),
        ("include", "'*.csv'", ("*.csv",)),
        ("exclude", "[]", ()),
        ("max_rate", "20MB/s", 20_000_000),
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
        ("max_tries", "2.5", "expected a whole number"),
        ("max_tries", "true", "expected a whole number"),
        ("max_tries", "[1]", "expected a whole number"),
        ("max_tries", "", "expected a whole number"),
        ("max_tries", "0", "of at least 1"),
        ("retry_delay", "-1", "a number of at least 0"),
        ("retry_delay", ".inf", "expected a number"),
        ("retry_delay", ".nan", "expected a number"),
        ("retry_delay", "soon", "expected a number"),
        ("timeout", "0", "of at least 0.1"),
        ("overwrite", "maybe", "expected true or false"),
        ("overwrite", "1", "expected true or false"),
        ("overwrite", "2", "expected true or false"),
        ("log_level", "LOUD", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("host_keys", "any", "one of known, accept-new"),
        ("max_unpacked_size", "big", "a size such as 500MB"),
        ("max_unpacked_size", "-1", "a size such as 500MB"),
        ("max_unpacked_size", "1 PB", "a size such as 500MB"),
        ("max_unpacked_size", "0", "of at least 1"),
        ("file_save_path", "[a]", "expected a path"),
        ("file_save_path", "5", "expected a path"),
        ("file_save_path", "~nobody-of-this-name/x", "expected a path"),
        ("known_hosts_file", "''", "expected a path"),
        ("remote_file_path", "{a: b}", "expected text"),
        ("remote_file_path", "[1]", "expected text"),
        ("include", "['']", "expected text"),
        ("on_error", "stop", "one of fail, continue"),
        ("remote_file_path", "2026-01-01", "expected text"),
        ("remote_file_path", '"a\\0b"', "expected text"),
        ("username", "yes", "expected text"),
        # YAML reads 007 as 7, 1.10 as 1.1 and 12:30 as 750: what was written is lost
        ("username", "007", "expected text"),
        ("remote_file_path", "1.10", "expected text"),
        ("remote_host_address", "12:30", "expected text"),
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


def test_secret_of_the_wrong_type_is_not_shown() -> None:
    error = refusal(env={"PASSWORD": "hunter2\0"})
    assert "hunter2" not in error


@pytest.mark.parametrize("name", ["file_save_path", "password_file", "ssh_key_file"])
def test_empty_path_is_none_and_not_this_folder(name: str) -> None:
    assert value(name, f"common: {{{name}: x}}", **{"env": None, name: ""}) is None
    assert value(name, f"common: {{{name}: ''}}") is None


def test_home_folder_is_spelled_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    given: dict[str, Any] = {name: "x" for name in names if name != missing}
    settings = settings_of(**given).settings
    with pytest.raises(ConfigError, match="missing") as caught:
        settings.require()
    assert says in str(caught.value)
    if missing != "remote_host_address":
        given[missing] = ""
        with pytest.raises(ConfigError, match="missing"):
            settings_of(**given).settings.require()


# --- what is shown ------------------------------------------------------------------------


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
    assert "hunter2" not in str(rows)


def test_variant_by_default_says_so() -> None:
    rows = {row[0]: row[1:] for row in resolve("2", {}, environ={}).rows()}
    assert rows["variant"] == ("dev", "default")
    environ = {"LIGHTERAGE_VARIANT": "prod"}
    rows = {row[0]: row[1:] for row in resolve("2", {}, environ=environ).rows()}
    assert rows["variant"] == ("prod", "LIGHTERAGE_VARIANT")


def test_password_is_not_in_the_text_of_the_settings() -> None:
    """A log line or a traceback with the settings in it gives nothing away."""
    assert "hunter2" not in repr(settings_of(env={"PASSWORD": "hunter2"}).settings)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().max_tries = 5  # type: ignore[misc]  # that is what is tested
