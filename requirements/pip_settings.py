"""Write as shell assignments where Python keeps pip, and a pip.conf's index in uv's variables.

python3 pip_settings.py [PIP_CONF]

uv reads no pip.conf. pip runs out of the wheel that Python has for its environments: to install it
there takes 3 s.
"""

import configparser
import ensurepip
import os
import shlex
import sys
import sysconfig
from pathlib import Path

# A setting of pip's, and the variable of uv's that means the same.
VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
}


def main(pip_conf: str) -> None:
    """Write the assignments.

    Raises:
        SystemExit: pip.conf is not readable as one.
    """
    bundled = Path(ensurepip.__file__).with_name("_bundled")
    folder = Path(sysconfig.get_config_var("WHEEL_PKG_DIR") or bundled)
    found = {"PYTHONPATH": str(max(folder.glob("pip-*.whl")))}
    config = configparser.RawConfigParser()
    try:
        config.read(pip_conf, encoding="utf-8")
    except configparser.Error as error:
        sys.exit(f"pip.conf: {str(error).splitlines()[0]}")
    for section in ("global", "install"):
        for key, value in config.items(section) if config.has_section(section) else ():
            if key.replace("_", "-") in VARIABLES:
                found[VARIABLES[key.replace("_", "-")]] = " ".join(value.split())
    for name, variable in VARIABLES.items():
        named = os.environ.get(f"PIP_{name.upper().replace('-', '_')}")
        if named:
            found[variable] = named
    lines = (f"export {variable}={shlex.quote(value)}\n" for variable, value in found.items())
    sys.stdout.writelines(lines)


if __name__ == "__main__":
    main(sys.argv[1])
