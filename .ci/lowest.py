"""Print the lower bounds of what the library and its experiments need, as constraints for pip."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
for line in [*project["dependencies"], *extras["embedded"], *extras["experiments"]]:
    if bound := re.match(r"([\w-]+)[>=]=([\w.]+)", line):
        print("==".join(bound.groups()))
